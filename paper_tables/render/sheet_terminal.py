"""A sheet in a terminal: as many columns side by side as fit, the rest below; no word or number is broken."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from paper_tables.render.sheet import Sheet

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

COLOURS = {"": "", "paper": "cyan", "good": "green", "bad": "bold red", "faint": "dim"}
GAP, EDGES = 3, 2  # cells between two columns, and beside the outer ones, of rich's SIMPLE_HEAD
LONGEST_VALUE = 40  # cells; a text that begins with a number and is longer is a sentence
_VALUE = re.compile(r"[-+±–<(\[]*\d")


def layout(
    columns: Sequence[Sequence[str]], *, fixed: int, width: int, widest: int | None = None
) -> list[dict[int, int]]:
    """The tables into which columns (their texts) are laid out: place of a column → its width in cells.

    As many stand side by side as fit into `width` unbroken; the others follow in further tables. The first
    `fixed` columns head each table, not wider than `widest` unless a word is.
    """
    least = [max(map(_unbroken, texts), default=0) for texts in columns]
    natural = [max(map(_cells, texts), default=0) for texts in columns]
    if widest is not None:
        natural[:fixed] = [max(least[at], min(natural[at], widest)) for at in range(fixed)]
    heads = [*range(fixed)]
    free = room = width - EDGES + GAP - sum(least[at] + GAP for at in heads)
    groups: list[list[int]] = [[]]
    for at in range(fixed, len(columns)):
        if groups[-1] and least[at] + GAP > room:
            groups.append([])
            room = free
        groups[-1].append(at)
        room -= least[at] + GAP
    return [_widths(heads, group, natural, least, width=width) for group in groups]


def _widths(
    heads: Sequence[int], others: Sequence[int], natural: Sequence[int], least: Sequence[int], *, width: int
) -> dict[int, int]:
    """The widths of these columns in one table: the widest are narrowed first, heads last, none too far."""
    found = {at: natural[at] for at in (*heads, *others)}
    while sum(found.values()) + GAP * (len(found) - 1) + EDGES > width:
        wide = [at for at in others if found[at] > least[at]] or [at for at in heads if found[at] > least[at]]
        # A word that is wider than the table is broken.
        wide = wide or [at for at in others if found[at] > LONGEST_VALUE]
        if not wide:
            break
        found[max(wide, key=found.__getitem__)] -= 1
    return found


def _unbroken(text: str) -> int:
    """Cells of what may not be broken: all of a number and what belongs to it, else the longest word."""
    whole = len(text) <= LONGEST_VALUE and _VALUE.match(text) is not None
    return max(map(_cells, [text] if whole else text.split()), default=0)


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return max(map(cell_len, text.splitlines()), default=0)


def text(sheet: Sheet, width: int = 100) -> RenderableType:
    """What rich prints: the title, the table, the notes. Colours go when the console has none."""
    from rich.console import Group
    from rich.text import Text

    lines = [line for row in sheet.rows for line in sheet.lines(row)]
    columns = [[title, *(line[at].text for line in lines)] for at, title in enumerate(sheet.titles)]
    fixed = len(sheet.heads) + sheet.labelled
    parts = layout(columns, fixed=fixed, width=width, widest=sheet.head_width)
    tables = [_table(sheet, widths, fixed) for widths in parts]
    notes = [Text(note, style="dim") for note in sheet.notes]
    return Group(Text(sheet.title, style="bold"), *tables, *notes)


def _table(sheet: Sheet, widths: Mapping[int, int], fixed: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0), show_edge=True)
    for at, cells in widths.items():
        table.add_column(Text(sheet.titles[at]), width=cells, overflow="fold")
    places = [at - fixed for at in widths if at >= fixed]
    rows = [replace(row, fields=tuple(row.fields[at] for at in places)) for row in sheet.rows]
    shown = [list(sheet.lines(row)) for row in rows]
    apart = any(len(lines) > 1 for lines in shown)  # rows of several lines need air between them
    for lines in shown:
        for number, line in enumerate(lines, 1):
            texts = (Text(each.text, style=COLOURS[each.style]) for each in line)
            table.add_row(*texts, end_section=apart and number == len(lines))
    return table
