"""Where the runs of a command execute, the campaign that plans them, and the plan as commands show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from paper_tables.spec import Table
from tfkd_cli import console, models
from tfkd_cli.backends.slots import Slots, slots
from tfkd_cli.commands import readiness as ready
from tfkd_cli.execution import Execution
from tfkd_cli.options import LaunchOptions
from tfkd_cli.plan import Plan
from tfkd_cli.reproduction import calibration
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.measure import assumed
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher, RunSpec
from tfkd_cli.store import Store

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile

LONG_ON_A_CPU = 3600.0  # seconds; above it the plan says what is sooner


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the runs of a command execute, found out once: the slots of this machine, or a cluster."""

    where: LaunchOptions
    slots: Slots | None = None
    profile: Profile | None = None  # of the cluster

    @classmethod
    def of(cls, where: LaunchOptions, specs: Iterable[RunSpec], execution: Execution) -> Place:
        """The place for these runs; RequestError where there is no profile of the name that was given.

        Pass all runs of a request, done or not: the threads of a run follow from them.
        """
        if where.cluster == "local":
            return cls(where=where, slots=slots(list(specs), execution=execution, jobs=where.jobs))
        from tfkd_cli.backends.slurm import profile

        return cls(where=where, profile=replace(profile.find(where.cluster), processes=where.gpus))

    @property
    def device(self) -> str:
        """The kind of device that costs are estimated for: a cluster's GPUs, or what is here."""
        return (
            "cuda" if self.profile and self.where.device == "auto" else ready.device_kind(self.where.device)
        )

    def processes_of(self, spec: RunSpec) -> int:
        """How many processes train one run, each on a GPU of its own where there are GPUs."""
        return self.profile.processes_of(spec) if self.profile else self.where.gpus or 1

    def runs_at_once(self, plan: Plan) -> int:
        """How many runs of a plan will go at once: as many as there are slots, or `--jobs` on a cluster."""
        if self.slots:
            return len(self.slots.environments)
        return self.where.jobs or max(1, len(plan.todo))

    def campaign(
        self, request: Request, store: Store, execution: Execution, *, repeating: str = ""
    ) -> Campaign:
        """The campaign of a command that executes here."""
        return Campaign(
            request,
            store,
            execution,
            device=self.device,
            threads=self.slots.threads if self.slots else 1,
            processes_of=self.processes_of,
            calibrated=calibration.rates(execution, device=self.device),
            repeating=repeating,
        )


def dry_run(campaign: Campaign, plan: Plan, place: Place, *, as_json: bool, more: Sequence[str] = ()) -> None:
    """The plan, what stands against it, and what SLURM would be sent; nothing is written."""
    if not as_json:
        show_plan(campaign, plan, place, more=more)
    ready.check_what_runs_need(campaign, plan.unfinished, place.where)
    if as_json:
        console.print_json(plan_json(campaign, plan, place))
    elif place.profile is not None and campaign.request.compared is None:  # its later stages are not known
        from tfkd_cli.commands import cluster

        cluster.show_scripts(campaign, plan, place)


def plan_json(campaign: Campaign, plan: Plan, place: Place) -> dict[str, Any]:
    """The documented shape of a plan with `--json`; `device` is what its `gpu_hours` are of."""
    at_once = place.runs_at_once(plan)
    return {
        "seeds": list(campaign.request.seeds),
        "device": campaign.device,
        "runs_at_once": at_once,
        "wall_hours": round(plan.wall_seconds(at_once) / 3600, 4),
        **plan.to_json(),
    }


def show_plan(campaign: Campaign, plan: Plan, place: Place, *, more: Sequence[str] = ()) -> None:
    """The plan with its costs and what is to be said of it: data where it was asked for, else talk."""
    write = console.show if place.where.dry_run else console.say
    seeds = campaign.request.seeds
    shown = ", ".join(map(str, seeds[:10])) + (", …" if len(seeds) > 10 else "")
    write(f"Plan ({described(campaign.request)}; {len(seeds)} seed{'s' * (len(seeds) > 1)}: {shown})")
    write(console.plan_table(plan, device="GPU" if campaign.device == "cuda" else campaign.device.upper()))
    for line in (*_remarks(campaign, plan, place), *more):
        write(line)


