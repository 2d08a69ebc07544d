"""`tfkd compare`: does it help on these data? Trials on the validation part, then seeds, then the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from paper_tables.spec import Cell, Column, Row, Setting, Table
from tfkd_cli.errors import RequestError
from tfkd_cli.methods import method as find_method
from tfkd_cli.reproduction.overrides import Overrides
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.reproduction.trials import (
    Trial,
    check_count,
    chosen,
    loss_settings,
    rate_settings,
    unfinished,
)
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import RunState

NAME = "compare"
HOLDOUT = 0.15  # of the training images, where a data set has no validation part
UNTAUGHT = ("baseline", "lsr", "tf-reg", "tf-self")
CHOSEN_HERE = ("alpha", "temperature")

States = Mapping[str, RunState]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Runs that can go at once: the request that describes them, and what they are for."""

    name: str
    request: Request

    @property
    def runs(self) -> tuple[RunSpec, ...]:
        """The runs of this stage, without teachers."""
        return tuple(
            dict.fromkeys(spec for table in self.request.tables for spec in self.request.runs(table))
        )


@dataclass(frozen=True, kw_only=True)
class Comparing:
    """What is compared: one student on one data set, in the manner of `asked` (a request without tables)."""

    asked: Request
    dataset: str
    student: str
    teacher: str | None
    trials: int

    def __post_init__(self) -> None:
        check_count(self.trials)
        fixed = [name for name, _ in self.asked.overrides.loss if name in CHOSEN_HERE]
        if fixed:
            raise RequestError(
                f"compare chooses {' and '.join(fixed)} itself, on the validation part.",
                expected="a comparison without --alpha and --temperature.",
                hint="`tfkd run` trains with values of your own.",
            )

    @property
    def methods(self) -> tuple[str, ...]:
        """What is compared, `kd` with a teacher only."""
        return (*UNTAUGHT, "kd") if self.teacher else UNTAUGHT

    @cached_property
    def held_out(self) -> bool:
        """Whether a part of the training images must validate, for want of a validation part."""
        return not self.asked.data[self.dataset].facts.val_images

    @cached_property
    def _manner(self) -> Request:
        """The request that all stages vary: its `--lr` is the middle of the rates that are tried."""
        recipe = {name: value for name, value in self.asked.overrides.recipe if name != "lr"}
        if self.held_out:
            recipe.setdefault("holdout", HOLDOUT)
        over = Overrides(tuple(sorted(recipe.items())), self.asked.overrides.loss)
        return replace(self.asked, overrides=over)

    def rate_trials(self) -> list[Trial]:
        """The baseline at several learning rates."""
        baseline = self._setting("baseline")
        lr = dict(self.asked.overrides.recipe).get("lr", self._manner.spec(baseline).recipe.lr)
        return self._as_trials(rate_settings(baseline, self.trials, lr=lr))

    def loss_trials(self, states: States) -> dict[str, list[Trial]]:
        """Method → its trials, at the learning rate the baseline keeps (its default while undecided)."""
        rate = self._kept(self.rate_trials(), states).setting.recipe
        found = {}
        for method in self.methods[1:]:
            setting = replace(self._setting(method), recipe=rate)
            default = self._manner.spec(setting).loss
            found[method] = self._as_trials(loss_settings(setting, self.trials, default=default))
        return found

    def final_settings(self, states: States) -> dict[str, Setting]:
        """Method → the setting it is compared with: the best of its trials (the first while undecided)."""
        settings = {"baseline": self._kept(self.rate_trials(), states).setting}
        for method, trials in self.loss_trials(states).items():
            settings[method] = self._kept(trials, states).setting
        return settings

    def stages(self, states: States) -> tuple[Stage, ...]:
        """What is to be done, in order, with what is decided so far."""
        rates = [each.setting for each in self.rate_trials()]
        losses = [each.setting for trials in self.loss_trials(states).values() for each in trials]
        seeds = self.asked.seeds
        return (
            self._stage("trials of the learning rate", rates, seeds[:1]),
            self._stage("trials of the losses", losses, seeds[:1]),
            self._stage("the comparison", list(self.final_settings(states).values()), seeds),
        )

    def undecided(self, states: States) -> bool:
        """Whether a trial is still to be done."""
        trials = [*self.rate_trials(), *(t for each in self.loss_trials(states).values() for t in each)]
        return unfinished(trials, states)

    def _kept(self, trials: Sequence[Trial], states: States) -> Trial:
        return chosen(trials, states) or trials[0]

    def _setting(self, method: str) -> Setting:
        taught = find_method(method).teacher == "given"
        return Setting(
            dataset=self.dataset,
            student=self.student,
            method=method,
            teacher=self.teacher if taught else None,
        )

    def _as_trials(self, settings: Sequence[Setting]) -> list[Trial]:
        seed = self.asked.seeds[0]
        specs = [self._manner.spec(each, seed=seed, own_epochs=True) for each in settings]
        return [Trial(setting=each, spec=spec) for each, spec in zip(settings, specs, strict=True)]

    def _stage(self, name: str, settings: Sequence[Setting], seeds: tuple[int, ...]) -> Stage:
        made = table(settings)
        return Stage(name=name, request=replace(self._manner, tables=(made,), seeds=seeds))


def table(settings: Sequence[Setting]) -> Table:
    """Settings as a table: a row each."""
    column = Column(name="accuracy", label="Accuracy")
    rows = tuple(
        Row(labels=(label(each),), cells=(Cell(row=index, column=column.name, setting=each),))
        for index, each in enumerate(settings)
    )
    return Table(
        name=NAME,
        title=f"{settings[0].student} on {settings[0].dataset}",
        kind="grid",
        heads=("Setting",),
        columns=(column,),
        rows=rows,
    )


def label(setting: Setting) -> str:
    """`tf-reg alpha 0.1, temperature 20, lr 0.1`."""
    values = ", ".join(f"{name} {value:g}" for name, value in (*setting.loss, *setting.recipe))
    return f"{setting.method} {values}".strip()
