"""Claims, third-party results and the losses of other suites, from their TOML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from paper_tables.spec import Cell, Claim, Contrast, PaperTablesError, Row, Table, Values
from paper_tables.strict import Entry, Names, near

CLAIM = ("order", "family", "statement", "relation", "margin", "source", "note", "over")
OVER = ("table", "column", "against", "methods", "students")


@dataclass(frozen=True, kw_only=True)
class ThirdParty:
    """A result that others report, in percent."""

    who: str
    dataset: str
    student: str
    what: str
    mean: float
    std: float | None = None
    baseline: float | None = None
    gain: float | None = None
    teacher: str = ""
    source: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A loss that another suite publishes under one of the paper's names.

    `kind` and `loss` say it as one of our losses (`kind` empty: it is none of them).
    """

    name: str
    suite: str
    method: str
    arithmetic: str
    says: str
    kind: str = ""
    loss: Values = ()
    source: str = ""


def order(source: Entry) -> int:
    """Where the claim stands among the others, from 1."""
    return int(source.whole("order", low=1, high=1000))


def claim(name: str, source: Entry, tables: Mapping[str, Table]) -> Claim:
    """The claim that `source` declares over the cells of tables; PaperTablesError with file and key."""
    source.only(*CLAIM)
    relation: Literal["better", "equal"] = source.choice("relation", ("better", "equal"))
    contrasts = [each for over in source.entries("over") for each in _contrasts(over.only(*OVER), tables)]
    return Claim(
        name=name,
        statement=source.text("statement"),
        relation=relation,
        contrasts=tuple({(each.setting, each.against): each for each in contrasts}.values()),
        margin=source.number("margin", low=0.01, high=10, default=0.3),
        source=source.text("source", ""),
        note=source.text("note", ""),
        family=source.text("family", "paper"),
    )


def _contrasts(over: Entry, tables: Mapping[str, Table]) -> list[Contrast]:
    """One contrast for each row that has both cells; `methods` and `students` keep the rows of these."""
    name = over.text("table")
    if name not in tables:
        raise over.error(
            "table", f'no table "{name}".', expected=f"Known: {', '.join(tables)}.", hint=near(name, tables)
        )
    table = tables[name]
    methods, students = over.texts("methods", []), over.texts("students", [])
    found = []
    for row in table.rows:
        cell, other = (_at(row, table, over, key) for key in ("column", "against"))
        if cell is None or (methods and cell.setting.method not in methods):
            continue
        if students and cell.setting.student not in students:
            continue
        if other is None and over.data["against"] != "baseline":
            continue
        against = cell.setting.baseline() if other is None else other.setting
        label = f"{table.title}: {' | '.join(row.labels)}"
        found.append(
            Contrast(setting=cell.setting, against=against, label=label, published=_gain(cell, other))
        )
    if not found:
        key = "students" if students else "methods"
        raise over.error(key, "keeps no row.", expected=f"Expected {key} of {name}.")
    return found


def _at(row: Row, table: Table, over: Entry, key: str) -> Cell | None:
    """The row's cell in the column that `key` names; "baseline" is the student's own, printed or not."""
    column = over.text(key)
    columns = [each.name for each in table.columns]
    if key == "against" and column == "baseline":
        return None
    if column not in columns:
        raise over.error(
            key, f'no column "{column}" in {table.name}.', expected=f"Known: {', '.join(columns)}."
        )
    return row.cells[columns.index(column)]


def _gain(cell: Cell, other: Cell | None) -> float | None:
    """The printed gain over the baseline, less that of the other cell, in points."""
    if cell.published.gain is None:
        return None
    if other is None:
        return cell.published.gain
    return None if other.published.gain is None else round(cell.published.gain - other.published.gain, 3)


def third_party(source: Entry, names: Names) -> tuple[ThirdParty, ...]:
    """The results of `third_party.toml`."""
    return tuple(_result(each, names) for each in source.only("result").entries("result"))


def _result(entry: Entry, names: Names) -> ThirdParty:
    entry.only(*ThirdParty.__dataclass_fields__)
    percent = {"low": 1, "high": 100}
    return ThirdParty(
        who=entry.text("who"),
        dataset=names.resolve("dataset", entry.text("dataset"), where=f'{entry.where}, key "dataset"'),
        student=names.resolve("network", entry.text("student"), where=f'{entry.where}, key "student"'),
        what=entry.text("what"),
        mean=entry.number("mean", **percent),
        std=entry.number("std", low=0.001, high=10, default=None),
        baseline=entry.number("baseline", **percent, default=None),
        gain=entry.number("gain", low=-20, high=20, default=None),
        teacher=entry.text("teacher", ""),
        source=entry.text("source"),
        note=entry.text("note", ""),
    )


def variants(source: Entry, names: Names) -> tuple[Variant, ...]:
    """The named forms of `variants.toml`."""
    found = tuple(_variant(each, names) for each in source.only("variant").entries("variant"))
    if len({each.name for each in found}) != len(found):
        raise PaperTablesError(
            f"{source.where}: a name stands there twice.", expected="Expected each name once."
        )
    return found


def _variant(entry: Entry, names: Names) -> Variant:
    entry.only(*Variant.__dataclass_fields__)
    return Variant(
        name=entry.text("name"),
        suite=entry.text("suite"),
        method=names.resolve("method", entry.text("method"), where=f'{entry.where}, key "method"'),
        arithmetic=entry.text("arithmetic"),
        says=entry.text("says"),
        kind=entry.text("kind", ""),
        loss=entry.values("loss", names.loss_fields),
        source=entry.text("source", ""),
    )
