"""From a table's TOML to a Table.

The keys of a setting (`SettingKeys`) may stand at the table, a row, a column or a cell; the later of these
wins, and `loss` and `recipe` are merged value by value. A row names its `networks` in the order of the
table's `roles`; `student` and `teacher` may name a role, so that one row can swap roles between columns.
A network of "" is none. A row's `teacher_epoch` and `teacher_accuracy` are those of its de-kd cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType, field

from paper_tables import printed
from paper_tables.spec import (
    Cell,
    Column,
    PaperTablesError,
    Published,
    Row,
    Setting,
    Table,
    TeacherSeeds,
    Values,
)
from paper_tables.strict import Entry, Epoch, Names, Percent, Plain, Seeds, Text, parse, shared


class SettingKeys(Entry):
    """What may stand at any level."""

    dataset: Text | UnsetType = UNSET
    student: Text | UnsetType = UNSET
    method: Text | UnsetType = UNSET
    teacher: Text | UnsetType = UNSET
    form: Literal["released", "printed"] | UnsetType = UNSET
    loss: dict[str, Plain] = field(default_factory=dict)
    recipe: dict[str, Plain] = field(default_factory=dict)


WORDS = ("dataset", "student", "method", "teacher", "form")


class CellKeys(SettingKeys, kw_only=True):
    """A cell, where it is not just the printed text."""

    printed: Text = ""
    note: Text = ""
    erratum: Text = ""


class ColumnKeys(SettingKeys, kw_only=True):
    """A `[[column]]`."""

    name: Text
    label: Text


class RowKeys(SettingKeys, kw_only=True):
    """A `[[row]]`."""

    labels: tuple[str, ...] | None = None
    networks: tuple[str, ...] = ()
    teacher_epoch: Epoch | None = None
    teacher_accuracy: Percent | None = None
    seeds: Seeds | None = None
    cells: tuple[str | CellKeys, ...] | None = None


class TableKeys(SettingKeys, kw_only=True):
    """The file."""

    title: Text
    kind: Literal["paper", "control", "audit", "demo"]
    heads: tuple[str, ...]
    column: Annotated[tuple[ColumnKeys, ...], Meta(min_length=1)]
    row: Annotated[tuple[RowKeys, ...], Meta(min_length=1)]
    source: Text = ""
    caption: Text = ""
    note: Text = ""
    seeds: Seeds | None = None
    fast: bool = False
    teacher_seeds: TeacherSeeds = "one"
    recipes: dict[str, dict[str, Plain]] = field(default_factory=dict)
    roles: tuple[str, ...] = ()


def table(name: str, data: Any, names: Names) -> Table:
    """The table that parsed TOML declares; PaperTablesError with file, row, cell and key."""
    where = f"{name}.toml"
    keys = parse(data, TableKeys, where=where)
    _distinct([each.name for each in keys.column], where=where, what="column")
    recipes = {
        names.resolve("network", each, where=f"{where}, recipes"): names.values(
            "recipe", values, where=f"{where}, recipes, {each}"
        )
        for each, values in keys.recipes.items()
    }
    rows = tuple(
        _row(each, keys, names, recipes=recipes, where=f"{where}, row {number}", index=number - 1)
        for number, each in enumerate(keys.row, 1)
    )
    _distinct([each.labels for each in rows], where=where, what="row")
    _distinct([tuple(cell and cell.setting for cell in row.cells) for row in rows], where=where, what="row")
    columns = tuple(Column(name=each.name, label=each.label) for each in keys.column)
    return Table(**shared(keys, Table), name=name, columns=columns, rows=rows)


def setting(
    levels: Sequence[SettingKeys],
    names: Names,
    *,
    where: str,
    roles: Mapping[str, str],
    teacher_epoch: int | None = None,
) -> Setting:
    """The setting that these entries declare, from the general to the special; `teacher_epoch` is de-kd's."""
    words: dict[str, str] = {}
    loss: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    for level in levels:
        words |= {key: word for key in WORDS if (word := getattr(level, key)) is not UNSET}
        loss |= level.loss
        recipe |= level.recipe
    found: dict[str, Any] = {}
    for key, word in words.items():
        kind = "network" if key in ("student", "teacher") else key
        known = roles.get(word, word) if kind == "network" else word
        if key == "form":
            found[key] = word
        elif known:
            found[key] = names.resolve(kind, known, where=f'{where}, key "{key}"')
    for key in ("dataset", "student", "method"):
        if key not in found:
            raise PaperTablesError(
                f'{where}: no "{key}" is given.',
                expected=f"Expected {key} at the cell, its column, its row or the table.",
            )
    if found["method"] == "de-kd" and teacher_epoch is None:
        raise PaperTablesError(
            f'{where}, key "teacher_epoch": de-kd has none.', expected="Expected an epoch from 1 to 200."
        )
    return Setting(
        **found,
        teacher_epoch=teacher_epoch if found["method"] == "de-kd" else None,
        loss=names.values("loss", loss, where=where),
        recipe=names.values("recipe", recipe, where=where),
    )


