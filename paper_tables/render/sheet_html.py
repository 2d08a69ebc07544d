"""A sheet as a fragment of HTML: one `<tr>` per printed row, so it can be sorted; no style, no script."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from paper_tables.render.footnotes import LETTERS, plain_letters
from paper_tables.render.sheet import Field, Line, Sheet


def html(sheet: Sheet) -> str:
    """A `<figure>` with the table and its notes. Every text is escaped.

    `td[data-value]` is what a column sorts by; `.line.paper`, `.good`, `.bad`, `.faint` are for styling.
    """
    heads = "".join(f'<th scope="col">{escape(each)}</th>' for each in (*sheet.heads, *sheet.columns))
    parts = [
        f'<figure class="sheet" id="{escape(sheet.name)}">',
        f"<figcaption>{escape(sheet.title)}</figcaption>",
        f'<div class="scroll"><table><thead><tr>{heads}</tr></thead>',
        "<tbody>",
        *_rows(sheet),
        "</tbody></table></div>",
        *_notes(sheet),
        "</figure>",
    ]
    return "\n".join(parts) + "\n"


def _rows(sheet: Sheet) -> Iterator[str]:
    for row in sheet.rows:
        heads = "".join(f'<th scope="row">{escape(each)}</th>' for each in row.labels)
        yield f"<tr>{heads}{''.join(map(_field, row.fields))}</tr>"


def _field(field: Field) -> str:
    value = "" if field.value is None else f' data-value="{field.value:.4f}"'
    return f"<td{value}>{''.join(_line(line, field.link) for line in field.lines)}</td>"


def _line(line: Line, link: str | None) -> str:
    text = marked(line.text)
    if link and line.label in ("", "best"):
        text = f'<a href="{escape(link)}">{text}</a>'
    label = f'<span class="label">{escape(line.label)}</span> ' if line.label else ""
    return f'<div class="{f"line {line.style}".strip()}">{label}{text}</div>'


def _notes(sheet: Sheet) -> Iterator[str]:
    if sheet.notes:
        yield '<ul class="notes">'
        yield from (f"<li>{marked(note)}</li>" for note in sheet.notes)
        yield "</ul>"


def marked(text: str) -> str:
    """`text` escaped, the letters of footnotes as `<sup>`."""
    return re.sub(f"[{LETTERS}]+", lambda found: f"<sup>{plain_letters(found[0])}</sup>", escape(text))
