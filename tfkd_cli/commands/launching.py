"""The one door behind `run` and `reproduce`: show the plan, make data ready, start, follow, print."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace

from tfkd_cli import console
from tfkd_cli.commands import readiness as ready
from tfkd_cli.commands.planning import Place
from tfkd_cli.options import LaunchOptions
from tfkd_cli.plan import Plan
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request


def prepare(campaign: Campaign, plan: Plan, where: LaunchOptions) -> None:
    """Check the device, and make data and networks ready; RequestError before anything has started."""
    if plan.todo:
        ready.check_place(where)
    ready.make_data_ready(campaign, plan.unfinished, where)
    ready.make_networks_ready(campaign, plan.unfinished, where)
    ready.show_foreign_teacher(campaign, plan.unfinished)


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

    ready.make_data_ready(campaign, request.specs, where, before_plan=True)
    chosen, why = foreign.with_usual_inputs(teacher, dataset.facts, execution=execution)
    console.say(why)
    return replace(request, foreign_teacher=chosen)


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
        again = "" if "Hint:" in words else "; the same command tries again"
        console.say(f"  `tfkd logs {name}` is its log{again}.")
    for name in outcome.blocked:
        console.say(f"Blocked by a failed teacher: {name}")
    return bool(outcome.failed or outcome.blocked)
