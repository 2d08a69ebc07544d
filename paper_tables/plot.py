"""A figure as PNG, SVG, PDF: vector and bitmap, legible in print and on a phone, safe for the colour-blind.

Colours are Okabe and Ito's; every line also has its own dashes, every set of points its own marker, every
bar its own hatching. The title is left to the caption beside the figure; files carry it as metadata. No
pyplot, so no state is shared; the same data give the same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_tables.figure_data import FigureData, GainRow, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

# Okabe and Ito (2008), without the yellow that no printer shows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 2)),
    (0, (6, 2, 1.5, 2)),
    (0, (1.5, 1.5)),
    (0, (9, 2, 3, 2)),
    (0, (3, 3)),
    (0, (6, 2, 1.5, 2, 1.5, 2)),
)
MARKERS = "os^Dv<P"
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo")

SIZE = (3.9, 2.7)  # inches of the axes; the texts around them come on top
LEGEND_WIDTH = 56  # characters of a label, in one column of two a bit less than half of it
GAIN_WIDTH, GAIN_ROW, GAIN_LINE = 3.1, 0.36, 0.19  # inches: axes of a forest plot, a row, a line of its label
GAIN_LABEL = 25  # characters of such a line
OURS, WITH_INTERVAL = "measured", ", with the 95 % interval"
MANY = 60  # points from which a line is drawn thinner
BAR_ROOM = 0.8  # of a category's width
LOWEST = 1e-4  # of a logarithmic axis of probabilities: below it nothing is left to see
STYLE: Any = {
    "font.family": ["DejaVu Sans", "sans-serif"],  # the first comes with matplotlib
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "hatch.linewidth": 0.6,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",  # texts, not outlines: a fifth of the size; other fonts are narrower than DejaVu
    "svg.hashsalt": "tfkd",
    "savefig.dpi": 160,
}
UNDATED: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "Producer": None, "Creator": None},
}
# Twice as fast as the usual 6.
SAVED: dict[str, dict[str, Any]] = {"png": {"pil_kwargs": {"compress_level": 3}}}


def draw(data: FigureData, path: Path, formats: Sequence[str] = ("png", "svg", "pdf")) -> tuple[Path, ...]:
    """Writes `path` with each format's suffix and gives the files; the folder must exist."""
    from matplotlib import rc_context

    figure, written = drawing(data), []
    with rc_context(STYLE):
        room = figure.get_tightbbox().padded(0.1)  # once: for each file it takes as long as a drawing
        for each in formats:
            file = path.with_name(f"{path.name}.{each}")
            metadata = {**UNDATED.get(each, {}), "Title": data.title}
            figure.savefig(file, format=each, bbox_inches=room, metadata=metadata, **SAVED.get(each, {}))
            written.append(file)
    return tuple(written)


