"""The runs of `tfkd compare`: trials on the validation part, then every method with every seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePath

from paper_tables.spec import Cell, Column, Row, Setting, Table
from tfkd_cli import grid, models
from tfkd_cli.compare.trials import (
    Trial,
    check_count,
    chosen,
    loss_settings,
    rate_settings,
    tried_fields,
)
from tfkd_cli.errors import RequestError
from tfkd_cli.grid import Axes, Compared
from tfkd_cli.methods import called
from tfkd_cli.methods import method as find_method
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import RunSpec, slug
from tfkd_cli.store import RunState, Store

HOLDOUT = 0.15  # of the training images, where a data set has no validation part
UNTAUGHT = ("baseline", "lsr", "tf-reg", "tf-self")
LEAST_STEPS = {"from scratch": 100, "pretrained": 30}
"""Steps of a training below which networks mostly stay at chance. Assumed; measured on small photographs."""

States = Mapping[str, RunState]
"""Key of a run → its state."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Runs that can go at once: the request that describes them, and what they are for."""

    name: str
    request: Request

    @property
    def runs(self) -> tuple[RunSpec, ...]:
        """The runs of this stage, without teachers."""
        return tuple(spec for runs in self.request.wanted.values() for spec in runs)


def comparison_request(request: Request, *, trials: int) -> Request:
    """The request of a comparison, from that of a grid of its methods: one student on one data set.

    RequestError for a number of trials that no method has, and where a value is given that trials choose.
    """
    check_count(trials)
    assert request.axes is not None
    axes, recipe = request.axes, dict(request.overrides.recipe)
    chosen_here = {name for each in axes.methods for name in tried_fields(find_method(each).loss)}
    fixed = [name for name, _ in request.overrides.loss if name in chosen_here]
    if fixed:
        raise RequestError(
            f"compare chooses {' and '.join(fixed)} itself, on the validation part.",
            expected=f"a comparison without values for {', '.join(sorted(chosen_here))}.",
            hint="`tfkd run` trains with values of your own.",
        )
    facts = request.data[axes.dataset].facts
    baseline = Setting(dataset=axes.dataset, student=axes.students[0], method="baseline")
    compared = Compared(
        dataset=axes.dataset,
        student=axes.students[0],
        teacher=axes.teachers[0] if axes.teachers else None,
        methods=axes.methods,
        trials=trials,
        trial_seed=request.seeds[0],
        lr=recipe.pop("lr", request.spec(baseline).recipe.lr),
        classes=facts.classes,
        test_images=facts.test_images,
    )
    if not facts.val_images:
        recipe.setdefault("holdout", HOLDOUT)
    overrides = replace(request.overrides, recipe=tuple(sorted(recipe.items())))
    return replace(request, tables=(), axes=None, compared=compared, overrides=overrides)


