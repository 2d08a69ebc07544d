"""The values of a setting's loss and recipe, each with where it comes from (`hyperparameters.toml`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from paper_tables.spec import Setting, Values
from paper_tables.strict import Entry, Names, read_toml

Source = Literal["released", "printed", "assumed", "declared"]
FILE = Path(__file__).with_name("hyperparameters.toml")
CONDITIONS = ("dataset", "method", "student", "teacher", "form")
PRETRAINED = "pretrained"  # instead of a student: any whose name ends so
DISTILLED = ("re-kd", "de-kd")  # directions and teachers of one method: looked up as "kd"
KEYS = (*CONDITIONS, "elsewhere", "from", "note", "loss", "recipe", "teacher_weights")
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

    loss: Mapping[str, Sourced] = field(default_factory=dict)
    recipe: Mapping[str, Sourced] = field(default_factory=dict)
    teacher: Mapping[str, Sourced] = field(default_factory=dict)  # "weights": "trained" or "pretrained"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One entry of the file: what it is for (an empty set: for all), and its values."""

    conditions: Mapping[str, frozenset[str]]
    elsewhere: bool
    source: Source
    note: str
    loss: Values
    recipe: Values
    teacher: Values

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
    return {name: value for rule in chosen for name, value in rule.recipe}


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
    for entry in read_toml(path).only("entry").entries("entry"):
        _rule(entry)
        for key in ("dataset", "method", "student", "teacher"):
            kind = "network" if key in ("student", "teacher") else key
            for name in _names(entry, key):
                if name not in ("folder", PRETRAINED):
                    names.resolve(kind, name, where=f'{entry.where}, key "{key}"')
        entry.values("loss", names.loss_fields)
        entry.values("recipe", names.recipe_fields)


@cache
def rules(path: Path = FILE) -> tuple[Rule, ...]:
    """The entries of the file, in its order."""
    return tuple(_rule(each) for each in read_toml(path).only("entry").entries("entry"))


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
        for found, values in ((loss, rule.loss), (recipe, rule.recipe), (taught, rule.teacher)):
            found.update({name: Sourced(value, source, rule.note) for name, value in values})
    return Hyperparameters(loss=loss, recipe=recipe, teacher=taught)


def _family(dataset: str) -> str:
    """`tiny-imagenet@4f…` → `tiny-imagenet`, `folder224:PATH` → `folder`: whose values a data set takes."""
    family = dataset.partition("@")[0].partition(":")[0]
    return "folder" if re.fullmatch(r"(folder|torchvision)\d*(\.split\d+)?", family) else family


def _declared(values: Values) -> dict[str, Sourced]:
    return {name: Sourced(value, "declared") for name, value in values}


def _rule(entry: Entry) -> Rule:
    entry.only(*KEYS)
    conditions = {key: frozenset(_names(entry, key)) for key in CONDITIONS if key in entry}
    if conditions.get("method", frozenset()) & set(DISTILLED):
        raise entry.error(
            "method",
            f"names {' or '.join(DISTILLED)}, whose values are those of kd.",
            expected='Expected "kd": it holds for both.',
        )
    for form in conditions.get("form", ()):
        if form not in ("released", "printed"):
            raise entry.error("form", f'is "{form}".', expected="Known: released, printed.")
    if not {"loss", "recipe", "teacher_weights"} & set(entry.data):
        raise entry.error(
            "loss",
            "is missing, and so are recipe and teacher_weights.",
            expected="Expected one of the three.",
        )
    weights = entry.choice("teacher_weights", ("trained", "pretrained"), None)
    return Rule(
        conditions=conditions,
        elsewhere=entry.get("elsewhere", bool, False),
        source=entry.choice("from", ("released", "printed", "assumed")),
        note=entry.text("note", ""),
        loss=entry.values("loss", entry.entry("loss").data),
        recipe=entry.values("recipe", entry.entry("recipe").data),
        teacher=(("weights", weights),) if weights else (),
    )


def _names(entry: Entry, key: str) -> tuple[str, ...]:
    if key not in entry:
        return ()
    return (entry.text(key),) if isinstance(entry.data[key], str) else entry.texts(key)
