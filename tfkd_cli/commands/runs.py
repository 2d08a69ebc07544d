"""`tfkd run`, `tfkd reproduce`, `tfkd plan`: settings come from axes or from tables; then one door."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tfkd_cli import console
from tfkd_cli.commands import launching, session
from tfkd_cli.execution import Execution
from tfkd_cli.options import (
    ExecutionOptions,
    FolderOptions,
    JsonOption,
    RunOptions,
    StoreOptions,
    with_options,
)
from tfkd_cli.reproduction import asking
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request

Seeds = Annotated[
    str,
    typer.Option("--seeds", help="A count (3 is 0, 1, 2), a range (0-4; 7-7 is seed 7) or a list (7,9)."),
]


TableSeeds = Annotated[
    str | None,
    typer.Option("--seeds", help="As in `tfkd run`. [default: as many as the tables say, mostly 3]"),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(run)
    app.command()(reproduce)
    app.command()(plan)


@with_options
def run(
    student: Annotated[str, typer.Option("--student", help="One network, or several: A,B.")],
    method: Annotated[str, typer.Option("--method", help="`tfkd list methods`, or python:MODULE:CLASS.")],
    store: StoreOptions,
    how: RunOptions,
    where: ExecutionOptions,
    folder: FolderOptions,
    output: JsonOption,
    teacher: Annotated[str | None, typer.Option("--teacher", help="For kd, re-kd, de-kd.")] = None,
    teacher_checkpoint: Annotated[
        Path | None,
        typer.Option("--teacher-checkpoint", help="The teacher's weights, a file of any code base."),
    ] = None,
    teacher_epoch: Annotated[
        int | None, typer.Option("--teacher-epoch", help="Taught by this epoch of the teacher's run.", min=1)
    ] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", help="`tfkd list datasets`, or folder:PATH.")
    ] = "cifar100",
    seeds: Seeds = "1",
) -> int:
    """One run or a grid, teachers included; the same command again resumes.

    Example: tfkd run --student resnet8 --method kd,tf-self --teacher resnet20 --dataset digits --epochs 5
    """
    axes = asking.axes_of(
        dataset=dataset,
        students=session.split(student),
        methods=session.split(method),
        teachers=session.split(teacher),
        teacher_epochs=(teacher_epoch,) if teacher_epoch is not None else (),
        finetune=how.recipe is not None,
    )
    given = session.foreign_teacher(teacher_checkpoint, axes)
    sources = {given.digest: str(teacher_checkpoint.resolve())} if given and teacher_checkpoint else {}
    execution = session.execution(store, where, folder, sources=sources)
    bare = session.bare_request(how, seeds, axes.methods)
    request = asking.for_axes(axes, bare, execution=execution, foreign=given)
    return _go(request, execution, store, where, output)


@with_options
def reproduce(
    items: Annotated[list[str], typer.Argument(help="Tables and figures, `all`, or `demo`.")],
    store: StoreOptions,
    how: RunOptions,
    where: ExecutionOptions,
    output: JsonOption,
    seeds: TableSeeds = None,
) -> int:
    """What the named tables and figures still need; then prints them.

    Example: tfkd reproduce demo

    Example: tfkd reproduce table1 table9 --cluster slurm --jobs 40
    """
    return _reproduce(items, store, how, where, output, seeds)


@with_options
def plan(
    items: Annotated[list[str], typer.Argument(help="Tables and figures, or `all`.")],
    store: StoreOptions,
    how: RunOptions,
    where: ExecutionOptions,
    output: JsonOption,
    seeds: TableSeeds = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First time 50 steps per network and data set here.")
    ] = False,
) -> int:
    """Exactly `reproduce --dry-run`: runs wanted, shared, done, to do, and what they cost.

    Example: tfkd plan all --seeds 3 --json
    """
    return _reproduce(items, store, how, replace(where, dry_run=True), output, seeds, calibrate=calibrate)


def _reproduce(
    items: list[str],
    store: StoreOptions,
    how: RunOptions,
    where: ExecutionOptions,
    output: JsonOption,
    seeds: str | None,
    *,
    calibrate: bool = False,
) -> int:
    execution = session.execution(store, where)
    bare = session.bare_request(how, seeds or asking.usual_seeds(items))
    request = asking.for_names(items, bare, execution=execution)
    return _go(request, execution, store, where, output, calibrate=calibrate)


def _go(
    request: Request,
    execution: Execution,
    store: StoreOptions,
    where: ExecutionOptions,
    output: JsonOption,
    *,
    calibrate: bool = False,
) -> int:
    profile = launching.profile_of(where)  # a wrong one is refused before anything is shown or written
    if not where.dry_run:
        session.check_writable(store.results)
    specs = [spec for specs in request.wanted.values() for spec in specs]
    place = launching.place_of(where, profile, specs, execution)
    campaign = Campaign(
        request,
        session.open_store(store, write=False),
        execution,
        device=launching.cost_device(where),
        threads=place.threads,
        processes_of=place.processes_of,
        calibrated=launching.calibrated(request, execution, where, calibrate=calibrate),
    )
    made = campaign.plan()
    if output.json and where.dry_run:
        at_once = place.runs_at_once(made)
        costs = {
            "device": campaign.device,  # whose hours `gpu_hours` are
            "runs_at_once": at_once,
            "wall_hours": round(made.wall_seconds(at_once) / 3600, 4),
        }
        console.print_json({"seeds": list(request.seeds), **costs, **made.to_json()})
        return 0
    launching.show_plan(campaign, made, place, to_stdout=where.dry_run)
    if where.dry_run:
        if profile is not None:
            from tfkd_cli.commands import cluster

            cluster.show_scripts(campaign, made, place)
        return 0
    return launching.launch(campaign, made, place, as_json=output.json)
