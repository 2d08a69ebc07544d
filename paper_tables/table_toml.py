"""From a table's TOML to a Table.

The keys of a setting (`SETTING`) may stand at the table, a row, a column or a cell; the later of these
wins, and `loss` and `recipe` are merged value by value. A row names its `networks` in the order of the
table's `roles`; `student` and `teacher` may name a role, so that one row can swap roles between columns.
A network of "" is none. A row's `teacher_epoch` and `teacher_accuracy` are those of its de-kd cells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, get_args

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
from paper_tables.strict import MISSING, Entry, Names

SETTING = ("dataset", "student", "method", "teacher", "form", "loss", "recipe")
WORDS = ("dataset", "student", "method", "teacher", "form")
TABLE = (
    "title",
    "kind",
    "source",
    "caption",
    "note",
    "seeds",
    "fast",
    "teacher_seeds",
    "recipes",
    "heads",
    "roles",
    "column",
    "row",
)
COLUMN = ("name", "label")
ROW = ("labels", "networks", "teacher_epoch", "teacher_accuracy", "seeds", "cells")
CELL = ("printed", "note", "erratum")
TAUGHT = ("kd", "re-kd", "de-kd")  # the paper's methods with a teacher of another network
UNTAUGHT = ("baseline", "lsr", "tf-self", "tf-reg")


class _Place(NamedTuple):
    """What a cell's text needs besides its own entry."""

    names: Names
    roles: Mapping[str, str]  # role → network of this row
    recipes: Mapping[str, Values]  # by network
    teacher_epoch: int | None
    teacher_accuracy: float | None


def table(name: str, source: Entry, names: Names) -> Table:
    """The table that `source` declares; PaperTablesError with file, row, cell and key."""
    source.only(*TABLE, *SETTING)
    kind = source.choice("kind", ("paper", "control", "audit", "demo"))
    columns = source.entries("column")
    labels = tuple(_column(each) for each in columns)
    _distinct([each.name for each in labels], where=source.where, what="column")
    heads = source.texts("heads")
    rows = tuple(
        _row(index, each, source=source, columns=columns, names=names, heads=heads)
        for index, each in enumerate(source.entries("row"))
    )
    _distinct([each.labels for each in rows], where=source.where, what="row")
    _distinct([_settings(each) for each in rows], where=source.where, what="row")
    result = Table(
        name=name,
        title=source.text("title"),
        kind=kind,
        heads=heads,
        columns=labels,
        rows=rows,
        source=source.text("source", ""),
        caption=source.text("caption", ""),
        note=source.text("note", ""),
        seeds=source.whole("seeds", low=1, high=1000, default=None),
        fast=source.get("fast", bool, False),
        teacher_seeds=source.choice("teacher_seeds", get_args(TeacherSeeds), "one"),
    )
    _check_gains(result, where=source.where)
    return result


def setting(
    levels: Sequence[Entry], names: Names, *, roles: Mapping[str, str], teacher_epoch: int | None = None
) -> Setting:
    """The setting that these entries declare, from the general to the special; `teacher_epoch` is de-kd's."""
    where = levels[-1].where
    words: dict[str, str] = {}
    values: dict[str, dict[str, Any]] = {"loss": {}, "recipe": {}}
    for level in levels:
        words.update({key: level.text(key) for key in WORDS if key in level})
        for key, known in (("loss", names.loss_fields), ("recipe", names.recipe_fields)):
            values[key].update(level.values(key, known))
    for key in ("dataset", "student", "method"):
        if key not in words:
            raise PaperTablesError(
                f'{where}: no "{key}" is given.',
                expected=f"Expected {key} at the cell, its column, its row or the table.",
            )
    canonical = _canonical(words, names, where=where, roles=roles)
    found = Setting(
        **canonical,
        teacher_epoch=teacher_epoch if canonical["method"] == "de-kd" else None,
        loss=tuple(sorted(values["loss"].items())),
        recipe=tuple(sorted(values["recipe"].items())),
    )
    _check_teacher(found, where)
    return found


def _canonical(
    words: Mapping[str, str], names: Names, *, where: str, roles: Mapping[str, str]
) -> dict[str, Any]:
    """The words as the code knows them, roles put in."""
    found: dict[str, Any] = {}
    for key, word in words.items():
        place = f'{where}, key "{key}"'
        if key == "form":
            if word not in ("released", "printed"):
                raise PaperTablesError(f'{place}: is "{word}".', expected="Known: released, printed.")
            found[key] = word
        elif key in ("dataset", "method"):
            found[key] = names.resolve(key, word, where=place)
        elif network := roles.get(word, word):
            found[key] = names.resolve("network", network, where=place)
    return found


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


