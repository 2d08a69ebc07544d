"""The values of a setting's loss and recipe, each with where it comes from (`hyperparameters.toml`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from msgspec import field

from paper_tables.spec import PaperTablesError, Setting, Values
from paper_tables.strict import Entry, Names, Plain, Text, read_toml

Source = Literal["released", "printed", "assumed", "declared"]
Form = Literal["released", "printed"]
OneOrMore = str | tuple[str, ...]
FILE = Path(__file__).with_name("hyperparameters.toml")
CONDITIONS = ("dataset", "method", "student", "teacher", "form")
PRETRAINED = "pretrained"  # instead of a student: any whose name ends so
DISTILLED = ("re-kd", "de-kd")  # directions and teachers of one method: looked up as "kd"
QUICK = "-quick"  # ends the name of a small set that is derived from the one before it


@dataclass(frozen=True)
class Sourced:
    """A value, where it comes from, and why. `declared`: by a table of our own, or by the request."""

    value: Any
    source: Source
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """The values of a setting by field name; a field that is not named keeps its default."""

    loss: Mapping[str, Sourced]
    recipe: Mapping[str, Sourced]
    teacher: Mapping[str, Sourced]  # "weights": "trained" or "pretrained"


class Rule(Entry, kw_only=True, dict=True):
    """One `[[entry]]` of the file: what it is for (no condition: for all), and its values."""

    dataset: OneOrMore = ()
    method: OneOrMore = ()
    student: OneOrMore = ()
    teacher: OneOrMore = ()
    form: Form | tuple[Form, ...] = ()
    elsewhere: bool = False
    source: Literal["released", "printed", "assumed"] = field(name="from")
    note: Text = ""
    loss: dict[str, Plain] = field(default_factory=dict)
    recipe: dict[str, Plain] = field(default_factory=dict)
    teacher_weights: Literal["trained", "pretrained"] | None = None

    @cached_property
    def conditions(self) -> Mapping[str, frozenset[str]]:
        """The names it is for, of those that it states."""
        return {key: frozenset(names) for key in CONDITIONS if (names := self.names(key))}

    def names(self, condition: str) -> tuple[str, ...]:
        """The names of one condition, which are a text or a list."""
        found = getattr(self, condition)
        return (found,) if isinstance(found, str) else found

    def source_for(self, facts: Mapping[str, str | None]) -> Source | None:
        """Where this rule's values come from for a setting, None where it does not apply."""
        for key, allowed in self.conditions.items():
            if key == "student" and allowed == {PRETRAINED} and str(facts[key]).endswith(f":{PRETRAINED}"):
                continue
            found = {facts[key]}
            if key == "dataset":
                found.add(str(facts[key]).removesuffix(QUICK))
            if not found & allowed and not (self.elsewhere and key == "dataset"):
                return None
        at_home = "dataset" not in self.conditions or facts["dataset"] in self.conditions["dataset"]
        return self.source if at_home else "assumed"


class _File(Entry):
    entry: tuple[Rule, ...]


def lookup(setting: Setting, *, form: str) -> Hyperparameters:
    """The loss and recipe values of `setting`; its own `form`, `loss` and `recipe` go before the file's."""
    found = _looked_up(
        _family(setting.dataset), setting.method, setting.student, setting.teacher, setting.form or form
    )
    return replace(
        found,
        loss={**found.loss, **_declared(setting.loss)},
        recipe={**found.recipe, **_declared(setting.recipe)},
    )


def finetune() -> dict[str, Any]:
    """The recipe of pretrained students, which `--recipe finetune` asks for with any student."""
    chosen = [rule for rule in rules() if rule.conditions.get("student") == frozenset({PRETRAINED})]
    return {name: value for rule in chosen for name, value in rule.recipe.items()}


def assumed(setting: Setting, form: str) -> tuple[str, ...]:
    """The values of a setting and of its teacher that rest on an assumption.

    `("loss.alpha", "recipe.batch_size", "teacher.recipe.batch_size")`; empty where all are published.
    """
    found = lookup(setting, form=form)
    parts = [("loss", found.loss), ("recipe", found.recipe)]
    if setting.teacher is not None:
        parts.append(("teacher.recipe", lookup(setting.taught_by(setting.teacher), form=form).recipe))
    return tuple(
        f"{part}.{name}"
        for part, values in parts
        for name, each in values.items()
        if each.source == "assumed"
    )


def check(names: Names, path: Path = FILE) -> None:
    """Refuse a file that names an unknown network, data set, method or field; PaperTablesError says where."""
    for number, rule in enumerate(rules(path), 1):
        where = f"{path.name}, entry {number}"
        for key in ("dataset", "method", "student", "teacher"):
            kind = "network" if key in ("student", "teacher") else key
            for name in rule.names(key):
                if name not in ("folder", PRETRAINED):
                    names.resolve(kind, name, where=f'{where}, key "{key}"')
                if name in DISTILLED:
                    raise PaperTablesError(
                        f'{where}, key "method": names {name}, whose values are those of kd.',
                        expected='Expected "kd": it holds for re-kd and de-kd.',
                    )
        names.values("loss", rule.loss, where=where)
        names.values("recipe", rule.recipe, where=where)


@cache
def rules(path: Path = FILE) -> tuple[Rule, ...]:
    """The entries of the file, in its order."""
    return read_toml(path, _File).entry


@cache
def _looked_up(dataset: str, method: str, student: str, teacher: str | None, form: str) -> Hyperparameters:
    method = "kd" if method in DISTILLED else method
    facts = {"dataset": dataset, "method": method, "student": student, "teacher": teacher, "form": form}
    loss: dict[str, Sourced] = {}
    recipe: dict[str, Sourced] = {}
    taught: dict[str, Sourced] = {}
    for rule in rules():
        source = rule.source_for(facts)
        if source is None:
            continue
        weights = {"weights": rule.teacher_weights} if rule.teacher_weights else {}
        for found, values in ((loss, rule.loss), (recipe, rule.recipe), (taught, weights)):
            found.update({name: Sourced(value, source, rule.note) for name, value in values.items()})
    return Hyperparameters(loss=loss, recipe=recipe, teacher=taught)


def _family(dataset: str) -> str:
    """`tiny-imagenet@4f…` → `tiny-imagenet`, `folder224:PATH` → `folder`: whose values a data set takes."""
    family = dataset.partition("@")[0].partition(":")[0]
    return "folder" if re.fullmatch(r"(folder|torchvision)\d*(\.split\d+)?", family) else family


def _declared(values: Values) -> dict[str, Sourced]:
    return {name: Sourced(value, "declared") for name, value in values}
