"""The page: one self-contained index.html."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_tables import render as rendering

if TYPE_CHECKING:
    from tfkd_cli.report.contents import Contents
    from tfkd_cli.report.staging import Staging


def render(contents: Contents, staging: Staging) -> str:
    """The text of index.html."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tfkd_cli.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    from markupsafe import Markup

    fragments = [Markup(rendering.html(each)) for each in contents.comparisons.values()]
    return environment.get_template("page.html").render(contents=contents, tables=fragments)
