"""Claims and the losses of other suites, from their TOML."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from paper_tables.spec import Cell, Claim, Contrast, PaperTablesError, Table
from paper_tables.strict import Entry, Names, Plain, Text, near, parse, read_toml, shared


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


def keys(name: str, data: Any) -> ClaimKeys:
    """The entries of a claim's file; PaperTablesError with file and key."""
    return parse(data, ClaimKeys, where=f"{name}.toml")


def claim(name: str, keys: ClaimKeys, tables: Mapping[str, Table]) -> Claim:
    """The claim over the cells of tables; PaperTablesError with file and key."""
    contrasts = [
        each
        for number, over in enumerate(keys.over, 1)
        for each in _contrasts(over, tables, where=f"{name}.toml, over {number}")
    ]
    distinct = {(each.setting, each.against): each for each in contrasts}
    return Claim(**shared(keys, Claim), name=name, contrasts=tuple(distinct.values()))


def _contrasts(over: Over, tables: Mapping[str, Table], *, where: str) -> list[Contrast]:
    """One contrast for each row that has both cells."""
    _known("table", over.table, tables, where=where)
    table = tables[over.table]
    columns = [each.name for each in table.columns]
    _known("column", over.column, columns, where=where)
    _known("against", over.against, [*columns, "baseline"], where=where)
    found = []
    for row in table.rows:
        cells = dict(zip(columns, row.cells, strict=True))
        cell, other = cells[over.column], cells.get(over.against)
        if cell is None or (other is None and over.against != "baseline"):
            continue
        kept = (cell.setting.method in over.methods, cell.setting.student in over.students)
        if all(kept[at] for at, names in enumerate((over.methods, over.students)) if names):
            found.append(
                Contrast(
                    setting=cell.setting,
                    against=other.setting if other else cell.setting.baseline(),
                    label=f"{table.title}: {' | '.join(row.labels)}",
                    published=_gain(cell, other),
                )
            )
    if not found:
        raise PaperTablesError(
            f"{where}: its methods and students keep no row.", expected=f"Expected those of {table.name}."
        )
    return found


def _known(key: str, name: str, known: Collection[str], *, where: str) -> None:
    if name not in known:
        raise PaperTablesError(
            f'{where}, key "{key}": there is no "{name}".',
            expected=f"Known: {', '.join(known)}.",
            hint=near(name, known),
        )


def _gain(cell: Cell, other: Cell | None) -> float | None:
    """The printed gain over the baseline, less that of the other cell, in points."""
    own, theirs = cell.published.gain, other.published.gain if other else 0.0
    return None if own is None or theirs is None else round(own - theirs, 3)


def variants(path: Path, names: Names) -> tuple[Variant, ...]:
    """The file; PaperTablesError where a variant names a method or a field that there is not."""
    found = read_toml(path, Variants).variant
    for number, each in enumerate(found, 1):
        where = f"{path.name}, variant {number}"
        names.resolve("method", each.method, where=where)
        names.values("loss", each.loss, where=where)
    return found
