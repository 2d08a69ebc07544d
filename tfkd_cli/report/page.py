"""The page: one self-contained index.html, which asks no network and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_tables.render.claims import JUDGED
from paper_tables.render.footnotes import LEGEND
from paper_tables.spec import Figure
from paper_tables.verdicts import NOTES
from tfkd_cli import console
from tfkd_cli.errors import UNSEEN, plain
from tfkd_cli.report import view
from tfkd_cli.report.spending import by_hardware

if TYPE_CHECKING:
    from jinja2 import Environment

    from tfkd_cli.report.contents import Contents
    from tfkd_cli.report.staging import Staging

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
            claims=[(each, view.claim_views(each, number)) for number, each in enumerate(contents.claims)],
            judged=[word for word in words if word in JUDGED],
            answers=view.answer_views(contents),
            tables=view.table_views(contents),
            figures=list(_figures(contents, staging)),
            hours=by_hardware(contents.frame),
            files=[name for name in staging.names if not name.startswith(".")],
            legend=LEGEND.values(),
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
    environment.globals.update(signs=view.SIGNS, tones=view.TONES)
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


def _figures(contents: Contents, staging: Staging) -> Iterator[tuple[Any, ...]]:
    """Each figure with its picture as a data URI: an image of its own, whose names cannot collide."""
    for item in contents.items:
        if isinstance(item.what, Figure):
            name = f"figures/{item.slug}"
            encoded = base64.b64encode(staging.read(f"{name}.svg")).decode()
            yield item, contents.figures[item.slug], f"data:image/svg+xml;base64,{encoded}", name
