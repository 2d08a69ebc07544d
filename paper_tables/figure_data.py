"""What a figure shows, as plain numbers: lines with bands, points, levels, bars. Nothing here draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from paper_tables.compare import Comparison
from paper_tables.measured import NOTHING, Measured
from paper_tables.spec import Figure, FigureKind, Series, Setting
from paper_tables.statistics import Interval, deviation
from paper_tables.verdicts import ClaimVerdict

NOT_MEASURED = "not measured yet"
GAIN = "gain over the baseline (points)"
MEAN_GAIN = "mean gain (points)"
FEWEST_CURVES = 2  # runs that make a band


Curve = Mapping[int, float]
"""One run's test accuracy (percent) by epoch (from 1)."""

Look = Literal["line", "marked line", "level", "bars", "printed", "printed level", "read off"]
"""How a line is drawn: what is measured or computed, then what the paper prints.

`marked line`: few points, each worth a marker; `level`: a horizontal line, whose `x` is empty; `bars`: one
for each category; `printed` and `read off` (from a printed figure): points that nothing joins.
"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line, points or bars; `low` and `high` are mean ± std over `n` runs (empty where nothing has two)."""

    label: str
    x: tuple[float, ...] = ()
    y: tuple[float, ...]
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    n: int = 1
    look: Look = "line"
    slot: int = 0  # those of one slot share a colour


@dataclass(frozen=True, kw_only=True)
class GainRow:
    """A row of a forest plot: a gain in points, its 95 % interval if it is known, and the printed gain.

    `labels` head the row: those of the table's row, and its column where there are several.
    """

    labels: tuple[str, ...]
    gain: float
    interval: Interval | None = None
    published: float | None = None


@dataclass(frozen=True, kw_only=True)
class FigureData:
    """Everything that is drawn, and `status` where something is missing. `kind`: that of `spec.Figure`."""

    name: str
    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...] = ()
    gains: tuple[GainRow, ...] = ()  # from the top; such a figure has nothing else
    status: str = ""
    kind: FigureKind = "sweep"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What was measured for a figure. Each kind of figure takes its own; all may be empty.

    `teacher_accuracy`: by the student's setting, the test accuracy (percent) of the checkpoint that taught
    it. `soft_targets`: by temperature, probabilities by class, most probable first.
    `virtual_teacher` computes target probabilities by class from the values of a series.
    """

    measured: Mapping[Setting, Measured] = field(default_factory=dict)
    teacher_accuracy: Mapping[Setting, float] = field(default_factory=dict)
    curves: Mapping[Setting, Sequence[Curve]] = field(default_factory=dict)
    soft_targets: Mapping[float, Sequence[float]] = field(default_factory=dict)
    virtual_teacher: Callable[..., Sequence[float]] = lambda **values: ()


def figure_data(figure: Figure, sources: Sources) -> FigureData:
    """The data of one of the paper's figures: what is published, and as much as was measured."""
    measure = {"sweep": _sweep, "curves": _curves, "bars": _bars, "soft-targets": _soft_targets}[figure.kind]
    series = list(enumerate(figure.series))
    ours = [line for slot, each in series for line in measure(each, slot, sources)]
    theirs = [line for slot, each in series for line in _published(each, slot, figure.kind)]
    return FigureData(
        name=figure.name,
        title=figure.title,
        x_label=figure.x_label,
        y_label=figure.y_label,
        lines=(*ours, *theirs),
        status="" if any(line.look != "printed level" for line in ours) else NOT_MEASURED,
        kind=figure.kind,
    )


def training_curves(name: str, title: str, curves: Mapping[str, Sequence[Curve]]) -> FigureData:
    """Curves of any runs: one line per label, with a band where it has several runs."""
    lines = [line for slot, (label, runs) in enumerate(curves.items()) for line in _line(label, runs, slot)]
    return FigureData(
        name=name,
        title=title,
        x_label="Epoch",
        y_label="Test accuracy (%)",
        lines=tuple(lines),
        status="" if lines else NOT_MEASURED,
        kind="curves",
    )


def table_gains(comparison: Comparison) -> Iterator[GainRow]:
    """The gains of a table at the best epoch, of the cells that have one."""
    table = comparison.table
    columns = {each.name: each.label for each in table.columns} if len(table.columns) > 1 else {}
    for cell in comparison.cells():
        if cell.best and cell.best.gain:
            labels = (*table.rows[cell.cell.row].labels, columns.get(cell.cell.column, ""))
            yield GainRow(
                labels=tuple(each for each in labels if each not in ("", "–")),
                gain=cell.best.gain.mean,
                interval=cell.best.gain.interval,
                published=cell.cell.published.gain,
            )


