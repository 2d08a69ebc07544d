"""Claims and the losses of other suites, from their TOML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, field

from paper_tables.spec import Cell, Claim, Contrast, PaperTablesError, Table
from paper_tables.strict import Entry, Names, Plain, Text, near


class Over(Entry):
    """Two columns of a table; `methods` and `students` keep the rows of these."""

    table: Text
    column: Text
    against: Text  # "baseline": the student's own, printed or not
    methods: tuple[str, ...] = ()
    students: tuple[str, ...] = ()


class ClaimKeys(Entry):
    """The file of a claim; `order` is its place among the others, from 1."""

    order: Annotated[int, Meta(ge=1, le=1000)]
    statement: Text
    relation: Literal["better", "equal"]
    over: Annotated[tuple[Over, ...], Meta(min_length=1)]
    margin: Annotated[float, Meta(ge=0.01, le=10)] = 0.3
    source: Text = ""
    note: Text = ""
    family: Text = "paper"


class Variant(Entry):
    """A loss that another suite publishes under one of the paper's names.

    `kind` and `loss` say it as one of our losses (`kind` empty: it is none of them).
    """

    name: Text
    suite: Text
    method: Text
    arithmetic: Text
    says: Text
    kind: str = ""
    loss: dict[str, Plain] = field(default_factory=dict)
    source: str = ""


class Variants(Entry):
    """`variants.toml`."""

    variant: tuple[Variant, ...]


def claim(name: str, keys: ClaimKeys, tables: Mapping[str, Table]) -> Claim:
    """The claim over the cells of tables; PaperTablesError with file and key."""
    contrasts = [
        each
        for number, over in enumerate(keys.over, 1)
        for each in _contrasts(over, tables, where=f"{name}.toml, over {number}")
    ]
    return Claim(
        name=name,
        statement=keys.statement,
        relation=keys.relation,
        contrasts=tuple({(each.setting, each.against): each for each in contrasts}.values()),
        margin=keys.margin,
        source=keys.source,
        note=keys.note,
        family=keys.family,
    )


def _contrasts(over: Over, tables: Mapping[str, Table], *, where: str) -> list[Contrast]:
    """One contrast for each row that has both cells."""
    if over.table not in tables:
        raise PaperTablesError(
            f'{where}, key "table": no table "{over.table}".',
            expected=f"Known: {', '.join(tables)}.",
            hint=near(over.table, tables),
        )
    table = tables[over.table]
    columns = [each.name for each in table.columns]
    for key, column in (("column", over.column), ("against", over.against)):
        if column not in columns and (key, column) != ("against", "baseline"):
            raise PaperTablesError(
                f'{where}, key "{key}": no column "{column}" in {table.name}.',
                expected=f"Known: {', '.join(columns)}.",
            )
    found = []
    for row in table.rows:
        cell = row.cells[columns.index(over.column)]
        other = None if over.against == "baseline" else row.cells[columns.index(over.against)]
        if cell is None or (other is None and over.against != "baseline"):
            continue
        if over.methods and cell.setting.method not in over.methods:
            continue
        if over.students and cell.setting.student not in over.students:
            continue
        found.append(
            Contrast(
                setting=cell.setting,
                against=cell.setting.baseline() if other is None else other.setting,
                label=f"{table.title}: {' | '.join(row.labels)}",
                published=_gain(cell, other),
            )
        )
    if not found:
        key = "students" if over.students else "methods"
        raise PaperTablesError(
            f'{where}, key "{key}": keeps no row.', expected=f"Expected {key} of {table.name}."
        )
    return found


def _gain(cell: Cell, other: Cell | None) -> float | None:
    """The printed gain over the baseline, less that of the other cell, in points."""
    if cell.published.gain is None:
        return None
    if other is None:
        return cell.published.gain
    return None if other.published.gain is None else round(cell.published.gain - other.published.gain, 3)


def check_variants(variants: tuple[Variant, ...], names: Names) -> None:
    """PaperTablesError where a variant names a method or a field that there is not."""
    for number, each in enumerate(variants, 1):
        where = f"variants.toml, variant {number}"
        names.resolve("method", each.method, where=where)
        names.values("loss", each.loss, where=where)