def _column(entry: Entry) -> Column:
    entry.only(*COLUMN, *SETTING)
    return Column(name=entry.text("name"), label=entry.text("label"))


def _row(
    index: int, entry: Entry, *, source: Entry, columns: Sequence[Entry], names: Names, heads: tuple[str, ...]
) -> Row:
    entry.only(*ROW, *SETTING)
    networks = entry.texts("networks", [])
    role_names = source.texts("roles", [])
    if len(networks) != len(role_names):
        raise entry.error(
            "networks",
            f"has {len(networks)} names.",
            expected=f"Expected one for each role: {', '.join(role_names)}.",
        )
    labels = entry.texts("labels", list(networks))
    if len(labels) != len(heads):
        raise entry.error(
            "labels", f"has {len(labels)} texts.", expected=f"Expected one for each head: {', '.join(heads)}."
        )
    place = _Place(
        names=names,
        roles=dict(zip(role_names, networks, strict=True)),
        recipes=_recipes(source.entry("recipes"), names),
        teacher_epoch=entry.whole("teacher_epoch", low=1, high=200, default=None),
        teacher_accuracy=entry.number("teacher_accuracy", low=1, high=100, default=None),
    )
    texts = _texts(entry, columns, bare=source.data["kind"] != "paper")
    above = (_setting_of(source, entry.where), _setting_of(entry, entry.where))
    cells = tuple(
        _cell(index, text, levels=(*above, column), place=place)
        for column, text in zip(columns, texts, strict=True)
    )
    return Row(labels=labels, cells=cells, seeds=entry.whole("seeds", low=1, high=1000, default=None))


def _setting_of(entry: Entry, where: str) -> Entry:
    """Only the keys of a setting, said to stand at `where`."""
    return Entry({key: entry.data[key] for key in SETTING if key in entry.data}, where)


def _texts(entry: Entry, columns: Sequence[Entry], *, bare: bool) -> list[Any]:
    """The row's cells as written; only a table of our own may leave them out."""
    names = [str(each.data["name"]) for each in columns]
    texts: list[Any] = entry.get("cells", list, [{} for _ in columns] if bare else MISSING)
    if len(texts) != len(columns):
        raise entry.error(
            "cells",
            f"has {len(texts)} cells.",
            expected=f"Expected {len(columns)}, one for each column: {', '.join(names)}.",
        )
    return texts


def _cell(index: int, text: Any, *, levels: tuple[Entry, Entry, Entry], place: _Place) -> Cell | None:
    table_level, row, column = levels
    name = str(column.data["name"])
    where = f'{row.where}, cell "{name}"'
    if not isinstance(text, str | dict):
        raise PaperTablesError(f"{where}: {text!r:.60} is a {type(text).__name__}.", expected=printed.EXAMPLE)
    if text == "":
        return None
    entry = Entry({"printed": text} if isinstance(text, str) else text, where).only(*CELL, *SETTING)
    found = setting(
        (table_level, row, _setting_of(column, where), entry),
        place.names,
        roles=place.roles,
        teacher_epoch=place.teacher_epoch,
    )
    if place.recipes:
        found = replace(
            found,
            recipe=_of_network(found.student, found.recipe, place.recipes),
            teacher_recipe=_of_network(found.teacher, found.recipe, place.recipes) if found.teacher else (),
        )
    taught_badly = place.teacher_accuracy if found.teacher_epoch is not None else None
    published = Published(teacher_accuracy=taught_badly)
    if "printed" in entry:
        published = printed.parse(entry.text("printed"), where=where, teacher_accuracy=taught_badly)
    if "note" in entry and "erratum" in entry:
        raise entry.error("note", "stands beside an erratum.", expected="Expected one of the two.")
    note = entry.text("erratum", entry.text("note", ""))
    return Cell(
        row=index, column=name, setting=found, published=published, note=note, erratum="erratum" in entry
    )


def _recipes(entry: Entry, names: Names) -> dict[str, Values]:
    """The recipe values of single networks, which go before those of the table, a row, a column or a cell."""
    return {
        names.resolve("network", name, where=entry.where): entry.values(name, names.recipe_fields)
        for name in entry.data
    }


def _of_network(network: str, recipe: Values, recipes: Mapping[str, Values]) -> Values:
    return tuple(sorted({**dict(recipe), **dict(recipes.get(network, ()))}.items()))


def _settings(row: Row) -> tuple[Setting | None, ...]:
    return tuple(None if cell is None else cell.setting for cell in row.cells)


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
    for other in row.cells:
        if (
            other is not None
            and other.setting == cell.setting.baseline()
            and other.published.mean is not None
        ):
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