def drawing(data: FigureData) -> Drawing:
    """The matplotlib figure, not saved anywhere."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawing

    with rc_context(STYLE):
        figure = Drawing(figsize=SIZE)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlabel(data.x_label)
        axes.set_ylabel(data.y_label)
        if data.gains:
            _draw_gains(axes, data.gains)
        else:
            _draw_series(axes, data)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            columns = 1 if max(map(len, labels)) > LEGEND_WIDTH // 2 - 3 else 2
            folded = [textwrap.fill(each, LEGEND_WIDTH) for each in labels]
            axes.legend(
                handles,
                folded,
                loc="upper center",
                bbox_to_anchor=(0.5, 0),
                borderaxespad=4.2,  # lines of text: below the ticks and the label of the x axis
                ncols=columns,
            )
    return figure


def _draw_series(axes: Axes, data: FigureData) -> None:
    bars = [line for line in data.lines if line.look == "bars"]
    _draw_bars(axes, bars)
    for line in data.lines:
        if line.look in ("level", "printed level"):
            _draw_level(axes, line)
        elif line.look in ("printed", "read off"):
            _draw_points(axes, line, bars)
        elif line.look != "bars":
            _draw_line(axes, line)
    _set_ranges(axes, data)
    if data.status:
        axes.set_title(data.status, color="#666666", style="italic")


def _draw_gains(axes: Axes, rows: Sequence[GainRow]) -> None:
    """A forest plot: a dot and its interval for each row, the printed gain as a hollow diamond."""
    places = range(len(rows))
    axes.axvline(0.0, color="#444444", linewidth=1.0, zorder=1)
    for place, row in enumerate(rows):
        if row.interval is not None:
            axes.plot(row.interval, (place, place), color=_colour(0), linewidth=1.8, marker="|", zorder=2)
    ours = OURS + WITH_INTERVAL * any(row.interval is not None for row in rows)
    axes.plot([row.gain for row in rows], places, "o", color=_colour(0), zorder=4, label=ours)
    printed = [(row.published, place) for place, row in enumerate(rows) if row.published is not None]
    if printed:
        x, y = zip(*printed, strict=True)
        axes.plot(
            x, y, "D", markerfacecolor="white", markeredgecolor=_colour(1), markersize=6, zorder=3,
            label="printed in the paper",
        )  # fmt: skip
    fold = textwrap.TextWrapper(GAIN_LABEL, break_on_hyphens=False, break_long_words=False)
    labels = [fold.fill(_unbroken(row.labels)) for row in rows]
    axes.set_yticks(places, labels, fontsize=9)
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row on top
    axes.grid(visible=False, axis="y")
    lines = max(label.count("\n") + 1 for label in labels)
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_size_inches(GAIN_WIDTH, max(GAIN_ROW, GAIN_LINE * lines) * len(rows))


def _unbroken(labels: Sequence[str]) -> str:
    """The labels joined so that lines break between them only."""
    return "\N{NO-BREAK SPACE}· ".join(label.replace(" ", "\N{NO-BREAK SPACE}") for label in labels)


def _colour(slot: int) -> str:
    return COLOURS[slot % len(COLOURS)]


def _draw_line(axes: Axes, line: Line) -> None:
    colour, dashes = _colour(line.slot), DASHES[line.slot % len(DASHES)]
    marker = MARKERS[line.slot % len(MARKERS)] if line.look == "marked line" or len(line.x) == 1 else ""
    axes.plot(
        line.x,
        line.y,
        color=colour,
        linestyle=dashes,
        linewidth=1.6,
        marker=marker,
        label=line.label,
        zorder=3,
    )
    if line.low and line.n > 1:
        axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0, zorder=2)


def _draw_points(axes: Axes, points: Line, bars: Sequence[Line]) -> None:
    """Filled diamonds are printed numbers; hollow ones were read off a printed figure."""
    colour = "#000000" if bars else _colour(points.slot)
    index = next((at for at, each in enumerate(bars) if each.slot == points.slot), None)
    shift = 0.0 if index is None else _bar_shift(index, len(bars))
    axes.plot(
        [x + shift for x in points.x],
        points.y,
        linestyle="none",
        marker="D",
        markersize=6,
        markerfacecolor="white" if points.look == "read off" else colour,
        markeredgecolor=colour,
        markeredgewidth=1.3,
        label=points.label,
        zorder=4,
    )


def _draw_level(axes: Axes, level: Line) -> None:
    colour = _colour(level.slot)
    dashes: Any = (0, (1, 2)) if level.look == "printed level" else "-"
    axes.axhline(level.y[0], color=colour, linestyle=dashes, linewidth=1.6, label=level.label, zorder=2)
    if level.low != level.high:
        axes.axhspan(level.low[0], level.high[0], color=colour, alpha=0.12, linewidth=0, zorder=1)


def _draw_bars(axes: Axes, bars: Sequence[Line]) -> None:
    """Groups by category, counted from 1; the tallest bar of a set carries its number."""
    if not bars:
        return
    for index, each in enumerate(bars):
        shift = _bar_shift(index, len(bars))
        x = [category + shift for category in each.x]
        drawn = axes.bar(
            x,
            each.y,
            width=BAR_ROOM / len(bars),
            color=_colour(each.slot),
            hatch=HATCHES[each.slot % len(HATCHES)],
            edgecolor="white",
            linewidth=0.4,
            label=each.label,
            zorder=2,
        )
        tallest = max(each.y) if max(each.y) > min(each.y) else None
        numbers = [f"{y:.4f}" if y == tallest else "" for y in each.y]
        axes.bar_label(drawn, numbers, padding=8, rotation=90, fontsize=8)
    axes.set_xticks(range(1, max(len(each.y) for each in bars) + 1))
    axes.grid(visible=False, axis="x")
    axes.set_ylim(0, 1.25 * max(max(each.y) for each in bars))


def _bar_shift(index: int, sets: int) -> float:
    """How far the bars of one set stand from the middle of their category."""
    return (index - (sets - 1) / 2) * BAR_ROOM / sets


def _set_ranges(axes: Axes, data: FigureData) -> None:
    """Epochs and classes are counted from 1."""
    if data.kind == "soft-targets":
        axes.set_yscale("log")
        axes.set_ylim(LOWEST, 1.3)
    if data.kind in ("curves", "soft-targets"):
        last = max((x for line in data.lines for x in line.x), default=10)
        room = max(0.015 * (last - 1), 0.04)
        axes.set_xlim(1 - room, last + room)
    if data.kind == "curves":
        from matplotlib.ticker import MaxNLocator

        ticks = MaxNLocator(6, integer=True).tick_values(1, last)
        axes.set_xticks([1, *(tick for tick in ticks if 2 <= tick <= last)])
