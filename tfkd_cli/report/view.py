"""What the page's template draws: tables with links to their runs, answers, and claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from paper_tables.compare import CellComparison
from paper_tables.figure_data import FigureData
from paper_tables.gains import Gain
from paper_tables.render.cells import comparison_sheet, gain_text
from paper_tables.render.claims import sentence, verdict_text
from paper_tables.render.sheet import Sheet
from paper_tables.verdicts import ClaimVerdict, ContrastResult
from tfkd_cli.compare import sheets
from tfkd_cli.compare.answer import Answer
from tfkd_cli.report.details import cell_name, contrast_name
from tfkd_cli.report.figures import gains_name
from tfkd_cli.report.items import Item
from tfkd_cli.reproduction.judging import Judged

if TYPE_CHECKING:
    from tfkd_cli.report.contents import Contents, Missing

SIGNS = {"holds": "✓", "contradicted": "✗", "not shown": "○", "too few runs": "?", "not comparable": "–"}
TONES = {"holds": "good", "contradicted": "bad"}


@dataclass(frozen=True, kw_only=True)
class TableView:
    """A table as the template draws it."""

    item: Item
    sheet: Sheet
    counts: Missing  # how many of its runs are done
    gains: FigureData | None  # the forest plot below it


def table_views(contents: Contents) -> list[TableView]:
    """All tables: those with finished runs first, each group in the paper's order."""
    views = [_table_view(item, contents) for item in contents.tables]
    return sorted(views, key=lambda view: not view.counts.done)


def _table_view(item: Item, contents: Contents) -> TableView:
    def link(cell: CellComparison) -> str | None:
        return f"#cell={cell_name(item, cell)}" if cell.wanted else None

    return TableView(
        item=item,
        sheet=comparison_sheet(contents.comparisons[item.slug], link=link),
        counts=next(each for each in contents.missing if each.item is item),
        gains=contents.figures.get(gains_name(item.slug)),
    )


@dataclass(frozen=True, kw_only=True)
class AnswerView:
    """A comparison of `tfkd compare` as the template draws it."""

    item: Item
    answer: Answer
    methods: Sheet
    differences: Sheet
    trials: Sheet
    gains: FigureData | None  # the forest plot of the differences


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
                    gains=contents.figures.get(gains_name(item.slug)),
                )
            )
    return found


@dataclass(frozen=True, kw_only=True)
class ClaimView:
    """One claim with its verdicts on the best and on the last epoch."""

    best: ClaimVerdict
    last: ClaimVerdict
    words: tuple[str, str]
    sentences: tuple[str, str]
    contrasts: Sequence[tuple[ContrastResult, str, str, str]]  # result, gain best, gain last, link


def claim_views(judged: Judged, number: int) -> list[ClaimView]:
    """All claims, for one way of training the runs."""
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
        contrasts=rows,
    )


def _gain(gain: Gain | None) -> str:
    return gain_text(gain) if gain else ""
