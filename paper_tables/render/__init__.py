"""A comparison, or the verdicts on the claims, as terminal table, Markdown, LaTeX, HTML, CSV, JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from paper_tables.compare import Comparison
from paper_tables.render import html as _html
from paper_tables.render import latex as _latex
from paper_tables.render import markdown as _markdown
from paper_tables.render import records, terminal
from paper_tables.render.cells import Link, comparison_sheet

if TYPE_CHECKING:
    from rich.console import RenderableType


def text(comparison: Comparison, width: int = 100) -> RenderableType:
    """For a terminal of this width, printed by rich (which leaves colours out under NO_COLOR)."""
    return terminal.text(comparison_sheet(comparison), width)


def markdown(comparison: Comparison) -> str:
    """A Markdown table with its notes."""
    return _markdown.markdown(comparison_sheet(comparison))


def latex(comparison: Comparison) -> str:
    """A `table` float with booktabs."""
    return _latex.latex(comparison_sheet(comparison))


def html(comparison: Comparison, *, link: Link = lambda cell: None) -> str:
    """A fragment of HTML; `link` says where a measured value leads."""
    return _html.html(comparison_sheet(comparison, link=link))


def csv(comparison: Comparison) -> str:
    """One line per cell."""
    return records.comparison_csv(comparison)


def json(comparison: Comparison) -> dict[str, Any]:
    """The shape of `show --format json`."""
    return records.comparison_record(comparison)
