"""`tfkd compare`: does Tf-KD help on your data, with your network? One table and one sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import typer

from tfkd_cli import console
from tfkd_cli.commands import launching, planning, readiness, session, showing
from tfkd_cli.compare.comparison import UNTAUGHT, Comparison, Stage, comparison_request
from tfkd_cli.compare.trials import tried
from tfkd_cli.execution import Execution
from tfkd_cli.methods import all_methods, called
from tfkd_cli.options import (
    WHAT,
    Dataset,
    FolderOptions,
    JsonOption,
    LaunchOptions,
    RunOptions,
    Seeds,
    StoreOptions,
    Student,
    TeacherOptions,
    Teachers,
    completing,
)
from tfkd_cli.plan import Plan
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.store import Store

MoreMethods = Annotated[
    str | None,
    typer.Option(
        "--method", help="More methods to compare, A,B; --teacher adds kd.", metavar="METHOD",
        rich_help_panel=WHAT, autocompletion=completing(all_methods),
    ),
]  # fmt: skip
Trials = Annotated[
    int,
    typer.Option(
        "--trials", help="Trials on the validation part, as many for every method.", metavar="N",
        rich_help_panel=WHAT,
    ),
]  # fmt: skip


def compare(
    dataset: Dataset,
    student: Student,
    store: StoreOptions,
    how: RunOptions,
    where: LaunchOptions,
    folder: FolderOptions,
    output: JsonOption,
    teacher_file: TeacherOptions,
    teacher: Teachers = None,
    method: MoreMethods = None,
    seeds: Seeds = "5",
    trials: Trials = 3,
) -> int:
    """Compare label smoothing and Tf-KD on your own images: equal trials, several seeds, one answer.

    Example: tfkd compare --dataset folder:photos --student resnet8
    """
    axes = requests.axes_of(
        dataset=dataset,
        students=[student],
        methods=(*UNTAUGHT, *(["kd"] if teacher else []), *session.split(method)),
        teachers=[teacher] if teacher else [],
        finetune=how.recipe is not None,
    )
    bare = session.bare_request(how, seeds, axes.methods)
    given, sources = session.foreign_teacher(teacher_file, axes)
    execution = session.execution(store, where, folder, sources=sources)
    session.check_writable(store.results)
    opened = session.open_store(store, write=False)

    def grid() -> Campaign:  # the methods with the data as it is here and now
        request = requests.for_axes(axes, bare, execution=execution, foreign=given)
        return Campaign(request, opened, execution)

    if not where.dry_run:
        _make_ready(grid(), where, trials=trials)
    request = comparison_request(launching.with_teacher_inputs(grid(), where), trials=trials)
    return _compare(Comparison(request), opened, execution, where, output)


def _make_ready(grid: Campaign, where: LaunchOptions, *, trials: int) -> None:
    """Decode the data before anything is planned: only then is it known whether there is a validation part.

    RequestError before that where nothing can be compared.
    """
    first = Comparison(comparison_request(grid.request, trials=trials)).stages({})[0]
    readiness.check_place(where)
    readiness.make_data_ready(replace(grid, request=first.request), first.runs, where, before_plan=True)


def _compare(
    comparison: Comparison, store: Store, execution: Execution, where: LaunchOptions, output: JsonOption
) -> int:
    """Show the plan of all stages, do them, print the answer and write the report.

    While a choice is open its default stands in: as many runs, and the same threads for each of them.
    """
    states = store.scan()
    stages = comparison.stages(states)
    place = planning.Place.of(where, [spec for stage in stages for spec in stage.runs], execution)

    def campaign(request: Request) -> Campaign:
        return place.campaign(request, store, execution)

    whole = campaign(stages[-1].request)
    plan = whole.plan(states, wanted={stage.name: stage.runs for stage in stages})
    more = _lines(comparison, whole.request, plan)
    if where.dry_run:
        planning.dry_run(whole, plan, place, as_json=output.json, more=more)
        return 0
    planning.show_plan(whole, plan, place, more=more)
    launching.prepare(whole, plan, where)
    launching.record(campaign(comparison.request))
    for number in range(len(stages)):
        ended = _do_stage(number, comparison.stages(store.scan()), campaign, place)
        if ended is not None:
            return ended
    showing.show_results(campaign(comparison.full_request(store.scan())), as_json=output.json)
    return 0


def _do_stage(
    number: int, stages: Sequence[Stage], campaign: Callable[[Request], Campaign], place: planning.Place
) -> int | None:
    """Train what is missing of a stage; an exit code when the rest has to wait, else None."""
    made = campaign(stages[number].request)
    plan = made.plan()
    if not plan.todo:
        return None
    count = len(plan.todo)
    of = f"Stage {number + 1} of {len(stages)}"
    console.say(f"{of}, {stages[number].name}: {count} run{'s' * (count > 1)}.")
    if place.profile is not None:
        from tfkd_cli.commands import cluster

        code = cluster.submit(made, plan.todo, place)
        console.say("When these runs are done, the same command goes on from there.")
        return code
    return 1 if launching.run_here(made, plan, place) else None


def _lines(comparison: Comparison, request: Request, plan: Plan) -> list[str]:
    """What a plan says of a comparison: its trials, what is held out, and whether it is long enough."""
    tries = "; ".join(f"{called(each)} its {tried(each)}" for each in comparison.methods)
    count = comparison.compared.trials
    lines = [
        f"{count} validation trial{'s' * (count > 1)} for every method ({tries}). The learning rate that is "
        "best for the baseline serves all."
    ]
    if holdout := request.runs(request.tables[0])[0].recipe.holdout:
        lines.append(f"No validation part: {holdout:.0%} of the training images are held out for it.")
    if plan.unfinished and (warning := comparison.too_short()):
        lines.append(f"Warning: {warning}")
    return lines
