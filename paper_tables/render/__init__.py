"""A comparison, or the verdicts on the claims, as terminal table, Markdown, LaTeX, CSV, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paper_tables.compare import Comparison
from paper_tables.render import as_data, sheet_latex, sheet_markdown, sheet_terminal
from paper_tables.render.cells import comparison_sheet
from paper_tables.render.claims import claims_record, claims_sheet, sentence
from paper_tables.verdicts import ClaimVerdict

__all__ = [
    "claims_json",
    "claims_latex",
    "claims_markdown",
    "claims_text",
    "csv",
    "json",
    "latex",
    "markdown",
    "sentence",
    "text",
]

if TYPE_CHECKING:
    from rich.console import RenderableType


def text(comparison: Comparison, width: int = 100) -> RenderableType:
    """For a terminal of this width, printed by rich (which leaves colours out under NO_COLOR)."""
    return sheet_terminal.text(comparison_sheet(comparison), width)


def markdown(comparison: Comparison) -> str:
    """A Markdown table with its notes."""
    return sheet_markdown.markdown(comparison_sheet(comparison))


def latex(comparison: Comparison) -> str:
    """A `table` float with booktabs."""
    return sheet_latex.latex(comparison_sheet(comparison))


def csv(comparison: Comparison) -> str:
    """One line per cell."""
    return as_data.comparison_csv(comparison)


def json(comparison: Comparison) -> dict[str, Any]:
    """The shape of `show --format json`."""
    return as_data.comparison_record(comparison)


def claims_text(*by_epoch: Sequence[ClaimVerdict], width: int = 100) -> RenderableType:
    """The claims for a terminal: `claims_text(best, last)`."""
    return sheet_terminal.text(claims_sheet(*by_epoch), width)


def claims_markdown(*by_epoch: Sequence[ClaimVerdict]) -> str:
    """The claims as a Markdown table."""
    return sheet_markdown.markdown(claims_sheet(*by_epoch))


def claims_latex(*by_epoch: Sequence[ClaimVerdict]) -> str:
    """The claims as a `table` float."""
    return sheet_latex.latex(claims_sheet(*by_epoch))


def claims_json(*by_epoch: Sequence[ClaimVerdict]) -> list[dict[str, Any]]:
    """One record per claim and epoch."""
    return [record for verdicts in by_epoch for record in claims_record(verdicts)]
