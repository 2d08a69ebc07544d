"""A sheet as a Markdown table, one line of a field per line of the table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from paper_tables.render.sheet import Sheet, SheetRow

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def markdown(sheet: Sheet) -> str:
    """Title, table, notes."""
    heads = [*sheet.heads, *([""] if sheet.labelled else []), *sheet.columns]
    lines = [
        f"### {escape(sheet.title)}",
        "",
        _row([escape(head) for head in heads]),
        _row(["---"] * len(heads)),
        *(_row(cells) for row in sheet.rows for cells in _lines(sheet, row)),
    ]
    return "\n".join([*lines, "", *(f"- {escape(note)}" for note in sheet.notes)]).rstrip() + "\n"


def _lines(sheet: Sheet, row: SheetRow) -> Iterator[list[str]]:
    for number, label in enumerate(row.line_labels(sheet.order)):
        heads = row.labels if number == 0 else ("",) * len(row.labels)
        texts = (field.line(label).text for field in row.fields)
        yield [escape(text) for text in (*heads, *([label] if sheet.labelled else []), *texts)]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escape(text: str) -> str:
    """`text` as Markdown shows it literally, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
