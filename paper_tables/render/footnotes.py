"""Marks beside numbers and the notes that explain them: letters, † for assumptions, verdicts.

None of them can be read as part of a number or of arithmetic.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape

from paper_tables.compare import Comparison
from paper_tables.measured import teaching
from paper_tables.spec import Cell
from paper_tables.verdicts import NOTES, CellWord

LETTERS = "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"  # Unicode has no superscript q

MARKS: Mapping[CellWord, str] = {
    "agrees": "✓",
    "differs": "✗",
    "too few runs": "?",
    "not comparable": "○",
    "setting assumed": "",  # the † beside the value says it
    "not measured": "",
    "not published": "",
}

LEGEND: Mapping[CellWord, str] = {
    "agrees": "✓ agrees: the published value lies inside the 95 % prediction interval.",
    "differs": "✗ differs: the published value lies outside the 95 % prediction interval.",
    "too few runs": "? too few runs for a verdict (fewer than 3).",
    "not comparable": "○ not comparable: these runs are not the paper's setting.",
}


@dataclass
class Footnotes:
    """Gives notes letters as they come up. One text, one letter.

    Only a table that is held against the paper marks what the paper leaves open.
    """

    marks_assumptions: bool = True

    lettered: list[str] = field(default_factory=list)
    assumed: Counter[str] = field(default_factory=Counter)
    words: set[CellWord] = field(default_factory=set)

    def printed(self, cell: Cell) -> str:
        """The letter of what is to be said of a printed number; empty for nothing."""
        return self._letter(f"{'Erratum: ' if cell.erratum else ''}{cell.note}") if cell.note else ""

    def warning(self, warnings: tuple[str, ...]) -> str:
        """The letters of warnings."""
        return "".join(self._letter(f"Warning: {each}") for each in warnings)

    def _letter(self, text: str) -> str:
        if text not in self.lettered:
            self.lettered.append(text)
        return letter(self.lettered.index(text))

    def assumption(self, reasons: tuple[str, ...]) -> str:
        """`†` where something is assumed."""
        if not self.marks_assumptions:
            return ""
        self.assumed.update(reasons)
        return "†" if reasons else ""

    def verdict(self, word: CellWord) -> str:
        """The mark of a verdict."""
        self.words.add(word)
        return MARKS[word]

    def notes(self, comparison: Comparison) -> Iterator[str]:
        """All notes, in the order a reader needs them."""
        yield from (f"{letter(number)} {note}" for number, note in enumerate(self.lettered))
        if self.assumed:
            cells = (f"{reason} ({_cells(count)})" for reason, count in self.assumed.items())
            yield "† rests on what nobody published: " + "; ".join(cells) + "."
        yield from (text for word, text in LEGEND.items() if word in self.words)
        yield from comparison.unequal_scatter
        yield from (NOTES[name] for name in teaching(each.measured for each in comparison.cells()))
        if self.words & {"agrees", "differs"}:
            yield from (NOTES[name] for name in ("many cells", "shared baseline"))
        yield from (text for text in (comparison.table.caption, comparison.table.note) if text)


def letter(number: int) -> str:
    """The superscript letter of a note, counted from 0; after the last one, letters are doubled."""
    return LETTERS[number % len(LETTERS)] * (1 + number // len(LETTERS))


def plain_letters(text: str) -> str:
    """`a` for `ᵃ`, for renderers that have superscripts of their own."""
    return unicodedata.normalize("NFKD", text)


def marked(text: str) -> str:
    """`text` escaped for HTML, the letters of footnotes as `<sup>`."""
    return re.sub(f"[{LETTERS}]+", lambda found: f"<sup>{plain_letters(found[0])}</sup>", escape(text))


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"
