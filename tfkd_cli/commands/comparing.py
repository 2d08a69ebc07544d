"""`tfkd compare`: does Tf-KD help on your data, with your network? One table and one sentence."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from tfkd_cli import console
from tfkd_cli.commands import launching, planning, printing, session
from tfkd_cli.compare.comparison import UNTAUGHT, Comparison, Stage, comparison_request
from tfkd_cli.compare.trials import tried
from tfkd_cli.execution import Execution
from tfkd_cli.methods import all_methods
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
    with_options,
)
from tfkd_cli.plan import Plan, make_plan
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.campaign import Campaign, progress_of
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher, RunSpec
from tfkd_cli.store import Store

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile

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


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(compare)


@with_options
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
    profile, opened = planning.profile_of(where), session.open_store(store, write=False)

    def grid() -> Campaign:  # the methods with the data as it is here and now
        request = requests.for_axes(axes, bare, execution=execution, foreign=given)
        return Campaign(request, opened, execution)

    if not where.dry_run:
        _make_ready(grid(), where, trials=trials)
    request = comparison_request(launching.with_teacher_inputs(grid(), where), trials=trials)
    return _Work(Comparison(request), opened, execution, where, profile).do(output)


def _make_ready(grid: Campaign, where: LaunchOptions, *, trials: int) -> None:
    """Decode the data before anything is planned: only then is it known whether there is a validation part.

    RequestError before that where nothing can be compared.
    """
    first = Comparison(comparison_request(grid.request, trials=trials)).stages({})[0]
    launching.check_place(where)
    launching.make_data_ready(replace(grid, request=first.request), first.runs, where, before_plan=True)


class _Work:
    """A comparison over one store."""

    def __init__(
        self,
        comparison: Comparison,
        store: Store,
        execution: Execution,
        where: LaunchOptions,
        profile: Profile | None,
    ) -> None:
        self.comparison, self.store, self.where = comparison, store, where
        self.device = planning.cost_device(where)
        self.execution = execution
        # The same runs at once, and the same threads for each, through all stages.
        specs = [spec for stage in self._stages() for spec in stage.runs]
        self.place = planning.place_of(where, profile, specs, execution)
        self.plan = self._whole_plan()

    def do(self, output: JsonOption) -> int:
        """Show the plan, do the stages, print the answer and write the report."""
        plan, campaign = self.plan, self._campaign(self._stages()[-1].request)
        if self.where.dry_run and output.json:
            launching.check_what_runs_need(campaign, plan.unfinished, self.where)
            console.print_json(planning.plan_json(campaign, plan, self.place))
            return 0
        self._show(plan)
        if self.where.dry_run:
            launching.check_what_runs_need(campaign, plan.unfinished, self.where)
            return 0
        if plan.unfinished:
            launching.try_networks(campaign.request, plan.unfinished, self.where)
            launching.show_foreign_teacher(campaign, _taught(plan))
        self._campaign(self.comparison.request).record(shlex.join(["tfkd", *sys.argv[1:]]))
        for number in range(len(self._stages())):
            ended = self._do_stage(number)
            if ended is not None:
                return ended
        done = printing.answer_of(self._campaign(self.comparison.request))
        if output.json:
            console.print_json(done.to_json())
        else:
            printing.print_answer(done, form="text")
            written = printing.write_report(
                self.store, self.execution, device=self.device, out=self.store.root
            )
            console.say(f"Report: {written.index}; again: tfkd show {done.name}")
        return 0 if done.done == done.wanted else 1

    def _do_stage(self, number: int) -> int | None:
        """Train what is missing of a stage; an exit code when the rest has to wait, else None."""
        stages = self._stages()
        stage = stages[number]
        campaign = self._campaign(stage.request)
        plan = campaign.plan()
        if not plan.unfinished:
            return None
        count = len(plan.unfinished)
        of = f"Stage {number + 1} of {len(stages)}"
        console.say(f"{of}, {stage.name}: {count} run{'s' * (count > 1)}.")
        if self.where.cluster != "local":
            from tfkd_cli.commands import cluster

            code = cluster.submit(campaign, plan.todo, self.place)
            console.say("When these runs are done, the same command goes on from there.")
            return code
        return 1 if launching.run_here(campaign, plan, plan.todo, self.place) else None

    def _stages(self) -> tuple[Stage, ...]:
        return self.comparison.stages(self.store.scan())

    def _campaign(self, request: Request) -> Campaign:
        return planning.campaign_of(request, self.store, self.execution, self.place)

    def _whole_plan(self) -> Plan:
        """All stages as one plan. While a choice is open its default stands in: as many runs."""
        states = self.store.scan()
        stages = self.comparison.stages(states)
        campaign = self._campaign(stages[-1].request)
        return make_plan(
            {stage.name: stage.runs for stage in stages},
            progress={key: progress_of(state) for key, state in states.items()},
            cost=campaign.cost_model(states),
            on_disk=campaign.cached_epochs(states),
            command_seconds=campaign.command_seconds,
        )

    def _show(self, plan: Plan) -> None:
        campaign = self._campaign(self._stages()[-1].request)
        planning.show_plan(campaign, plan, self.place, to_stdout=self.where.dry_run)
        target = console.out() if self.where.dry_run else console.talk()
        tries = "; ".join(f"{each} its {tried(each)}" for each in self.comparison.methods)
        count = self.comparison.compared.trials
        target.print(
            f"{count} validation trial{'s' * (count > 1)} for every method ({tries}). The learning rate that "
            "is best for the baseline serves all.",
            markup=False,
        )
        recipe = campaign.request.runs(campaign.request.tables[0])[0].recipe
        if recipe.holdout:
            target.print(
                f"No validation part: {recipe.holdout:.0%} of the training images are held out for it.",
                markup=False,
            )
        if plan.unfinished and (warning := self.comparison.too_short()):
            target.print(f"Warning: {warning}", markup=False)


def _taught(plan: Plan) -> list[RunSpec]:
    """The missing runs that a teacher from a file teaches."""
    return [spec for spec in plan.unfinished if isinstance(spec.teacher, ForeignTeacher)]