@dataclass(frozen=True)
class Comparison:
    """A comparison and its trials. `request` describes it; its tables, if it has any, count for nothing."""

    request: Request

    @property
    def compared(self) -> Compared:
        """What is compared."""
        assert self.request.compared is not None
        return self.request.compared

    @property
    def methods(self) -> tuple[str, ...]:
        """What is compared, the baseline first."""
        return self.compared.methods

    @property
    def name(self) -> str:
        """`compare-photos-resnet8-3f2a1c`: data, student, teacher, and a digest of the whole request."""
        what = self.compared
        data = PurePath(what.dataset.rpartition(":")[2]).name
        networks = [each.partition(":")[2] or each for each in (what.student, what.teacher) if each]
        whole = requests.identity(replace(self.request, tables=(), trials=frozenset()))
        digest = hashlib.sha256(whole.encode()).hexdigest()[:6]
        return slug("-".join(["compare", slug(data), *networks, digest]).replace(":", "-"))

    def rate_trials(self) -> list[Trial]:
        """The baseline at several learning rates."""
        baseline = self._settings["baseline"]
        return self._as_trials(rate_settings(baseline, self.compared.trials, lr=self.compared.lr))

    def loss_trials(self, states: States) -> dict[str, list[Trial]]:
        """Method → its trials, at the chosen learning rate (the default while that is undecided)."""
        rate = _best(self.rate_trials(), states).recipe
        found = {}
        for method in self.methods[1:]:
            setting = replace(self._settings[method], recipe=rate)
            default = self.request.spec(setting).loss
            found[method] = self._as_trials(loss_settings(setting, self.compared.trials, default=default))
        return found

    def trials(self, states: States) -> dict[str, list[Trial]]:
        """Method → all its trials."""
        return {"baseline": self.rate_trials(), **self.loss_trials(states)}

    def final_settings(self, states: States) -> dict[str, Setting]:
        """Method → the setting it is compared with: the best of its trials (the first while undecided)."""
        return {method: _best(trials, states) for method, trials in self.trials(states).items()}

    def stages(self, states: States) -> tuple[Stage, ...]:
        """What is to be done, in order, with what is decided so far."""
        rates, *losses = self.trials(states).values()
        tried = [each.setting for trials in losses for each in trials]
        final = list(self.final_settings(states).values())
        return (
            self._stage("trials of the learning rate", [each.setting for each in rates], final=()),
            self._stage("trials of the losses", tried, final=()),
            self._stage("the comparison", final, final=final),
        )

    def full_request(self, states: States) -> Request:
        """All runs as one table: what each method is compared with, then the other trials."""
        final = list(self.final_settings(states).values())
        tried = [each.setting for trials in self.trials(states).values() for each in trials]
        return self._stage("", [*final, *tried], final=final).request

    def too_short(self) -> str:
        """A warning where a training has fewer steps than a network needs to learn anything; else empty."""
        spec = self.rate_trials()[0].spec
        recipe, facts = spec.recipe, self.request.data[self.compared.dataset].facts
        images = facts.train_images * (1 - recipe.holdout)
        per_epoch = math.ceil(images / recipe.batch_size)
        least = LEAST_STEPS["pretrained" if models.network(spec.student).pretrained else "from scratch"]
        if per_epoch * recipe.epochs >= least:
            return ""
        return (
            f"each training has {per_epoch} steps × {recipe.epochs} epochs = {per_epoch * recipe.epochs} "
            f"steps. With fewer than about {least}, {spec.student} will hardly learn anything, and the "
            f"comparison will end at chance. Use --epochs {math.ceil(least / per_epoch)} or more."
        )

    @cached_property
    def _settings(self) -> Mapping[str, Setting]:
        """Method → its setting, without the values that trials choose."""
        what = self.compared
        teachers = (what.teacher,) if what.teacher else ()
        axes = Axes(dataset=what.dataset, students=(what.student,), methods=what.methods, teachers=teachers)
        return {cell.setting.method: cell.setting for cell in grid.table(axes).cells()}

    def _as_trials(self, settings: Sequence[Setting]) -> list[Trial]:
        seed = self.compared.trial_seed
        specs = [self.request.spec(each, seed=seed, own_epochs=True) for each in settings]
        return [Trial(setting=each, spec=spec) for each, spec in zip(settings, specs, strict=True)]

    def _stage(self, name: str, settings: Iterable[Setting], *, final: Sequence[Setting]) -> Stage:
        rows = [
            Row(
                labels=(called(setting.method),), cells=(Cell(row=index, column="accuracy", setting=setting),)
            )
            for index, setting in enumerate(dict.fromkeys(settings))
        ]
        table = Table(
            name=self.name,
            title=f"{self.compared.student} on {self.compared.dataset}",
            kind="grid",
            heads=("Method",),
            columns=(Column(name="accuracy", label="Accuracy"),),
            rows=tuple(rows),
        )
        trials = frozenset(table.settings()) - {*final}
        return Stage(name=name, request=replace(self.request, tables=(table,), trials=trials))


def _best(trials: Sequence[Trial], states: States) -> Setting:
    return (chosen(trials, states) or trials[0]).setting


def with_tables(campaigns: Sequence[Campaign], store: Store) -> list[Campaign]:
    """These campaigns; comparisons with the table that follows from what their trials have decided so far."""
    if not any(each.request.compared for each in campaigns):
        return list(campaigns)
    states = store.scan()
    return [
        replace(each, request=Comparison(each.request).full_request(states))
        if each.request.compared
        else each
        for each in campaigns
    ]
