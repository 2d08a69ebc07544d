"""The page: one index.html, which loads nothing from the network and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from paper_tables.compare import CellComparison
from paper_tables.render.cells import comparison_sheet, gain_text
from paper_tables.render.claims import JUDGED, sentence, verdict_text
from paper_tables.render.footnotes import LEGEND, marked
from paper_tables.render.sheet import Sheet
from paper_tables.spec import Figure
from paper_tables.verdicts import NOTES
from tfkd_cli import console
from tfkd_cli.compare import sheets
from tfkd_cli.errors import UNSEEN, plain
from tfkd_cli.report.details import cell_name, contrast_name
from tfkd_cli.report.figures import gains_name
from tfkd_cli.spec import TRAINER_VERSION

if TYPE_CHECKING:
    from jinja2 import Environment

    from paper_tables.figure_data import FigureData
    from tfkd_cli.report.contents import Contents, Missing
    from tfkd_cli.report.items import Item
    from tfkd_cli.report.staging import Staging

SIGNS = {"holds": "✓", "contradicted": "✗", "not shown": "○", "too few runs": "?", "not comparable": "–"}
TONES = {"holds": "good", "contradicted": "bad"}
TEMPLATES = Path(__file__).with_name("templates")


def render(contents: Contents, data: Mapping[str, Any], staging: Staging) -> str:
    """The text of index.html; `data` is what its script shows, its links lead to the files of `staging`."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    words = [verdict.word for verdict in contents.claims[0].best]
    return (
        _environment()
        .get_template("page.html")
        .render(
            contents=contents,
            data=data,
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
            judged=[word for word in words if word in JUDGED],
            answers=[(item, contents.answers[item.slug]) for item in contents.items if item.compared],
            gains=lambda slug: contents.figures.get(gains_name(slug)),
            tables=_tables(contents),
            figures=_figures(contents),
            picture=partial(_picture, staging),
            files=[name for name in staging.names if not name.startswith(".")],
            legend=LEGEND.values(),
            trainer=TRAINER_VERSION,
            explained=NOTES.values(),
        )
    )


def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: plain(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_function"] = _json
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False}
    environment.filters["duration"] = console.duration
    environment.filters["marked"] = lambda text: Markup(marked(plain(text)))
    environment.globals.update(
        signs=SIGNS,
        tones=TONES,
        zip=zip,
        answer_sheets=sheets.sheets,
        contrast_name=contrast_name,
        gain_text=gain_text,
        sentence=sentence,
        verdict_text=verdict_text,
    )
    return environment


def _json(value: Any, **how: Any) -> str:
    """JSON whose texts show control characters and marks of direction as escapes, as `errors.plain` does."""
    text = json.dumps(value, **how)
    return json.dumps(_plain(value), **how) if UNSEEN.search(text) or "\\u00" in text else text


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _tables(contents: Contents) -> list[tuple[Missing, Sheet]]:
    """How far each table is, and its sheet with links to runs; those with finished runs first."""
    found = []
    for item in contents.tables:

        def link(cell: CellComparison, item: Item = item) -> str | None:
            return f"#cell={cell_name(item, cell)}" if cell.wanted else None

        progress = next(each for each in contents.missing if each.item is item)
        found.append((progress, comparison_sheet(contents.comparisons[item.slug], link=link)))
    return sorted(found, key=lambda pair: not pair[0].done)


def _figures(contents: Contents) -> list[tuple[Item, FigureData]]:
    """The paper's figures and their data; those with nothing measured last."""
    found = [(item, contents.figures[item.slug]) for item in contents.items if isinstance(item.what, Figure)]
    return sorted(found, key=lambda pair: bool(pair[1].status))


def _picture(staging: Staging, name: str, *, alt: str) -> Markup:
    """A figure as an image of its own, whose names cannot collide with the page's.

    Its size is given, so that the page below it does not move while it loads.
    """
    drawn = staging.read(f"figures/{name}.svg")
    width, height = re.findall(rb"<svg[^>]*? width=.([\d.]+)pt. height=.([\d.]+)pt.", drawn)[0]
    return Markup('<img src="data:image/svg+xml;base64,{}" width="{:.0f}" height="{:.0f}" alt="{}">').format(
        base64.b64encode(drawn).decode(), float(width), float(height), plain(alt)
    )
