"""`--cluster`, `tfkd cancel`, `tfkd retry`: the commands' side of the SLURM backend."""

from __future__ import annotations

from collections.abc import Sequence

from tfkd_cli import console
from tfkd_cli.backends.slurm import profile as profiles
from tfkd_cli.commands import session
from tfkd_cli.commands.planning import Place
from tfkd_cli.costs import CostModel
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.grid import UNNAMED
from tfkd_cli.options import ExecutionOptions, Item, Run, StoreOptions
from tfkd_cli.plan import Plan, PlannedRun, make_plan
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store


def submit(campaign: Campaign, runs: Sequence[PlannedRun], place: Place) -> int:
    """Hand these runs of a plan to SLURM and return; the cluster does the rest."""
    from tfkd_cli.backends.slurm.submit import submit as send

    assert place.profile is not None
    sent = send(
        runs,
        store=campaign.store,
        execution=campaign.execution,
        profile=place.profile,
        jobs=place.where.jobs,
        on_event=console.say,
    )
    arrays = ", ".join(f"{job} ({count} runs)" for job, count in sent.by_array.items())
    console.say(f"Submitted {sent.runs} runs" + (f", as jobs {arrays}." if arrays else "."))
    if sent.queued:
        console.say(f"{len(sent.queued)} runs were in the queue already.")
    if sent.left_in_plan:
        text = "runs stay in the plan: SLURM takes no more now; the same command sends them later."
        console.say(f"{len(sent.left_in_plan)} {text}")
    if sent.elsewhere:
        text = "runs are left to the process that trains them or their teacher: give the command again later."
        console.say(f"{len(sent.elsewhere)} {text}")
    console.say("Nothing of tfkd stays running here. `tfkd status --watch` follows them.")
    return 0


def show_scripts(campaign: Campaign, plan: Plan, place: Place) -> None:
    """The sbatch scripts that would be sent, to stdout; needs no SLURM."""
    if place.profile is None or not plan.todo:
        return
    from tfkd_cli.backends.slurm.sending import dry_run

    scripts = dry_run(
        plan.todo,
        store=campaign.store,
        execution=campaign.execution,
        profile=place.profile,
        jobs=place.where.jobs,
        on_event=console.say,
    )
    for script in scripts:
        print(script)


def cancel(
    item: Item,
    store: StoreOptions,
) -> int:
    """Take the runs of a table, or one run, out of SLURM's queue; what is trained stays.

    `run` is the newest `tfkd run` without a name, with its teachers.

    Example: tfkd cancel table3
    """
    from tfkd_cli.backends.slurm.submit import cancel as cancel_jobs

    opened = session.open_existing(store, write=True)
    specs = _specs(opened, session.execution(store), item)
    cancelled = cancel_jobs(opened, [spec.folder for spec in specs])
    print(f"Cancelled {cancelled} jobs." if cancelled else f"No run of {item} is in SLURM's queue.")
    return 0


def retry(
    run: Run,
    store: StoreOptions,
    where: ExecutionOptions,
) -> int:
    """Submit a failed run to SLURM again, and let its waiting students wait for the new job.

    Example: tfkd retry 8d4c1185ab12 --cluster slurm
    """
    from tfkd_cli.backends.slurm.submit import submit as send

    opened = session.open_existing(store, write=True)
    profile = profiles.find("slurm" if where.cluster == "local" else where.cluster)
    execution = session.execution(store, where)
    spec = find_run(opened, execution, run)
    if spec.loss.missing is not None:
        raise spec.loss.missing
    plan, execution = _planned(spec, opened, execution)
    runs = [each for each in plan.todo if each.spec in spec.lineage]  # with unfinished teachers of its own
    if spec not in [each.spec for each in runs]:
        raise RequestError(
            f"{spec.folder} is done.", expected="a run without a result.", hint="`tfkd status` shows them."
        )
    sent = send(runs, store=opened, execution=execution, profile=profile, on_event=console.say)
    own = sent.queued.get(spec.folder)
    if not sent.runs:
        why = "SLURM takes no more jobs now"
        if own or sent.elsewhere:
            elsewhere = "another process is at work on it, or on its teacher"
            why = f"it is in SLURM's queue already, as job {own}" if own else elsewhere
        raise RequestError(
            f"{spec.folder} was not submitted: {why}.",
            expected="a run that failed or was cancelled, and a place in the queue.",
            hint="`tfkd status` says what it waits for; `tfkd cancel` takes it out of the queue.",
        )
    what = f"the teacher of {spec.folder} (in the queue already, as job {own})" if own else spec.folder
    print(f"Submitted {what} again, with the profile {profile.name}: job {', '.join(sent.by_array)}.")
    print(f"{sent.repointed} waiting jobs point to it now.")
    return 0


def _planned(spec: RunSpec, opened: Store, execution: Execution) -> tuple[Plan, Execution]:
    """The plan of a request that holds this run, and how its runs execute.

    A plan for the run alone where nothing has asked for it.
    """
    states = opened.scan()
    for campaign in session.campaigns(opened, execution, device="cuda")[0]:
        plan = campaign.plan(states)
        if spec.key in plan.runs:
            return plan, campaign.execution
    return make_plan({spec.folder: [spec]}, states=states, cost=CostModel("cuda")), execution


def find_run(opened: Store, execution: Execution, text: str) -> RunSpec:
    """A run by its key or folder; one that was asked for and never started has no folder yet."""
    try:
        return opened.find(text).spec()
    except RequestError:
        made, _ = session.campaigns(opened, execution)
        asked = session.runs_of(made).values()
        found = [spec for spec in asked if spec.folder == text or (text and spec.key.startswith(text))]
        if len(found) != 1:
            raise
        return found[0]


def _specs(opened: Store, execution: Execution, item: str) -> list[RunSpec]:
    """The runs of a table that was asked for, or one run."""
    made, _ = session.campaigns(opened, execution)
    found = session.names_or_run(item, made, lambda word: find_run(opened, execution, word))
    if isinstance(found, RunSpec):
        return [found]
    chosen = [each for each in made if set(found) & set(each.request.names)]
    if item == UNNAMED:
        del chosen[1:]  # the newest, as in `tfkd show run`: each `tfkd run` is a request of its own
    return list(session.runs_of(chosen, found).values())
