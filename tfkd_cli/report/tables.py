"""The tables and the claims as files: Markdown, CSV, LaTeX, HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from paper_tables import render
from paper_tables.compare import CellComparison, Comparison

if TYPE_CHECKING:
    from tfkd_cli.report.contents import Contents


def files(contents: Contents) -> Mapping[str, Callable[[], str]]:
    """File name → what gives its text."""
    found: dict[str, Callable[[], str]] = {}
    for slug, comparison in contents.comparisons.items():
        found[f"{slug}.md"] = partial(render.markdown, comparison)
        found[f"{slug}.csv"] = partial(render.csv, comparison)
        found[f"{slug}.tex"] = partial(render.latex, comparison)
        found[f"{slug}.html"] = partial(_document, slug, comparison)
    for judged in contents.claims[:1]:  # the paper's own scale
        found["claims.md"] = partial(render.claims_markdown, judged.best, judged.last)
        found["claims.tex"] = partial(render.claims_latex, judged.best, judged.last)
    return found


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
