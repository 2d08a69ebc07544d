"""Settings → runs: where a name of the paper becomes a full description of what to train."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

from paper_tables import hyperparameters
from paper_tables.spec import Figure, Setting, Table, TeacherSeeds
from tfkd_cli import models
from tfkd_cli.data import DATASETS, DataSet, ResolvedData
from tfkd_cli.data import dataset as find_data_set
from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.grid import Axes, Compared
from tfkd_cli.methods import Form, Loss, method
from tfkd_cli.reproduction.overrides import Overrides
from tfkd_cli.spec import ForeignTeacher, Recipe, RunSpec, Teacher, scale_epoch

Scale = Literal["paper", "quick"]
QUICK_EPOCHS = 10
QUICK_DATA: Mapping[str, str] = {"imagenet": "imagenet-quick"}  # the data set that quick scale takes instead
PRETRAINED_CLASSES = DATASETS["imagenet"].classes  # of torchvision's weights
TEACHER_SEED = 0  # of the one teacher per architecture that serves all student seeds, as in the paper
USUAL_AUGMENTATION = hyperparameters.Sourced(Recipe().augment, "assumed", "the default of a data set")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked: tables and figures, at which scale, in which form, with which seeds and changes."""

    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    scale: Scale = "paper"
    form: Form = "released"
    fast: bool = False
    teacher_seeds: TeacherSeeds = "one"
    overrides: Overrides = field(default_factory=Overrides)
    data: Mapping[str, ResolvedData] = field(default_factory=dict)  # by the name a setting uses
    axes: Axes | None = None  # the grid behind the table of `tfkd run`
    compared: Compared | None = None  # the comparison behind the table of `tfkd compare`
    trials: frozenset[Setting] = (
        frozenset()
    )  # settings of that table that have one run each, with the seed of trials
    foreign_teacher: ForeignTeacher | None = None  # stands in for `--teacher` when it comes from a file

    def __post_init__(self) -> None:
        for name, known in (("scale", Scale), ("form", Form), ("teacher_seeds", TeacherSeeds)):
            kind = "--" + name.replace("_", "-") if name == "teacher_seeds" else name
            object.__setattr__(self, name, canonical(getattr(self, name), get_args(known), kind=kind))
        self._check_loss_overrides()

    def teachers_of(self, item: Table | Figure) -> TeacherSeeds:
        """Whether one teacher teaches all seeds of a table or figure, by its own file or by this request."""
        own = item.teacher_seeds if isinstance(item, Table) else "one"
        return "paired" if "paired" in (own, self.teacher_seeds) else "one"

    @property
    def items(self) -> tuple[Table | Figure, ...]:
        """The tables, then the figures."""
        return (*self.tables, *self.figures)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tables and figures."""
        return tuple(each.name for each in self.items)

    def runs_by_setting(self, item: Table | Figure) -> Mapping[Setting, tuple[RunSpec, ...]]:
        """Setting → its runs, one per seed; without the teachers they need. Resolved once."""
        if item.name not in self._resolved:
            self._resolved[item.name] = self._resolve(item)
        return self._resolved[item.name]

    @cached_property
    def _resolved(self) -> dict[str, Mapping[Setting, tuple[RunSpec, ...]]]:
        return {}

    def _resolve(self, item: Table | Figure) -> Mapping[Setting, tuple[RunSpec, ...]]:
        own_epochs = isinstance(item, Table) and (item.kind == "grid" or item.has_own_recipe)
        fast = isinstance(item, Table) and item.fast
        teachers = self.teachers_of(item)
        most = item.most_seeds() if isinstance(item, Table) else dict.fromkeys(item.settings())
        found = {}
        for setting, count in most.items():
            spec = self.spec(setting, own_epochs=own_epochs, fast=fast)
            trial = self.compared if setting in self.trials else None
            seeds = (trial.trial_seed,) if trial else self.seeds[:count]
            found[setting] = tuple(seeded(spec, seed, teachers) for seed in seeds)
        return found

    def runs(self, item: Table | Figure) -> tuple[RunSpec, ...]:
        """The runs behind one table or figure, without the teachers they need."""
        return tuple(spec for specs in self.runs_by_setting(item).values() for spec in specs)

    @cached_property
    def wanted(self) -> dict[str, tuple[RunSpec, ...]]:
        """Name of the table or figure → its runs; resolved once, however often it is planned."""
        return {item.name: self.runs(item) for item in self.items}

    @property
    def specs(self) -> list[RunSpec]:
        """All runs, without the teachers they need."""
        return [spec for specs in self.wanted.values() for spec in specs]

    def spec(
        self, setting: Setting, *, seed: int = 0, own_epochs: bool = False, fast: bool = False
    ) -> RunSpec:
        """The run of one setting and seed; a teacher's checkpoint is an epoch of
        its own recipe with `own_epochs`, else one of 200 that is scaled to it."""
        form = setting.form or self.form
        known = self.looked_up(replace(setting, loss=(), recipe=()), form)
        loss = self._loss(setting, form, known.loss)
        spec = RunSpec(
            dataset=self.data_name(setting.dataset),
            student=setting.student,
            loss=loss,
            teacher=self._teacher(setting, loss, known, own_epochs=own_epochs, fast=fast),
            recipe=self._recipe(setting, known.recipe, fast=fast),
        )
        return seeded(spec, seed, self.teacher_seeds)

    def data_name(self, dataset: str) -> str:
        """The resolved name of a data set: what enters the run's key."""
        return self.data[dataset].name if dataset in self.data else self.data_at_scale(dataset)

    def data_at_scale(self, dataset: str) -> str:
        """The data set that stands for the one of a setting: at quick scale, a small one for ImageNet."""
        return QUICK_DATA.get(dataset, dataset) if self.scale == "quick" else dataset

    def facts(self, dataset: str) -> DataSet:
        """The facts of a data set as a setting names it: of its content here, or of its official one."""
        known = self.data.get(dataset)
        return known.facts if known else find_data_set(self.data_at_scale(dataset))

    def looked_up(self, setting: Setting, form: Form) -> hyperparameters.Hyperparameters:
        """What hyperparameters.toml and the setting say; a data set outside tfkd may name an augmentation."""
        found = hyperparameters.lookup(
            replace(setting, dataset=self.data_at_scale(setting.dataset)), form=form
        )
        if own := self.facts(setting.dataset).augmentation:
            named = hyperparameters.Sourced(own, "declared", "by the data set")
        else:
            named = USUAL_AUGMENTATION
        return replace(found, recipe={"augment": named, **found.recipe})

    def _loss(self, setting: Setting, form: Form, looked_up: Mapping[str, hyperparameters.Sourced]) -> Loss:
        kind = method(setting.method).loss
        values = {
            **kind.FORMS[form],
            **{name: each.value for name, each in looked_up.items()},
            **dict(setting.loss),
            **({} if setting == setting.baseline() else self.overrides.of_loss(kind)),
        }
        loss = kind(**values)
        loss.check(self.facts(setting.dataset).classes)
        return loss

    def _recipe(
        self, setting: Setting, looked_up: Mapping[str, hyperparameters.Sourced], *, fast: bool
    ) -> Recipe:
        recipe = apply_recipe(Recipe(), {name: each.value for name, each in looked_up.items()})
        recipe = apply_recipe(recipe, dict(setting.recipe))
        if self.scale == "quick":
            recipe = recipe.with_epochs(min(QUICK_EPOCHS, recipe.epochs))
        recipe = apply_recipe(recipe, dict(self.overrides.recipe))
        _check_schedule(recipe, dict(self.overrides.recipe))
        return recipe.fast() if fast or self.fast or self.scale == "quick" else recipe

    def _teacher(
        self,
        setting: Setting,
        loss: Loss,
        known: hyperparameters.Hyperparameters,
        *,
        own_epochs: bool,
        fast: bool,
    ) -> Teacher | ForeignTeacher | None:
        if not loss.needs_teacher:
            return None
        network = setting.student if method(setting.method).teacher == "self" else setting.teacher
        if network is None:
            return None  # which a RunSpec refuses
        given = self.foreign_teacher if setting.teacher is not None else None
        if foreign := given or self._pretrained(setting, network, known):
            if self.teacher_seeds == "paired":
                raise RequestError(
                    "--teacher-seeds paired needs a teacher per seed, and weights from a file are one.",
                    expected="--teacher-seeds one, or teachers that are trained here.",
                    hint="leave out --teacher-checkpoint; --set teacher.weights=trained",
                )
            return foreign
        teaching = setting.taught_by(network)
        if (teaching, fast) not in self._teachers:
            self._teachers[teaching, fast] = self.spec(teaching, fast=fast)
        run = self._teachers[teaching, fast]
        return Teacher(run=run, checkpoint=_checkpoint(run, setting.teacher_epoch, own_epochs=own_epochs))

    def _pretrained(
        self, setting: Setting, network: str, known: hyperparameters.Hyperparameters
    ) -> ForeignTeacher | None:
        """torchvision's own network, where its weights teach.

        hyperparameters.toml decides this for ImageNet with all its classes, `--set teacher.weights=…` always.
        """
        override = dict(self.overrides.teacher).get("weights")
        found = known.teacher.get("weights")
        if (override or (found and found.value)) != "pretrained":
            return None
        digest, classes = models.published_digest(network), self.facts(setting.dataset).classes
        if digest is not None and classes == PRETRAINED_CLASSES and setting.teacher_epoch is None:
            return ForeignTeacher(network=network, digest=digest)
        if override:
            raise RequestError(
                f"torchvision's weights cannot teach here: {network} on {classes:,} classes.",
                expected=f"the best epoch of one of {', '.join(models.PUBLISHED_NETWORKS)} on "
                f"{PRETRAINED_CLASSES:,} classes.",
                hint="--set teacher.weights=trained, or --teacher-checkpoint FILE with `tfkd run`.",
            )
        return None

    @cached_property
    def at_paper_scale(self) -> Request:
        """The same tables with nothing changed: what the paper's own runs would be."""
        return replace(self, scale="paper", fast=False, teacher_seeds="one", overrides=Overrides())

    @cached_property
    def _teachers(self) -> dict[tuple[Setting, bool], RunSpec]:
        """The runs that teach, resolved once each: a baseline, and whether it is fast."""
        return {}

    def _check_loss_overrides(self) -> None:
        """Every `loss.*` and `teacher.*` of the command line must reach at least one of the runs."""
        settings = [setting for item in self.items for setting in item.settings()]
        kinds = {method(each.method).loss for each in settings}
        changed = {method(each.method).loss for each in settings if each != each.baseline()}
        for name, value in self.overrides.loss:
            if kinds and not any(name in self.overrides.of_loss(kind) for kind in changed):
                raise RequestError(
                    f"loss.{name}={value} reaches none of these runs.",
                    expected="a method whose loss has this field; the baseline stays what it is.",
                    hint="`tfkd list methods` shows the fields of each loss.",
                )
        if self.overrides.teacher and kinds and not any(kind.needs_teacher for kind in kinds):
            raise RequestError(
                "teacher.weights reaches none of these runs.",
                expected="a method with a teacher: kd, tf-self.",
                hint="leave it out.",
            )


