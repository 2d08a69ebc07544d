"""`tfkd compare`: does Tf-KD help on your data, with your network? One table and one sentence."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkd_cli import console, progress, results
from tfkd_cli.commands import launching, session
from tfkd_cli.execution import Execution
from tfkd_cli.grid import Axes
from tfkd_cli.options import (
    ExecutionOptions,
    FolderOptions,
    JsonOption,
    RunOptions,
    StoreOptions,
    with_options,
)
from tfkd_cli.plan import Plan, make_plan
from tfkd_cli.reproduction import asking
from tfkd_cli.reproduction import launch as ready
from tfkd_cli.reproduction.answer import Answer, Line, answer
from tfkd_cli.reproduction.campaign import Campaign, progress_of
from tfkd_cli.reproduction.comparing import UNTAUGHT, Comparing, Stage
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.reproduction.trials import tried
from tfkd_cli.spec import ForeignTeacher, RunSpec
from tfkd_cli.store import Store

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile

Trials = Annotated[int, typer.Option("--trials", help="Validation trials, the same number for every method.")]


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(compare)


@with_options
def compare(
    dataset: Annotated[
        str, typer.Option("--dataset", help="folder:PATH, torchvision:NAME, or `tfkd list datasets`.")
    ],
    student: Annotated[str, typer.Option("--student", help="One network: `tfkd list models`.")],
    store: StoreOptions,
    how: RunOptions,
    where: ExecutionOptions,
    folder: FolderOptions,
    output: JsonOption,
    teacher: Annotated[str | None, typer.Option("--teacher", help="Adds kd to the comparison.")] = None,
    teacher_checkpoint: Annotated[
        Path | None,
        typer.Option("--teacher-checkpoint", help="The teacher's weights, a file of any code base."),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="As in `tfkd run`.")] = "5",
    trials: Trials = 3,
) -> int:
    """Does Tf-KD help here? Trials on a validation part, then every method with every seed: one answer.

    Example: tfkd compare --dataset folder:photos --student torchvision:mobilenet_v3_small --epochs 2
    """
    axes = asking.axes_of(
        dataset=dataset,
        students=[student],
        methods=(*UNTAUGHT, "kd") if teacher else UNTAUGHT,
        teachers=[teacher] if teacher else [],
        finetune=how.recipe is not None,
    )
    foreign = session.foreign_teacher(teacher_checkpoint, axes)
    ask = partial(_ask, axes, session.bare_request(how, seeds), foreign=foreign, trials=trials)
    sources = {foreign.digest: str(teacher_checkpoint.resolve())} if foreign and teacher_checkpoint else {}
    execution = session.execution(store, where, folder, sources=sources)
    profile = launching.profile_of(where)
    opened = session.open_store(store, write=False)
    if not where.dry_run:
        session.check_writable(store.results)
        launching.check_place(where)
        _make_data_ready(ask(execution=execution), opened, execution, where)
    return _Work(ask(execution=execution), opened, execution, where, profile).do(output)


def _ask(
    axes: Axes, bare: Request, *, foreign: ForeignTeacher | None, trials: int, execution: Execution
) -> Comparing:
    """What is to be compared, with the data as it is here and now."""
    asked = asking.for_axes(axes, bare, execution=execution, foreign=foreign)
    return Comparing(
        asked=replace(asked, tables=(), axes=None),
        dataset=axes.dataset,
        student=axes.students[0],
        teacher=axes.teachers[0] if axes.teachers else None,
        trials=trials,
    )


def _make_data_ready(
    comparing: Comparing, store: Store, execution: Execution, where: ExecutionOptions
) -> None:
    """Decoded before anything is planned: only then is it known whether there is a validation part."""
    stage = comparing.stages({})[0]
    ready.make_ready(
        stage.request,
        stage.runs,
        execution=Campaign(stage.request, store, execution).execution,
        accept_download=lambda each: launching.accept_download(each, yes=where.yes),
        progress=progress.steps(),
    )


class _Work:
    """A comparison over one store."""

    def __init__(
        self,
        comparing: Comparing,
        store: Store,
        execution: Execution,
        where: ExecutionOptions,
        profile: Profile | None,
    ) -> None:
        self.comparing, self.store, self.where = comparing, store, where
        self.device = launching.cost_device(where)
        self.execution = execution
        self.plan = self._whole_plan()
        specs = [run.spec for run in self.plan.runs.values()]
        # The same runs at once, and the same threads for each, through all stages.
        self.place = launching.place_of(where, profile, specs, execution)

    def do(self, output: JsonOption) -> int:
        """Show the plan, do the stages, print the answer."""
        plan = self.plan
        if self.where.dry_run and output.json:
            console.print_json({"seeds": list(self.comparing.asked.seeds), **plan.to_json()})
            return 0
        self._show(plan)
        if self.where.dry_run:
            return 0
        if plan.missing:
            campaign = self._campaign(self._stages()[-1].request)
            launching.try_networks(campaign.request, plan.missing, self.where)
            launching.show_foreign_teacher(campaign, _taught(plan))
        for number in range(len(self._stages())):
            ended = self._do_stage(self._stages()[number])
            if ended is not None:
                return ended
        facts = self.comparing.asked.data[self.comparing.dataset].facts
        found = answer(
            self.comparing,
            self.store.scan(),
            results.runs_frame(results.read(self.store).values()),
            test_images=facts.test_images,
            classes=facts.classes,
        )
        if output.json:
            console.print_json(found.to_json())
        else:
            show_answer(found)
        return 0 if len(found.lines) == len(self.comparing.methods) else 1

    def _do_stage(self, stage: Stage) -> int | None:
        """Train what is missing; an exit code when the rest has to wait, else None."""
        campaign = self._campaign(stage.request)
        plan = campaign.plan()
        campaign.record(shlex.join(["tfkd", *sys.argv[1:]]))
        if not plan.missing:
            return None
        count = len(plan.missing)
        console.say(f"Now {stage.name}: {count} run{'s' * (count > 1)}.")
        if self.where.cluster != "local":
            from tfkd_cli.commands import cluster

            code = cluster.submit(campaign, plan.todo, self.place)
            console.say("When these runs are done, the same command goes on from there.")
            return code
        return 1 if launching.run_here(campaign, plan, plan.todo, self.place) else None

    def _stages(self) -> tuple[Stage, ...]:
        return self.comparing.stages(self.store.scan())

    def _campaign(self, request: Request) -> Campaign:
        return Campaign(request, self.store, self.execution, device=self.device)

    def _whole_plan(self) -> Plan:
        """All stages as one plan. While a choice is open its default stands in: as many runs."""
        states = self.store.scan()
        stages = self.comparing.stages(states)
        campaign = self._campaign(stages[-1].request)
        return make_plan(
            {stage.name: stage.runs for stage in stages},
            progress={key: progress_of(state) for key, state in states.items()},
            cost=campaign.cost_model(states),
            on_disk=campaign.cached_epochs(states),
        )

    def _show(self, plan: Plan) -> None:
        campaign = self._campaign(self._stages()[-1].request)
        launching.show_plan(campaign, plan, self.place, to_stdout=self.where.dry_run)
        target = console.out() if self.where.dry_run else console.talk()
        tries = "; ".join(f"{each} its {tried(each)}" for each in self.comparing.methods)
        count = self.comparing.trials
        target.print(
            f"{count} validation trial{'s' * (count > 1)} for every method ({tries}). The rate that suits "
            "the baseline serves all.",
            markup=False,
        )
        if self.comparing.held_out:
            target.print("No validation part: 15 % of the training images are held out for it.", markup=False)


def _taught(plan: Plan) -> list[RunSpec]:
    """The missing runs that a teacher from a file teaches."""
    return [spec for spec in plan.missing if isinstance(spec.teacher, ForeignTeacher)]


def show_answer(found: Answer) -> None:
    """The table, the differences, the sentence; to stdout."""
    target = console.out()
    heads = ("method", "chosen", "n", "top-1 %", "balanced %", "NLL", "ECE %", "cost")
    target.print(console.simple_table(heads, [_row(line) for line in found.lines]))
    rows = [
        (f"{each.method} − {each.against}", f"{each.points:+.2f}", _interval(each.low, each.high),
         "" if each.p_holm is None else f"{each.p_holm:.3f}", each.verdict)
        for each in found.differences
    ]  # fmt: skip
    target.print(console.simple_table(("difference", "points", "95 %", "p (Holm)", "verdict"), rows))
    target.print(
        f"Means over seeds on {found.test_images:,} test images (one image is "
        f"{100 / max(1, found.test_images):.2f} points); epochs and settings were chosen on the validation "
        "part. Cost: training time of one run, + its teacher's.",
        markup=False,
    )
    for line in found.left_out:
        console.say(f"Left out: {line}")
    for note in found.notes:
        target.print(f"Note: {note}", markup=False)
    print(found.sentence + ".")


def _row(line: Line) -> tuple[str, ...]:
    def spread(name: str, digits: int = 2) -> str:
        std = line.std[name]
        return f"{line.mean[name]:.{digits}f}" + ("" if std is None else f"±{std:.{digits}f}")

    chosen = ", ".join(f"{name} {value:g}" for name, value in line.chosen.items())
    cost = console.duration(line.seconds)
    if line.teacher_seconds:
        cost += f" + {console.duration(line.teacher_seconds)}"
    return (
        line.method,
        chosen,
        str(line.n),
        spread("accuracy"),
        spread("balanced_accuracy"),
        spread("loss", 3),
        spread("ece"),
        cost,
    )


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:+.2f}, {high:+.2f}]"
