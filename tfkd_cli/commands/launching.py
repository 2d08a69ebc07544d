"""The one door behind `run` and `reproduce`: show the plan, make data ready, start, follow, print."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from tfkd_cli import console
from tfkd_cli import data as data_sets
from tfkd_cli.commands import session
from tfkd_cli.commands.planning import Place
from tfkd_cli.errors import RequestError
from tfkd_cli.options import LaunchOptions
from tfkd_cli.plan import Plan
from tfkd_cli.reproduction import readiness as ready
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher, RunSpec


def prepare(campaign: Campaign, plan: Plan, where: LaunchOptions) -> None:
    """Check the device, and make data and networks ready; RequestError before anything has started."""
    if plan.todo:
        check_place(where)
    make_data_ready(campaign, plan.unfinished, where)
    # Each network that is not ours is built once.
    ready.make_networks_ready(campaign.request, plan.unfinished, accept=accepting(where), say=console.say)
    show_foreign_teacher(campaign, plan.unfinished)


def record(campaign: Campaign) -> None:
    """Keep the request of this command in the results folder."""
    campaign.record(shlex.join(["tfkd", *sys.argv[1:]]))


def launch(campaign: Campaign, plan: Plan, place: Place, *, as_json: bool) -> int:
    """Start what is missing, follow it, print the tables; 0 done, 1 a run failed."""
    from tfkd_cli.commands import showing  # a plan needs none of what starts, follows and prints

    prepare(campaign, plan, place.where)
    record(campaign)
    if plan.todo and place.profile is not None:
        from tfkd_cli.commands import cluster

        return cluster.submit(campaign, plan.todo, place)
    failed = run_here(campaign, plan, place) if plan.todo else False
    showing.show_results(campaign, as_json=as_json)
    return 1 if failed else 0


def make_data_ready(
    campaign: Campaign, runs: Sequence[RunSpec], where: LaunchOptions, *, before_plan: bool = False
) -> None:
    """Decode, and fetch where that is accepted, the data sets of these runs.

    `before_plan`: what is found is not said, since the plan that follows does.
    """
    from tfkd_cli import progress

    ready.make_ready(
        campaign.request,
        runs,
        execution=campaign.execution,
        accept=accepting(where),
        progress=progress.steps(),
        say=(lambda _: None) if before_plan else console.say,
    )


def with_teacher_inputs(campaign: Campaign, where: LaunchOptions) -> Request:
    """The request, its teacher from a file with the usual normalisation that suits it, where none was given.

    This is part of what the runs are, so the data set is decoded before anything is planned. A dry run
    decodes nothing; until that is done, it plans with the data set's own normalisation.
    """
    request, execution = campaign.request, campaign.execution
    teacher, (dataset,) = request.foreign_teacher, request.data.values()
    if teacher is None or teacher.mean is not None:
        return request
    if where.dry_run and not dataset.ready:
        console.say(f"The teacher's normalisation will be chosen when {dataset.facts.called} is decoded.")
        return request
    from tfkd_cli.reproduction import foreign

    make_data_ready(campaign, request.specs, where, before_plan=True)
    chosen, why = foreign.with_usual_inputs(
        teacher, dataset.facts, execution=execution, sources=execution.sources
    )
    console.say(why)
    return replace(request, foreign_teacher=chosen)


def check_place(where: LaunchOptions) -> None:
    """RequestError, before anything has started, when there is no such device, or no SLURM, here."""
    if where.cluster == "local":
        return ready.check_device(where.device, gpus=where.gpus or 1)
    from tfkd_cli.backends.slurm import client

    return client.require()


def show_foreign_teacher(campaign: Campaign, runs: Sequence[RunSpec]) -> None:
    """How the teacher from a file does on each data set of these runs; RequestError when it is no teacher."""
    from tfkd_cli.reproduction import foreign

    for dataset, teacher in dict.fromkeys((spec.dataset, spec.teacher) for spec in runs):
        if isinstance(teacher, ForeignTeacher) and not teacher.published:
            execution = campaign.execution
            console.say("Evaluating the teacher from the file …")
            judged = foreign.judge(teacher, dataset=dataset, execution=execution, sources=execution.sources)
            console.say(judged.sentence)


def check_what_runs_need(campaign: Campaign, runs: Sequence[RunSpec], where: LaunchOptions) -> None:
    """What these runs would find in their first seconds, for a dry run: nothing is written or fetched.

    RequestError for what would stop them. A device that is not here is said: it may be elsewhere.
    """
    unready = ready.unready(campaign.request, runs)
    if unready:
        cache = campaign.execution.cache_path
        session.check_writable(cache, "the cache folder", "--cache-dir DIR (or TFKD_CACHE)")
    for each in campaign.request.data.values():
        used = [spec for spec in runs if spec.dataset == each.name]
        ready.check_corrupt(each.facts, used)
        if used and each.ready:
            data_sets.check_files(each.name, execution=campaign.execution)
    ready.make_networks_ready(campaign.request, runs, accept=None, say=console.say)
    decoded = {each.name for each in campaign.request.data.values() if each.ready}
    show_foreign_teacher(campaign, [spec for spec in runs if spec.dataset in decoded])
    if where.cluster == "local":
        try:
            ready.check_device(where.device, gpus=where.gpus or 1)
        except RequestError as error:
            return console.say(f"Warning: {error.what}")
    if runs and all(each.available for each in unready):
        console.say("Checked: what these runs need is here. Nothing was trained.")
    return None


def run_here(campaign: Campaign, plan: Plan, place: Place) -> bool:
    """Do what is missing on this machine and follow it; whether a run failed."""
    from tfkd_cli import progress
    from tfkd_cli.backends.local import run_local

    assert place.slots is not None
    data = {each.name: each.facts.called for each in campaign.request.data.values()}
    with progress.following(plan, data=data, slots=len(place.slots.environments)) as on_event:
        outcome = run_local(
            plan.todo,
            store=campaign.store,
            execution=campaign.execution,
            slots=place.slots,
            on_event=on_event,
        )
    if outcome.interrupted:
        console.say("Stopped. What was trained is kept; the same command goes on from there.")
        raise KeyboardInterrupt
    for name, words in outcome.reasons.items():
        console.say(f"Failed: {name}")
        for line in words.splitlines():
            console.say(f"  {line.strip()}")
        console.say(f"  `tfkd logs {name}` is its log; the same command tries again.")
    for name in outcome.blocked:
        console.say(f"Blocked by a failed teacher: {name}")
    return bool(outcome.failed or outcome.blocked)


def accepting(where: LaunchOptions) -> Callable[[str], bool]:
    """Whether to fetch something: `--yes`, or asked on a terminal; a script without `--yes` never fetches."""

    def accept(what: str) -> bool:
        if where.yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return where.yes
        import typer

        return typer.confirm(f"Fetch {what} now?", default=False, err=True)

    return accept
