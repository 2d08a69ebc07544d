"""`tfkd run`, `tfkd reproduce`, `tfkd plan`: settings come from axes or from tables."""

from __future__ import annotations

from typing import Annotated

import typer

from tfkd_cli import console, grid
from tfkd_cli.commands import grid_file, launching, planning, session
from tfkd_cli.execution import Execution
from tfkd_cli.options import (
    WHAT,
    Dataset,
    ExecutionOptions,
    FolderOptions,
    Items,
    JsonOption,
    LaunchOptions,
    Methods,
    RunOptions,
    Seeds,
    StoreOptions,
    Student,
    TeacherOptions,
    Teachers,
)
from tfkd_cli.reproduction import calibration, requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request

TeacherEpoch = Annotated[
    int | None,
    typer.Option(
        "--teacher-epoch",
        help="The epoch of the teacher's run that teaches: of 200 epochs, 1, 10, 20, 35, 50, 80, 120 and 160 "
        "are saved. [default: its best; of de-kd 1]",
        metavar="N", min=1, rich_help_panel=WHAT,
    ),
]  # fmt: skip
GridName = Annotated[
    str,
    typer.Option(
        "--name", help="A name for this grid, which show, status, report and cancel accept.",
        metavar="NAME", rich_help_panel=WHAT,
    ),
]  # fmt: skip
TableSeeds = Annotated[
    str | None,
    typer.Option(
        "--seeds", help="As in `tfkd run`. [default: as many as the tables say, mostly 3]",
        metavar="SEEDS", rich_help_panel=WHAT,
    ),
]  # fmt: skip


def run(
    context: typer.Context,
    student: Student,
    method: Methods,
    store: StoreOptions,
    how: RunOptions,
    where: LaunchOptions,
    folder: FolderOptions,
    output: JsonOption,
    teacher_file: TeacherOptions,
    teacher: Teachers = None,
    teacher_epoch: TeacherEpoch = None,
    dataset: Dataset = "cifar100",
    seeds: Seeds = "1",
    name: GridName = grid.UNNAMED,
    from_file: grid_file.FromFile = None,
) -> int:
    """Train one run or a grid of runs, with the teachers they need; the same command again resumes.

    Example: tfkd run --student resnet8 --method tf-reg,tf-self --dataset digits
    """
    axes = requests.axes_of(
        dataset=dataset,
        students=session.split(student),
        methods=session.split(method),
        teachers=session.split(teacher),
        teacher_epochs=(teacher_epoch,) if teacher_epoch is not None else (),
        finetune=how.recipe is not None,
        name=name,
    )
    given, sources = session.foreign_teacher(teacher_file, axes)
    execution = session.execution(store, where, folder, sources=sources)
    bare = session.bare_request(how, seeds, axes.methods)
    request = requests.for_axes(axes, bare, execution=execution, foreign=given)
    session.check_writable(store.results)
    campaign = Campaign(request, session.open_store(store, write=False), execution)
    session.check_name(campaign)
    request = launching.with_teacher_inputs(campaign, where)
    return _go(request, execution, store, where, output, repeating=grid_file.repeating(context))


def reproduce(
    items: Items,
    store: StoreOptions,
    how: RunOptions,
    where: LaunchOptions,
    output: JsonOption,
    seeds: TableSeeds = None,
) -> int:
    """Train what tables and figures still need, then print them.

    Example: tfkd reproduce demo

    Example: tfkd reproduce table1 table9 --cluster slurm --jobs 40
    """
    request, execution = _of_tables(items, store, how, where, seeds)
    return _go(request, execution, store, where, output)


def plan(
    items: Items,
    store: StoreOptions,
    how: RunOptions,
    where: ExecutionOptions,
    output: JsonOption,
    seeds: TableSeeds = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="First time 50 steps of each network and data set on this machine."),
    ] = False,
) -> int:
    """Show which runs `reproduce` would train and what they cost, as `reproduce --dry-run` does.

    Example: tfkd plan all --seeds 3 --json
    """
    dry = LaunchOptions(**vars(where), dry_run=True)
    request, execution = _of_tables(items, store, how, dry, seeds)
    if calibrate:
        device = planning.Place.of(dry, request.specs, execution).device
        calibration.calibrate(request, execution=execution, device=device, say=console.say)
    return _go(request, execution, store, dry, output)


def _of_tables(
    items: list[str], store: StoreOptions, how: RunOptions, where: LaunchOptions, seeds: str | None
) -> tuple[Request, Execution]:
    execution = session.execution(store, where)
    bare = session.bare_request(how, seeds or requests.usual_seeds(items))
    return requests.for_names(items, bare, execution=execution), execution


def _go(
    request: Request,
    execution: Execution,
    store: StoreOptions,
    where: LaunchOptions,
    output: JsonOption,
    *,
    repeating: str = "",
) -> int:
    place = planning.Place.of(where, request.specs, execution)
    if not (where.dry_run and store.results.is_file()):  # a pack can be planned from
        session.check_writable(store.results)
    opened = session.open_store(store, write=False)
    campaign = place.campaign(request, opened, execution, repeating=repeating)
    made = campaign.plan()
    if where.dry_run:
        planning.dry_run(campaign, made, place, as_json=output.json)
        return 0
    planning.show_plan(campaign, made, place)
    return launching.launch(campaign, made, place, as_json=output.json)
