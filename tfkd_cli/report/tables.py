"""The tables and the claims as files: Markdown, CSV, LaTeX, HTML."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from paper_tables import render
from paper_tables.compare import CellComparison, Comparison

if TYPE_CHECKING:
    from tfkd_cli.report.contents import Contents


def files(contents: Contents) -> Iterator[tuple[str, str]]:
    """File name and text of each."""
    for slug, comparison in contents.comparisons.items():
        yield f"{slug}.md", render.markdown(comparison)
        yield f"{slug}.csv", render.csv(comparison)
        yield f"{slug}.tex", render.latex(comparison)
        yield f"{slug}.html", _document(slug, comparison)
    for judged in contents.claims[:1]:  # the paper's own scale
        yield "claims.md", render.claims_markdown(judged.best, judged.last)
        yield "claims.tex", render.claims_latex(judged.best, judged.last)


DOCUMENT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem; }}
figure {{ margin: 0; }} figcaption {{ font-weight: 600; margin-bottom: .6rem; }}
.scroll {{ overflow-x: auto; }} table {{ border-collapse: collapse; }}
th, td {{ padding: .35rem .7rem; border-bottom: 1px solid #8886; text-align: left; vertical-align: top; }}
.label, .notes {{ color: #777; font-size: .85em; }} .paper {{ font-style: italic; }}
</style>
{body}</html>
"""


def _document(slug: str, comparison: Comparison) -> str:
    """A table as a small page of its own; a measured value leads to its runs on the large one."""

    def link(cell: CellComparison) -> str:
        return f"../index.html#cell={slug}/{cell.cell.row}/{cell.cell.column}"

    return DOCUMENT.format(title=escape(comparison.table.title), body=render.html(comparison, link=link))
