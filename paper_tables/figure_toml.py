"""From a figure's TOML to a Figure."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, field

from paper_tables.spec import Figure, FigureKind, Series, Setting
from paper_tables.strict import Epoch, Names, Plain, Text, parse, shared
from paper_tables.table_toml import SettingKeys, setting

X = Annotated[float, Meta(ge=0, le=1000)]
Y = Annotated[float, Meta(gt=0, le=100)]  # percent, or a probability
Value = Literal[
    "distribution",  # of a computed series: "uniform" or "virtual-teacher"
    "classes",
    "correct",  # the labelled class, counted from 1
    "correct_prob",
    "temperature",
    "softening",
    "peak",  # of a published curve: its best and its last epoch, in percent
    "last",
]


class SeriesKeys(SettingKeys, kw_only=True):
    """A `[[series]]`. Without a `method` it has no settings; `teacher_epochs`: one for each, "best" is the
    fully trained teacher."""

    label: Text
    teacher_epochs: Annotated[tuple[Epoch | Literal["best"], ...], Meta(min_length=1)] = ("best",)
    points: tuple[tuple[X, Y], ...] = ()
    status: Literal["CONFIRMED", "APPROXIMATE"] = "CONFIRMED"
    values: dict[Value, Plain] = field(default_factory=dict)


class FigureKeys(SettingKeys, kw_only=True):
    """The file."""

    title: Text
    kind: FigureKind
    x_label: Text
    y_label: Text
    series: Annotated[tuple[SeriesKeys, ...], Meta(min_length=1)]
    source: Text = ""
    caption: Text = ""
    note: Text = ""


def figure(name: str, data: Any, names: Names) -> Figure:
    """The figure that parsed TOML declares; PaperTablesError with file, series and key."""
    where = f"{name}.toml"
    keys = parse(data, FigureKeys, where=where)
    series = tuple(
        Series(
            label=each.label,
            settings=_settings(each, keys, names, where=f"{where}, series {number}"),
            published=each.points,
            status=each.status,
            values=tuple(sorted(each.values.items())),
        )
        for number, each in enumerate(keys.series, 1)
    )
    return Figure(**{**shared(keys, Figure), "name": name, "series": series})


def _settings(series: SeriesKeys, figure: FigureKeys, names: Names, *, where: str) -> tuple[Setting, ...]:
    if series.method is UNSET:
        return ()
    badly_taught = SettingKeys(method="de-kd")
    return tuple(
        setting((figure, series), names, where=where, roles={})
        if epoch == "best"
        else setting((figure, series, badly_taught), names, where=where, roles={}, teacher_epoch=epoch)
        for epoch in series.teacher_epochs
    )