def _remarks(campaign: Campaign, plan: Plan, place: Place) -> Iterator[str]:
    """Where the costs come from, what the runs share, what rests on an assumption, and what is missing."""
    request, counts = campaign.request, plan.counts()
    if any(run.spec.teacher for run in plan.todo):
        shared = "Shared runs are trained once. " if counts.shared else ""
        yield (
            f"{shared}The longest chain, a teacher and then its students, is the least that any number of "
            "devices would take."
        )
    if counts.todo:
        at_once = place.runs_at_once(plan)
        seconds = plan.wall_seconds(at_once)
        yield (
            f"Wall time with {at_once} at once: about {console.duration(seconds)}. "
            f"Costs: {'; '.join(f'{number} {console.SOURCES[source]}' for source, number in counts.sources)}."
        )
        if campaign.device == "cpu" and seconds > LONG_ON_A_CPU and request.scale != "quick":
            small = "--dataset digits" if request.axes else "`tfkd reproduce demo`"
            quick = f"--scale quick (10 epochs) shows the same grid sooner, {small} takes minutes, "
            own_recipe = any(table.has_own_recipe for table in request.tables)
            yield (
                f"That is long on this CPU: {'' if own_recipe else quick}--cluster NAME uses other machines. "
                "Ctrl-C stops, and the same command goes on."
            )
    yield from console.parallel_lines(plan)
    yield from console.logits_lines(plan, cap_gb=campaign.execution.teacher_cache_gb)
    yield from assumption_lines(request)
    teachers = dict.fromkeys(spec.teacher for spec in plan.unfinished)
    published = [each for each in teachers if isinstance(each, ForeignTeacher) and each.published]
    if published:
        named = ", ".join(f"{each.network} (sha256 {each.digest}…)" for each in published)
        yield (
            f"Teachers with torchvision's {models.PUBLISHED} weights, as in the released script: {named}; "
            "--set teacher.weights=trained trains them here."
        )
    yield from data_lines(campaign, plan.unfinished)


def described(request: Request) -> str:
    """How the runs of a request are made: its scale, or a table's own recipe; what was changed; the form."""
    own = [table for table in request.tables if table.has_own_recipe]
    fast = request.fast or request.scale == "quick"
    parts = [f"{table.name}: its own recipe{', fast' * (fast or table.fast)}" for table in own]
    if len(own) < len(request.items):
        parts = [f"{request.scale} scale{', fast' * fast}", *parts]
    changes = ", ".join(f"{name}={value}" for name, value in request.overrides.to_json().items())
    return "; ".join([*parts, *([f"changed: {changes}"] if changes else []), f"{request.form} form"])


def assumption_lines(request: Request) -> list[str]:
    """How many cells rest on a value that nobody published, per table; the recipes of a grid."""
    lines = []
    for table in request.tables:
        if table.kind == "grid":
            lines += grid_recipes(request, table)
            if request.axes and "baseline" not in request.axes.methods:
                lines.append("The baseline of each student is trained, too: the gains refer to it.")
        if table.kind not in ("paper", "control"):
            continue
        cells = [cell for cell in table.cells() if not cell.is_baseline]
        resting = sum(bool(assumed(request, cell.setting)) for cell in cells)
        if resting:
            lines.append(
                f"{table.name}: {resting} of {len(cells)} cells (baselines apart) rest on an assumed "
                "setting; a difference there may be our guess, not the paper's."
            )
    return lines


def grid_recipes(request: Request, table: Table) -> list[str]:
    """How each network of a grid is trained, in one line, and which of it is our assumption."""
    lines = {}
    for cell in table.cells():
        setting = cell.setting.baseline()
        recipe = request.spec(setting, own_epochs=True).recipe
        shown = {
            "epochs": f"{recipe.epochs} epoch{'s' * (recipe.epochs > 1)}",
            "batch_size": f"batch {recipe.batch_size}",
            "lr": f"learning rate {recipe.peak_lr:g}",
            "augment": f"augmentation {recipe.augment}",
        }
        guessed = [name for name in shown if f"recipe.{name}" in assumed(request, setting)]
        note = f" (assumed: {', '.join(shown[name] for name in guessed)})" if guessed else ""
        lines[setting.student] = (
            f"{setting.student}: {', '.join(shown.values())}{note}; --epochs, --lr, --set recipe.… change it."
        )
    return list(lines.values())


def data_lines(campaign: Campaign, runs: Sequence[RunSpec]) -> list[str]:
    """What must be decoded or fetched first."""
    request, folder = campaign.request, campaign.execution.data_dir
    lines = [
        f"{each.name}: not {f'in {folder}' if folder else 'here yet'}; "
        + (
            f"would fetch {each.download}."
            if each.download
            else f"`tfkd data {each.name} --from PATH` adds it."
        )
        for each in ready.unready(request, runs)
        if not each.available
    ]
    notes = [f"{each.facts.called}: {note}" for each in request.data.values() for note in each.facts.notes]
    validated = [
        f"{each.facts.called}: the best epoch is chosen on its validation part "
        f"({each.facts.val_images:,} images), not on its test part."
        for each in request.data.values()
        if each.facts.val_images
    ]
    batches = {spec.dataset: spec.recipe.batch_size for spec in runs}
    one_step = [
        f"{each.facts.called}: a batch is {batches[each.name]:,} images, more than the "
        f"{each.facts.train_images:,} of its training part, so each epoch is one step with all of these."
        for each in request.data.values()
        if batches.get(each.name, 0) > each.facts.train_images
    ]
    return lines + notes + validated + one_step