def seeded(spec: RunSpec, seed: int, teacher_seeds: TeacherSeeds) -> RunSpec:
    """The run with another seed; the seed of its teacher is 0 for `one`, and the same for `paired`."""
    teacher = spec.teacher
    if isinstance(teacher, Teacher):
        teacher_seed = seed if teacher_seeds == "paired" else TEACHER_SEED
        teacher = replace(teacher, run=replace(teacher.run, seed=teacher_seed))
    return replace(spec, seed=seed, teacher=teacher)


def apply_recipe(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with `values`; milestones scale when the epochs change and the milestones are not given."""
    if not values:
        return recipe
    changes: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
    epochs = changes.pop("epochs", recipe.epochs)
    if epochs != recipe.epochs:
        scaled = recipe.with_epochs(epochs)
        recipe = replace(recipe, epochs=epochs) if "milestones" in changes else scaled
        changes.setdefault("warmup_epochs", scaled.warmup_epochs)
    return replace(recipe, **changes)


def _check_schedule(recipe: Recipe, given: Mapping[str, Any]) -> None:
    """RequestError where a milestone or a warm-up that was asked for lies beyond the last epoch."""
    for name, end in (
        ("milestones", max(recipe.milestones, default=0)),
        ("warmup_epochs", recipe.warmup_epochs),
    ):
        if name in given and end > recipe.epochs:
            raise RequestError(
                f"recipe.{name} reaches epoch {end:g}, and the training ends after {recipe.epochs}.",
                expected=f"at most {recipe.epochs}.",
                hint=f"leave it out: --epochs scales it; or --epochs {math.ceil(end)}.",
            )


def _checkpoint(run: RunSpec, epoch: int | None, *, own_epochs: bool) -> Literal["best", "last"] | int:
    if epoch is None:
        return "best"
    resolved = epoch if own_epochs else scale_epoch(epoch, run.recipe.epochs)
    if resolved == run.recipe.epochs and resolved not in run.snapshots:
        return "last"
    if resolved not in run.snapshots:
        kept = ", ".join(map(str, run.snapshots))
        raise RequestError(
            f"the teacher {run.student} keeps no weights of epoch {epoch}.",
            expected=f"an epoch that a baseline of {run.recipe.epochs} keeps: {kept}, {run.recipe.epochs}.",
            hint="--teacher-epoch 1 is the badly trained teacher of De-KD.",
        )
    return resolved
