"""What the page's template draws: sheets with links, intervals as coordinates, numbers as text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paper_tables.compare import CellComparison
from paper_tables.figure_data import FigureData
from paper_tables.gains import Gain
from paper_tables.render.cells import comparison_sheet, gain_text
from paper_tables.render.claims import sentence, verdict_text
from paper_tables.render.sheet import Line, Sheet
from paper_tables.statistics import Interval
from paper_tables.verdicts import ClaimVerdict, ContrastResult
from tfkd_cli.compare import sheets
from tfkd_cli.compare.answer import Answer, Difference
from tfkd_cli.report.details import cell_name, contrast_name
from tfkd_cli.report.figures import gains_name
from tfkd_cli.report.items import Item
from tfkd_cli.reproduction.judging import Judged

if TYPE_CHECKING:
    from tfkd_cli.report.contents import Contents

SIGNS = {"holds": "✓", "contradicted": "✗", "not shown": "○", "too few runs": "?", "not comparable": "–"}
TONES = {"holds": "good", "contradicted": "bad"}
Place = Callable[[float], float]
LEAST_SPAN = 0.4  # points: an axis is never narrower
LINKED = "top-1 %"  # the column of a comparison that leads to its runs


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of a table: its lines, what it sorts by, where its runs are shown."""

    lines: Sequence[Line]
    value: float | None = None
    href: str = ""

    @property
    def linked(self) -> Line | None:
        """The line that carries the link: the measured value."""
        return next((line for line in self.lines if line.text and line.label in ("", "best")), None)


Rows = Sequence[tuple[Sequence[str], Sequence[Cell]]]
"""The texts that head each row of a table, and its cells."""


@dataclass(frozen=True, kw_only=True)
class TableView:
    """A table as the template draws it."""

    item: Item
    sheet: Sheet
    rows: Rows
    wanted: int
    done: int
    gains: FigureData | None  # the forest plot below it


def table_views(contents: Contents) -> list[TableView]:
    """All tables: those with finished runs first, each group in the paper's order."""
    views = [_table_view(item, contents) for item in contents.tables]
    return sorted(views, key=lambda view: not view.done)


def _table_view(item: Item, contents: Contents) -> TableView:
    comparison = contents.comparisons[item.slug]
    sheet = comparison_sheet(comparison)
    stacked = len(comparison.table.columns) > 1
    rows = []
    for row, cells in zip(sheet.rows, comparison.rows, strict=True):
        own = cells if stacked else [cells[0]] * len(row.fields)
        pairs = zip(row.fields, own, strict=True)
        fields = [
            Cell(lines=field.lines, value=field.value, href=_href(item, cell) if stacked or not index else "")
            for index, (field, cell) in enumerate(pairs)
        ]
        rows.append((row.labels, fields))
    counts = next(each for each in contents.missing if each.item is item)
    return TableView(
        item=item,
        sheet=sheet,
        rows=rows,
        wanted=counts.wanted,
        done=counts.done,
        gains=contents.figures.get(gains_name(item.slug)),
    )


def _href(item: Item, cell: CellComparison | None) -> str:
    return "" if cell is None or not cell.wanted else f"#cell={cell_name(item, cell)}"


@dataclass(frozen=True, kw_only=True)
class AnswerView:
    """A comparison of `tfkd compare` as the template draws it; `axes` has one interval per difference."""

    item: Item
    answer: Answer
    methods: Sheet
    differences: Sheet
    trials: Sheet
    rows: Rows  # of `methods`, with links to their runs
    trial_rows: Rows
    axes: Sequence[Axis]


def answer_views(contents: Contents) -> list[AnswerView]:
    """All comparisons, the newest first."""
    found = []
    for item in contents.items:
        if item.compared:
            answer = contents.answers[item.slug]
            methods, differences, trials = sheets.sheets(answer)
            found.append(
                AnswerView(
                    item=item,
                    answer=answer,
                    methods=methods,
                    differences=differences,
                    trials=trials,
                    rows=_plain_rows(methods, link=f"#cell={item.slug}/"),
                    trial_rows=_plain_rows(trials),
                    axes=_intervals(answer.differences),
                )
            )
    return found


