"""From a table's TOML to a Table.

The keys of a setting (`SettingKeys`) may stand at the table, a row, a column or a cell; the later of these
wins, and `loss` and `recipe` are merged value by value. A row names its `networks` in the order of the
table's `roles`; `student` and `teacher` may name a role, so that one row can swap roles between columns.
A network of "" is none. A row's `teacher_epoch` and `teacher_accuracy` are those of its de-kd cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from paper_tables.strict import Entry, Epoch, Names, Percent, Plain, Seeds, Text, parse

TAUGHT = ("kd", "re-kd", "de-kd")  # the paper's methods with a teacher of another network
UNTAUGHT = ("baseline", "lsr", "tf-self", "tf-reg")


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


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A row, and what its cells need besides their own entries."""

    where: str
    names: Names
    table: TableKeys
    row: RowKeys
    roles: Mapping[str, str]  # role → network of this row
    recipes: Mapping[str, Values]  # by network; they go before those of the table, a row, a column or a cell


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
        _row(index, each, keys, names, recipes=recipes, where=f"{where}, row {index + 1}")
        for index, each in enumerate(keys.row)
    )
    _distinct([each.labels for each in rows], where=where, what="row")
    _distinct([tuple(cell and cell.setting for cell in row.cells) for row in rows], where=where, what="row")
    result = Table(
        name=name,
        title=keys.title,
        kind=keys.kind,
        heads=keys.heads,
        columns=tuple(Column(name=each.name, label=each.label) for each in keys.column),
        rows=rows,
        source=keys.source,
        caption=keys.caption,
        note=keys.note,
        seeds=keys.seeds,
        fast=keys.fast,
        teacher_seeds=keys.teacher_seeds,
    )
    _check_gains(result, where=where)
    return result


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
    made = Setting(
        **found,
        teacher_epoch=teacher_epoch if found["method"] == "de-kd" else None,
        loss=names.values("loss", loss, where=where),
        recipe=names.values("recipe", recipe, where=where),
    )
    _check_teacher(made, where)
    return made


def _check_teacher(each: Setting, where: str) -> None:
    if each.method in TAUGHT and each.teacher is None:
        raise PaperTablesError(
            f"{where}: {each.method} has no teacher.", expected='Expected the key "teacher".'
        )
    if each.method in UNTAUGHT and each.teacher is not None:
        raise PaperTablesError(
            f"{where}: {each.method} takes no teacher.", hint='leave out the key "teacher".'
        )
    if each.method == "de-kd" and each.teacher_epoch is None:
        raise PaperTablesError(
            f'{where}, key "teacher_epoch": is {each.teacher_epoch} for {each.method}.',
            expected="Expected an epoch from 1 to 200.",
        )


def _row(
    index: int, row: RowKeys, keys: TableKeys, names: Names, *, recipes: Mapping[str, Values], where: str
) -> Row:
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
    place = _Place(where=where, names=names, table=keys, row=row, roles=roles, recipes=recipes)
    return Row(
        labels=labels,
        cells=tuple(
            _cell(index, cell, column, place) for column, cell in zip(keys.column, cells, strict=True)
        ),
        seeds=row.seeds,
    )


def _cell(index: int, cell: str | CellKeys, column: ColumnKeys, place: _Place) -> Cell | None:
    if cell == "":
        return None
    keys = CellKeys(printed=cell) if isinstance(cell, str) else cell
    where = f'{place.where}, cell "{column.name}"'
    levels = (place.table, place.row, column, keys)
    epoch = place.row.teacher_epoch
    found = setting(levels, place.names, where=where, roles=place.roles, teacher_epoch=epoch)
    if place.recipes:
        taught_by = found.teacher
        found = replace(
            found,
            recipe=_merged(found.recipe, place.recipes.get(found.student)),
            teacher_recipe=_merged(found.recipe, place.recipes.get(taught_by)) if taught_by else (),
        )
    accuracy = place.row.teacher_accuracy if found.teacher_epoch is not None else None
    published = Published(teacher_accuracy=accuracy)
    if keys.printed:
        published = printed.parse(keys.printed, where=where, teacher_accuracy=accuracy)
    if keys.note and keys.erratum:
        raise PaperTablesError(
            f'{where}, key "note": stands beside an erratum.', expected="Expected one of the two."
        )
    return Cell(
        row=index,
        column=column.name,
        setting=found,
        published=published,
        note=keys.erratum or keys.note,
        erratum=bool(keys.erratum),
    )


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


def arithmetic_gain(cell: Cell, row: Row) -> float | None:
    """The printed mean less the baseline printed in the same row, in points; None where one is missing."""
    if cell.is_baseline or cell.published.mean is None:
        return None
    for other in filter(None, row.cells):
        if other.setting == cell.setting.baseline() and other.published.mean is not None:
            return round(cell.published.mean - other.published.mean, 3)
    return None


def is_slip(cell: Cell, row: Row) -> bool:
    """Whether the printed gain is not the printed mean less the printed baseline."""
    derived = arithmetic_gain(cell, row)
    return (
        derived is not None and cell.published.gain is not None and abs(derived - cell.published.gain) > 0.005
    )


def _check_gains(each: Table, *, where: str) -> None:
    for row in each.rows:
        for cell in filter(None, row.cells):
            if is_slip(cell, row) and not cell.erratum:
                raise PaperTablesError(
                    f'{where}, row {cell.row + 1}, cell "{cell.column}", key "printed": the gain is '
                    f"{cell.published.gain:+.2f}, mean less baseline is {arithmetic_gain(cell, row):+.2f}.",
                    expected="Expected the two to agree, or an erratum that says they do not.",
                    hint='if the paper prints it so, copy it and add erratum = "…".',
                )
