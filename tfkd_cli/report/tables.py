"""The tables and the claims as files: Markdown, CSV, LaTeX, HTML."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from paper_tables import render

if TYPE_CHECKING:
    from tfkd_cli.report.contents import Contents


def files(contents: Contents) -> Iterator[tuple[str, str]]:
    """File name and text of each."""
    for slug, comparison in contents.comparisons.items():
        yield f"{slug}.md", render.markdown(comparison)
        yield f"{slug}.csv", render.csv(comparison)
        yield f"{slug}.tex", render.latex(comparison)
        yield f"{slug}.html", render.html(comparison)
    for judged in contents.claims[:1]:
        yield "claims.md", render.claims_markdown(judged.best, judged.last)
        yield "claims.tex", render.claims_latex(judged.best, judged.last)
