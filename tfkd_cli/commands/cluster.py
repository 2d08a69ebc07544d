"""`--cluster`, `tfkd cancel`, `tfkd retry`: the commands' side of the SLURM backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from tfkd_cli import console
from tfkd_cli.backends.slurm import profile as profiles
from tfkd_cli.commands import session
from tfkd_cli.errors import RequestError
from tfkd_cli.options import ExecutionOptions, StoreOptions, with_options
from tfkd_cli.plan import Plan
from tfkd_cli.reproduction import overview
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.queue import QueueState


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(cancel)
    app.command()(retry)


def check(name: str) -> Profile:
    """The profile; RequestError when there is none of this name, or no SLURM here to send jobs with."""
    from tfkd_cli.backends.slurm import client

    found = profiles.find(name)
    client.require()
    return found


def submit(
    campaign: Campaign,
    plan: Plan,
    runs: Sequence[RunSpec],
    where: ExecutionOptions,
    *,
    profile: Profile | None = None,
) -> int:
    """Hand the missing runs to SLURM and return; the cluster does the rest."""
    from tfkd_cli.backends.slurm.submit import submit as send

    sent = send(
        runs,
        store=campaign.store,
        execution=campaign.execution,
        profile=profile or profiles.find(where.cluster),
        jobs=where.jobs,
        costs=_costs(plan),
        on_event=console.say,
    )
    arrays = ", ".join(f"{job} ({count} runs)" for job, count in sent.arrays)
    console.say(
        f"Submitted {sent.runs} runs in {sent.calls} sbatch calls" + (f": {arrays}." if arrays else ".")
    )
    if sent.already:
        console.say(f"{sent.already} runs were in the queue already.")
    if sent.left_in_plan:
        console.say(f"{len(sent.left_in_plan)} runs are beyond a limit of the site: give the command again.")
    if sent.elsewhere:
        text = "runs are left to the process that trains them or their teacher: give the command again later."
        console.say(f"{len(sent.elsewhere)} {text}")
    console.say("Nothing of tfkd stays running here. `tfkd status --watch` follows them.")
    return 0


def show_scripts(campaign: Campaign, plan: Plan, where: ExecutionOptions) -> None:
    """The sbatch scripts that would be sent, to stdout; needs no SLURM."""
    from tfkd_cli.backends.slurm.sending import dry_run

    scripts = dry_run(
        plan.missing,
        store=campaign.store,
        execution=campaign.execution,
        profile=profiles.find(where.cluster),
        jobs=where.jobs,
        costs=_costs(plan),
        on_event=console.say,
    )
    for script in scripts:
        print(script)


def _costs(plan: Plan) -> dict[str, float]:
    return {key: item.seconds_left_alone for key, item in plan.items.items()}


def queue(store: Store) -> tuple[dict[str, overview.Queued], list[str]]:
    """What SLURM says of this store's runs, by folder, in the words of `tfkd status`; and notes on that."""
    from tfkd_cli.backends.slurm.queue import queue_states

    states = queue_states(store)
    notes = []
    if states.error:
        notes.append(f"{states.error} What SLURM said {states.age_seconds:.0f} s ago is shown.")
    return {folder: _queued(state) for folder, state in states.items()}, notes


def _queued(state: QueueState) -> overview.Queued:
    if state.way_out:
        return overview.Queued(status="blocked", job=state.job_id, reason=state.way_out)
    return overview.queued(state.state, job=state.job_id, reason=state.reason)


@with_options
def cancel(
    item: Annotated[str, typer.Argument(help="A table, or a run's key or folder.")],
    store: StoreOptions,
) -> int:
    """Take the runs of a table, or one run, out of SLURM's queue; what is trained is kept.

    `run` means the newest `tfkd run`, with its teachers.

    Example: tfkd cancel table3
    """
    from tfkd_cli.backends.slurm.cancel import cancel as cancel_jobs

    opened = session.open_store(store, write=True)
    specs = _specs(opened, store, item)
    cancelled = cancel_jobs(opened, [spec.key for spec in specs])
    print(f"Cancelled {cancelled} jobs." if cancelled else "Nothing of that is in the queue.")
    return 0


@with_options
def retry(
    run: Annotated[str, typer.Argument(help="A run's key or folder.")],
    store: StoreOptions,
    where: ExecutionOptions,
) -> int:
    """Submit a failed run again, and point its waiting students to the new attempt.

    Example: tfkd retry 8d4c1185ab12 --cluster slurm
    """
    from tfkd_cli.backends.slurm.submit import retry as submit_again

    opened = session.open_store(store, write=True)
    spec = find_run(opened, store, run)
    profile = check("slurm" if where.cluster == "local" else where.cluster)
    made, _ = session.campaigns(opened, session.execution(store), device="cuda")
    sent = submit_again(
        spec,
        store=opened,
        execution=session.execution(store, where),
        profile=profile,
        costs={key: seconds for each in made for key, seconds in _costs(each.plan()).items()},
        on_event=console.say,
    )
    jobs = ", ".join(job for job, _ in sent.arrays)
    if own := sent.queued.get(spec.folder):
        print(
            f"{spec.folder} was in the queue already, as job {own}; its teacher was submitted again: {jobs}."
        )
    else:
        print(f"Submitted {spec.folder} again: job {jobs}.")
    print(f"{sent.repointed} waiting jobs point to it now.")
    return 0


def find_run(opened: Store, options: StoreOptions, text: str) -> RunSpec:
    """A run by its key or folder; one that was asked for and never started has no folder yet."""
    try:
        return opened.find(text).spec()
    except RequestError:
        made, _ = session.campaigns(opened, session.execution(options))
        asked = {entry.spec for each in made for entry in each.plan().items.values()}
        found = [spec for spec in asked if spec.folder == text or (text and spec.key.startswith(text))]
        if len(found) != 1:
            raise
        return found[0]


def _specs(opened: Store, options: StoreOptions, item: str) -> list[RunSpec]:
    """The runs of a table that was asked for, or one run."""
    from paper_tables.spec import UnknownNameError

    made, _ = session.campaigns(opened, session.execution(options))
    try:
        names = {*session.names_of([item], made)}
    except UnknownNameError:
        return [find_run(opened, options, item)]
    chosen = [each for each in made if names & set(each.request.names)]
    if item == "run":
        del chosen[1:]  # the newest, as in `tfkd show run`: each `tfkd run` is a request of its own
    return [
        entry.spec for each in chosen for entry in each.plan().items.values() if names & set(entry.wanted_by)
    ]