def _row(
    row: RowKeys, keys: TableKeys, names: Names, *, recipes: Mapping[str, Values], where: str, index: int
) -> Row:
    """`recipes`: by network; they go before those of the table, a row, a column or a cell."""
    labels = row.networks if row.labels is None else row.labels
    bare = tuple(CellKeys() for _ in keys.column) if keys.kind != "paper" else ()
    cells = bare if row.cells is None else row.cells  # only a table of our own may leave them out
    for key, found, wanted in (
        ("networks", row.networks, keys.roles),
        ("labels", labels, keys.heads),
        ("cells", cells, [each.name for each in keys.column]),
    ):
        if len(found) != len(wanted):
            raise PaperTablesError(
                f'{where}, key "{key}": has {len(found)} values.',
                expected=f"Expected {len(wanted)}, one for each of: {', '.join(wanted)}.",
            )
    roles = dict(zip(keys.roles, row.networks, strict=True))

    def cell(given: str | CellKeys, column: ColumnKeys) -> Cell | None:
        if given == "":
            return None
        entry = CellKeys(printed=given) if isinstance(given, str) else given
        place = f'{where}, cell "{column.name}"'
        levels = (keys, row, column, entry)
        made = setting(levels, names, where=place, roles=roles, teacher_epoch=row.teacher_epoch)
        made = _with_recipes(made, recipes) if recipes else made
        return _cell(entry, made, row, index=index, column=column.name, where=place)

    made = tuple(cell(given, column) for column, given in zip(keys.column, cells, strict=True))
    _check_gains(made, where=where)
    return Row(labels=labels, cells=made, seeds=row.seeds)


def _cell(entry: CellKeys, made: Setting, row: RowKeys, *, index: int, column: str, where: str) -> Cell:
    accuracy = row.teacher_accuracy if made.teacher_epoch is not None else None
    published = Published(teacher_accuracy=accuracy)
    if entry.printed:
        published = printed.parse(entry.printed, where=where, teacher_accuracy=accuracy)
    if entry.note and entry.erratum:
        raise PaperTablesError(
            f'{where}, key "note": stands beside an erratum.', expected="Expected one of the two."
        )
    return Cell(
        row=index,
        column=column,
        setting=made,
        published=published,
        note=entry.erratum or entry.note,
        erratum=bool(entry.erratum),
    )


def _with_recipes(made: Setting, recipes: Mapping[str, Values]) -> Setting:
    teacher = _merged(made.recipe, recipes.get(made.teacher)) if made.teacher else ()
    return replace(made, recipe=_merged(made.recipe, recipes.get(made.student)), teacher_recipe=teacher)


def _merged(recipe: Values, own: Values | None) -> Values:
    return tuple(sorted({**dict(recipe), **dict(own or ())}.items()))


def _distinct(found: Sequence[Any], *, where: str, what: str) -> None:
    first: dict[Any, int] = {}
    for number, each in enumerate(found, 1):
        if first.setdefault(each, number) != number:
            raise PaperTablesError(
                f"{where}, {what} {number}: repeats {what} {first[each]}.",
                expected=f"Expected each {what} once.",
            )


def arithmetic_gain(cell: Cell, cells: Iterable[Cell | None]) -> float | None:
    """The printed mean less the baseline printed in the same row, in points; None where one is missing."""
    means = {each.setting: each.published.mean for each in cells if each}
    baseline = means.get(cell.setting.baseline())
    if cell.is_baseline or cell.published.mean is None or baseline is None:
        return None
    return round(cell.published.mean - baseline, 3)


def is_slip(cell: Cell, cells: Iterable[Cell | None]) -> bool:
    """Whether the printed gain is not the printed mean less the printed baseline."""
    derived, gain = arithmetic_gain(cell, cells), cell.published.gain
    return derived is not None and gain is not None and abs(derived - gain) > 0.005


def _check_gains(cells: Sequence[Cell | None], *, where: str) -> None:
    for cell in filter(None, cells):
        if is_slip(cell, cells) and not cell.erratum:
            raise PaperTablesError(
                f'{where}, cell "{cell.column}", key "printed": the gain is {cell.published.gain:+.2f}, mean '
                f"less baseline is {arithmetic_gain(cell, cells):+.2f}.",
                expected="Expected the two to agree, or an erratum that says they do not.",
                hint='if the paper prints it so, copy it and add erratum = "…".',
            )
