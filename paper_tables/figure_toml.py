"""From a figure's TOML to a Figure."""

from __future__ import annotations

from typing import Any

from paper_tables.spec import Figure, Point, Series, Setting
from paper_tables.strict import Entry, Names
from paper_tables.table_toml import SETTING, setting

KINDS = ("sweep", "curves", "bars", "soft-targets")
FIGURE = ("title", "kind", "x_label", "y_label", "source", "caption", "note", "series")
SERIES = ("label", "teacher_epochs", "points", "status", "values")
VALUES = (
    "distribution",  # of a computed series: "uniform" or "virtual-teacher"
    "classes",
    "correct",  # the labelled class, counted from 1
    "correct_prob",
    "temperature",
    "softening",
    "peak",  # of a published curve: its best and its last epoch, in percent
    "last",
)
HIGHEST = {"bars": 1.0, "soft-targets": 1.0}  # probabilities; the others are percent


def figure(name: str, source: Entry, names: Names) -> Figure:
    """The figure that `source` declares; PaperTablesError with file, series and key."""
    source.only(*FIGURE, *SETTING)
    kind = source.choice("kind", KINDS)
    return Figure(
        name=name,
        title=source.text("title"),
        kind=kind,
        x_label=source.text("x_label"),
        y_label=source.text("y_label"),
        series=tuple(_series(each, source, names) for each in source.entries("series")),
        source=source.text("source", ""),
        caption=source.text("caption", ""),
        note=source.text("note", ""),
    )


def _series(entry: Entry, source: Entry, names: Names) -> Series:
    entry.only(*SERIES, *SETTING)
    status = entry.choice("status", ("CONFIRMED", "APPROXIMATE"), "CONFIRMED")
    high = HIGHEST.get(source.data["kind"], 100.0)
    points = tuple(_point(each, entry, status, high) for each in entry.get("points", list, []))
    return Series(
        label=entry.text("label"),
        settings=_settings(entry, source, names),
        published=points,
        values=entry.values("values", VALUES),
    )


def _settings(entry: Entry, source: Entry, names: Names) -> tuple[Setting, ...]:
    """None without a `method`; one for each of `teacher_epochs`, "best" being the fully trained teacher."""
    if "method" not in entry:
        for key in ("teacher_epochs", *SETTING):
            if key in entry:
                raise entry.error(
                    key, "stands without a method.", expected='Expected the key "method" beside it.'
                )
        return ()
    above = Entry({key: source.data[key] for key in SETTING if key in source.data}, entry.where)
    own = {key: entry.data[key] for key in SETTING if key in entry}
    epochs: list[Any] = entry.get("teacher_epochs", list, ["best"])
    if not epochs or len(set(map(str, epochs))) != len(epochs) or not all(map(_is_checkpoint, epochs)):
        raise entry.error(
            "teacher_epochs", f"is {epochs}.", expected='Expected distinct epochs, as [1, 50, "best"].'
        )
    found = []
    for epoch in epochs:
        data = own if epoch == "best" else {**own, "method": "de-kd"}
        taught_at = None if epoch == "best" else epoch
        found.append(setting((above, Entry(data, entry.where)), names, roles={}, teacher_epoch=taught_at))
    return tuple(found)


def _is_checkpoint(epoch: Any) -> bool:
    return epoch == "best" or (isinstance(epoch, int) and not isinstance(epoch, bool) and 1 <= epoch <= 200)


def _point(pair: Any, entry: Entry, status: str, high: float) -> Point:
    numbers = isinstance(pair, list) and len(pair) == 2
    if not numbers or not all(isinstance(each, int | float) and not isinstance(each, bool) for each in pair):
        raise entry.error(
            "points", f"{pair!r:.60} is no point.", expected="Expected pairs of numbers, as [15.48, 70.5]."
        )
    x, y = pair
    if not (0 <= x <= 1000 and 0 < y <= high):
        raise entry.error(
            "points", f"[{x}, {y}] is out of range.", expected=f"Expected y above 0, up to {high:g}."
        )
    return Point(x=x, y=y, status=status)
