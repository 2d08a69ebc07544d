"""A comparison as a sheet, in the paper's own layout.

With several columns of numbers a field stacks its lines (paper, best, gain, last …); with one column, as
in the demo, each line becomes a column of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from paper_tables import printed
from paper_tables.compare import CellComparison, Comparison, Reading
from paper_tables.gains import Gain
from paper_tables.printed import signed
from paper_tables.render.footnotes import Footnotes
from paper_tables.render.sheet import Field, Line, Sheet, SheetRow, Style
from paper_tables.verdicts import CellWord

Link = Callable[[CellComparison], str | None]

STYLES: dict[CellWord, Style] = {"agrees": "good", "differs": "bad"}

LABELS = {
    "paper": "paper",
    "best": "best epoch",
    "n": "n",
    "gain": "gain over baseline [95 %]",
    "could show": "could show",
    "last": "last epoch",
    "gain, last": "gain, last epoch [95 %]",
}

FOR_VERDICTS = ("could show", "gain, last")  # where nothing is published, a terminal has no room for them

EXPLAINED = (
    "paper: mean±std (gain) as printed. best, last: mean±std over n seeds at the best and the last epoch, "
    "Δ from the paper. gain: over the same baseline, with its 95 % interval; (3 pairs): of the 3 seeds that "
    "both have, so that it is not the difference of the means. could show: the smallest gain these seeds "
    "could have shown (80 % power), and how many seeds the printed gain would need."
)


def comparison_sheet(comparison: Comparison, *, link: Link = lambda cell: None) -> Sheet:
    """What there is to show of a comparison; `link` says where a measured value leads in HTML."""
    table = comparison.table
    footnotes = Footnotes(marks_assumptions=table.kind in ("paper", "control"))
    stacked = len(table.columns) > 1
    rows = tuple(
        SheetRow(
            labels=row.labels,
            fields=tuple(
                _field(each, footnotes, link=link, stacked=stacked) if each else Field() for each in cells
            ),
        )
        for row, cells in zip(table.rows, comparison.rows, strict=True)
    )
    explained = (EXPLAINED,) if comparison.published and any(each.n for each in comparison.cells()) else ()
    sheet = Sheet(
        name=table.name,
        title=f"{table.source}: {table.title}" if table.kind == "paper" else table.title,
        heads=table.heads,
        columns=tuple(column.label for column in table.columns),
        rows=rows,
        notes=(*explained, *footnotes.notes(comparison)),
        order=tuple(LABELS),
    )
    return sheet if stacked else _spread_out(sheet, published=comparison.published)


def _spread_out(sheet: Sheet, *, published: bool) -> Sheet:
    """One column per line instead of one line per number."""
    present = {line.label for row in sheet.rows for field in row.fields for line in field.lines}
    left_out = () if published else FOR_VERDICTS
    labels = [label for label in LABELS if label in present and label not in left_out]
    rows = tuple(
        SheetRow(
            labels=row.labels,
            fields=tuple(
                Field(lines=(replace(line, label=""),), link=field.link if line.label == "best" else None)
                for field in row.fields
                for line in map(field.line, labels)
            ),
        )
        for row in sheet.rows
    )
    return Sheet(
        name=sheet.name,
        title=sheet.title,
        heads=sheet.heads,
        columns=tuple(LABELS[label] for label in labels),
        rows=rows,
        notes=sheet.notes,
    )


def _field(cell: CellComparison, footnotes: Footnotes, *, link: Link, stacked: bool) -> Field:
    lines = (*_paper_lines(cell, footnotes), *_measured_lines(cell, footnotes, stacked=stacked))
    return Field(lines=tuple(line for line in lines if line.text), link=link(cell))


def _paper_lines(cell: CellComparison, footnotes: Footnotes) -> list[Line]:
    published = cell.cell.published
    text = printed.show(published) + footnotes.printed(cell.cell)
    value = published.gain if published.mean is None else published.mean
    return [Line(text, "paper", "paper", value)]


def _measured_lines(cell: CellComparison, footnotes: Footnotes, *, stacked: bool) -> list[Line]:
    marks, count = footnotes.assumption(cell.assumed), count_text(cell)
    if cell.best is None or cell.last is None:
        if stacked:
            return [Line(count + marks if count else "", "best", "faint")]
        return [Line(marks if count else "", "best", "faint"), Line(count, "n", "faint", 0)]
    marks += footnotes.warning(cell.warnings)
    best, last, gain = cell.best, cell.last, cell.best.gain
    could_show = could_show_text(gain.smallest if gain else None, best.seeds_for_printed_gain)
    return [
        _level(best, "best", footnotes, after=(marks, f"n={count}" if stacked else "")),
        Line("" if stacked else count, "n", value=cell.n),
        _gain(best, "gain", footnotes),
        Line((could_show or "?") if gain else "", "could show", value=gain.smallest if gain else None),
        _level(last, "last", footnotes, after=(marks, "")),
        _gain(last, "gain, last", footnotes),
    ]


def _level(reading: Reading, label: str, footnotes: Footnotes, *, after: tuple[str, str]) -> Line:
    marks, n = after
    difference, word = reading.level.difference, reading.level.word
    delta = "" if difference is None else f"Δ{signed(difference)}"
    parts = (level_text(reading) + marks, n, delta, footnotes.verdict(word))
    return Line(" ".join(filter(None, parts)), label, STYLES.get(word, ""), reading.mean)


def _gain(reading: Reading, label: str, footnotes: Footnotes) -> Line:
    if reading.gain is None:
        return Line("", label)
    word = reading.gain_level.word
    parts = (gain_text(reading.gain), footnotes.verdict(word))
    return Line(" ".join(filter(None, parts)), label, STYLES.get(word, ""), reading.gain.mean)


def level_text(reading: Reading) -> str:
    """`70.90±0.21`; no ± for a single run."""
    return f"{reading.mean:.2f}" + (f"±{reading.std:.2f}" if reading.std is not None else "")


def count_text(cell: CellComparison) -> str:
    """`3`, or `2/3` while runs are missing; nothing where none was asked for."""
    if not cell.wanted:
        return ""
    return str(cell.n) if cell.n == cell.wanted else f"{cell.n}/{cell.wanted}"


def gain_text(gain: Gain) -> str:
    """`+2.52 [+2.11, +2.93] (3 pairs)`; pairs only where some runs are without a partner."""
    interval = f" [{signed(gain.interval.low)}, {signed(gain.interval.high)}]" if gain.interval else ""
    return f"{signed(gain.mean)}{interval}" + (
        f" ({gain.pairs} pairs)" if gain.partial and gain.pairs else ""
    )


def could_show_text(smallest: float | None, seeds: int | None) -> str:
    """`0.42, 2 seeds`: the smallest gain these seeds could have shown, the seeds the printed one needs."""
    if smallest is None:
        return ""
    return f"{smallest:.2f}" + (f", {seeds} seeds" if seeds is not None else "")