def _plain_rows(sheet: Sheet, *, link: str = "") -> Rows:
    """The rows of a sheet; with `link`, one that leads to the runs of each row's method."""
    return [
        (row.labels, [
            Cell(lines=field.lines, href=f"{link}{row.labels[0]}" if link and head == LINKED else "")
            for head, field in zip(sheet.columns, row.fields, strict=True)
        ])
        for row in sheet.rows
    ]  # fmt: skip


def _intervals(differences: Sequence[Difference]) -> list[Axis]:
    """One axis per difference, all of one scale."""
    ends = [0.0]
    for each in differences:
        ends += [end for end in (each.points, each.low, each.high) if end is not None]
    place, low, high = _scale(ends)
    return [
        Axis(
            zero=place(0),
            margin=None,
            printed=None,
            marks=[
                Mark(
                    epoch="best",
                    at=place(each.points),
                    low=None if each.low is None else place(each.low),
                    high=None if each.high is None else place(each.high),
                    text=f"{each.points:+.2f}",
                )
            ],
            low=low,
            high=high,
        )
        for each in differences
    ]


def _scale(ends: Sequence[float]) -> tuple[Place, str, str]:
    """Points → percent of an axis that holds all `ends`, and the texts at its own ends."""
    span = max(LEAST_SPAN, max(ends) - min(ends))
    low, high = min(ends) - 0.06 * span, max(ends) + 0.06 * span
    return (lambda points: round(100 * (points - low) / (high - low), 2)), f"{low:+.1f}", f"{high:+.1f}"


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One measured gain on an axis, in percent of its width."""

    epoch: str
    at: float
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Gains in points on one axis: where 0, the margin and the printed gain lie, and what was measured."""

    zero: float
    margin: tuple[float, float] | None
    printed: float | None
    marks: Sequence[Mark]
    low: str
    high: str


@dataclass(frozen=True, kw_only=True)
class ClaimView:
    """One claim with its verdicts on the best and on the last epoch."""

    best: ClaimVerdict
    last: ClaimVerdict
    words: tuple[str, str]
    sentences: tuple[str, str]
    axis: Axis | None
    contrasts: Sequence[tuple[ContrastResult, str, str, str]]  # result, gain best, gain last, link


def claim_views(judged: Judged, number: int) -> list[ClaimView]:
    """All claims of one manner."""
    return [_claim_view(best, last, number) for best, last in zip(judged.best, judged.last, strict=True)]


def _claim_view(best: ClaimVerdict, last: ClaimVerdict, number: int) -> ClaimView:
    rows = []
    for index, (ours, later) in enumerate(zip(best.contrasts, last.contrasts, strict=True)):
        link = f"#cell={contrast_name(number, best.claim.name, index)}" if any(ours.n) else ""
        rows.append((ours, _gain(ours.gain), _gain(later.gain), link))
    return ClaimView(
        best=best,
        last=last,
        words=(verdict_text(best), verdict_text(last)),
        sentences=(sentence(best), sentence(last)),
        axis=_axis(best, last),
        contrasts=rows,
    )


def _gain(gain: Gain | None) -> str:
    return gain_text(gain) if gain else ""


def _axis(best: ClaimVerdict, last: ClaimVerdict) -> Axis | None:
    measured = [each for each in (best, last) if each.gain is not None]
    if not measured:
        return None
    margin = best.claim.margin if best.claim.relation == "equal" else None
    ends = [0.0, *([-margin, margin] if margin else []), *(_ends(measured))]
    if best.printed_gain is not None:
        ends.append(best.printed_gain)
    place, low, high = _scale(ends)
    return Axis(
        zero=place(0),
        margin=(place(-margin), place(margin)) if margin else None,
        printed=None if best.printed_gain is None else place(best.printed_gain),
        marks=[_mark(each, place) for each in measured],
        low=low,
        high=high,
    )


def _ends(verdicts: Sequence[ClaimVerdict]) -> Iterator[float]:
    for each in verdicts:
        if each.gain is not None:
            yield each.gain.mean
            yield from each.interval or ()


def _mark(verdict: ClaimVerdict, place: Place) -> Mark:
    assert verdict.gain is not None
    interval: Interval | None = verdict.interval
    return Mark(
        epoch=verdict.epoch,
        at=place(verdict.gain.mean),
        low=place(interval.low) if interval else None,
        high=place(interval.high) if interval else None,
        text=f"{verdict.gain.mean:+.2f}",
    )
