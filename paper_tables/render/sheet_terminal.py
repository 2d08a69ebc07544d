"""A sheet in a terminal: as many columns side by side as fit, the rest below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from paper_tables.render.sheet import Sheet, SheetRow

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

COLOURS = {"": "", "paper": "cyan", "good": "green", "bad": "bold red", "faint": "dim"}
GAP = 2  # spaces between columns


def text(sheet: Sheet, width: int = 100) -> RenderableType:
    """What rich prints: the title, the table, the notes. Colours go when the console has none."""
    from rich.console import Group
    from rich.text import Text

    tables = [_table(sheet, columns) for columns in _chunks(sheet, width)]
    notes = [Text(note, style="dim") for note in sheet.notes]
    return Group(Text(sheet.title, style="bold"), *tables, *notes)


def _table(sheet: Sheet, columns: Sequence[int]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP, 0, 0), show_edge=True)
    for head in sheet.heads:
        table.add_column(Text(head), max_width=sheet.head_width)
    if sheet.labelled:
        table.add_column("")
    for index in columns:
        table.add_column(Text(sheet.columns[index]), overflow="fold")
    shown_lines = [_shown(sheet, row, columns) for row in sheet.rows]
    apart = any(len(labels) > 1 for labels in shown_lines)  # rows of several lines need air between them
    for row, labels in zip(sheet.rows, shown_lines, strict=True):
        for number, label in enumerate(labels):
            heads = [Text(each) for each in (row.labels if number == 0 else ("",) * len(row.labels))]
            lines = [row.fields[index].line(label) for index in columns]
            texts = [Text(line.text, style=COLOURS[line.style]) for line in lines]
            shown = [Text(label, style="dim")] if sheet.labelled else []
            table.add_row(*heads, *shown, *texts, end_section=apart and number == len(labels) - 1)
    return table


def _shown(sheet: Sheet, row: SheetRow, columns: Sequence[int]) -> tuple[str, ...]:
    part = SheetRow(labels=row.labels, fields=tuple(row.fields[index] for index in columns))
    return part.line_labels(sheet.order)


def _chunks(sheet: Sheet, width: int) -> Iterator[list[int]]:
    """Groups of columns that fit beside the heads; at least one column each."""
    from rich.cells import cell_len

    def widest(texts: Sequence[str]) -> int:
        return max((cell_len(word) for word in texts), default=0) + GAP

    heads = [widest([head, *(row.labels[at] for row in sheet.rows)]) for at, head in enumerate(sheet.heads)]
    labels = widest(sheet.order) if sheet.labelled else 0
    free = width - sum(min(each, sheet.head_width + GAP) for each in heads) - labels
    room, chunk = free, list[int]()
    for index, column in enumerate(sheet.columns):
        need = widest([column, *(line.text for row in sheet.rows for line in row.fields[index].lines)])
        if chunk and need > room:
            yield chunk
            room, chunk = free, []
        chunk.append(index)
        room -= need
    yield chunk