def claim_gains(verdicts: Iterable[ClaimVerdict]) -> Iterator[GainRow]:
    """The mean gains of claims, of those with measured cells."""
    for verdict in verdicts:
        if verdict.gain:
            yield GainRow(
                labels=(verdict.claim.name,),
                gain=verdict.gain.mean,
                interval=verdict.gain.interval,
                published=verdict.printed_gain,
            )


def _published(series: Series, slot: int, kind: str) -> Iterator[Line]:
    """Its points; a flat line through several is a level (the baseline of Figure 2)."""
    if not series.published:
        return
    x, y = zip(*series.published, strict=True)
    if kind == "sweep" and len(y) > 1 and len({*y}) == 1:
        yield Line(label=f"{series.label} (paper)", y=y[:1], look="printed level", slot=slot)
    elif series.status == "APPROXIMATE":
        yield Line(label=f"{series.label} (paper, read off)", x=x, y=y, look="read off", slot=slot)
    else:
        yield Line(label=f"{series.label} (paper)", x=x, y=y, look="printed", slot=slot)


def _sweep(series: Series, slot: int, sources: Sources) -> Iterator[Line]:
    done = [setting for setting in series.settings if sources.measured.get(setting, NOTHING).n]
    level = len(series.settings) == 1 and series.settings[0].teacher is None
    accuracy = sources.teacher_accuracy
    placed = done if level else sorted((each for each in done if each in accuracy), key=accuracy.__getitem__)
    if placed:
        values = [_spread(sources.measured[setting]) for setting in placed]
        counts = sorted({sources.measured[setting].n for setting in placed})
        n = "–".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
        yield Line(
            label=f"{series.label} (ours ± std, n = {n})",
            x=() if level else tuple(accuracy[setting] for setting in placed),
            y=tuple(centre for centre, _, _ in values),
            low=tuple(low for _, low, _ in values),
            high=tuple(high for _, _, high in values),
            n=counts[0],
            look="level" if level else "marked line",
            slot=slot,
        )


def _spread(measured: Measured) -> tuple[float, float, float]:
    """mean, mean - std, mean + std over seeds; a single run has no spread to show."""
    values = list(measured.group("best").values())
    centre, std = fmean(values), deviation(values) or 0.0
    return centre, centre - std, centre + std


def _curves(series: Series, slot: int, sources: Sources) -> Iterator[Line]:
    runs = [run for setting in series.settings for run in sources.curves.get(setting, ())]
    yield from _line(series.label, runs, slot)


def _line(label: str, runs: Sequence[Curve], slot: int) -> Iterator[Line]:
    """The mean over runs, at the epochs that all of them have."""
    epochs = sorted(set(runs[0]).intersection(*runs[1:])) if runs else []
    if not epochs:
        return
    import numpy as np

    values_EN = np.array([[run[epoch] for run in runs] for epoch in epochs])  # E epochs, N runs
    centres_E = values_EN.mean(axis=1)
    stds_E = values_EN.std(axis=1, ddof=1) if len(runs) >= FEWEST_CURVES else np.zeros(0)
    yield Line(
        label=f"{label} (mean ± std, n = {len(runs)})" if len(runs) > 1 else label,
        x=tuple(float(epoch) for epoch in epochs),
        y=tuple(centres_E.tolist()),
        low=tuple((centres_E - stds_E).tolist()) if len(stds_E) else (),
        high=tuple((centres_E + stds_E).tolist()) if len(stds_E) else (),
        n=len(runs),
        slot=slot,
    )


def _bars(series: Series, slot: int, sources: Sources) -> Iterator[Line]:
    if series.values:
        heights = _heights(sources, **dict(series.values))
        classes = tuple(float(each) for each in range(1, len(heights) + 1))
        yield Line(label=series.label, x=classes, y=heights, look="bars", slot=slot)


def _heights(sources: Sources, *, distribution: str, classes: int, **values: Any) -> tuple[float, ...]:
    """Target probabilities by class: uniform (LSR), or those of the virtual teacher."""
    if distribution == "uniform":
        return (1 / classes,) * classes
    return tuple(sources.virtual_teacher(classes=classes, **values))


def _soft_targets(series: Series, slot: int, sources: Sources) -> Iterator[Line]:
    values = dict(series.values)
    if values.get("distribution") == "uniform":
        yield Line(label=series.label, y=(1 / values["classes"],), look="printed level", slot=slot)
        return
    found = sources.soft_targets.get(values["temperature"], ())
    if len(found):
        ranks = tuple(float(rank) for rank in range(1, len(found) + 1))
        yield Line(label=series.label, x=ranks, y=tuple(map(float, found)), slot=slot)
