"""A sheet as a Markdown table, one line of a field per line of the table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from paper_tables.render.sheet import Sheet

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def markdown(sheet: Sheet) -> str:
    """Title, table, notes."""
    lines = [
        f"### {escape(sheet.title)}",
        "",
        _row(sheet.titles),
        "| --- " * len(sheet.titles) + "|",
    ]
    lines += [_row([each.text for each in line]) for row in sheet.rows for line in sheet.lines(row)]
    return "\n".join([*lines, "", *(f"- {escape(note)}" for note in sheet.notes)]).rstrip() + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(escape, cells)) + " |"


def escape(text: str) -> str:
    """`text` as Markdown shows it literally, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
