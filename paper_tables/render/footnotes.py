"""Marks beside numbers and the notes that explain them: * errata, † assumptions, ! warnings, verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from paper_tables.compare import Comparison
from paper_tables.measured import teaching
from paper_tables.verdicts import NOTES, CellWord

MARKS: Mapping[CellWord, str] = {
    "agrees": "≈",
    "differs": "≠",
    "too few runs": "?",
    "not comparable": "×",
    "setting assumed": "",  # the † beside the value says it
    "not measured": "",
    "not published": "",
}

LEGEND: Mapping[CellWord, str] = {
    "agrees": "≈ agrees: the published value lies inside the 95 % prediction interval.",
    "differs": "≠ differs: the published value lies outside the 95 % prediction interval.",
    "too few runs": "? too few runs for a verdict (fewer than 3).",
    "not comparable": "× not comparable: these runs are not the paper's setting.",
}


@dataclass
class Footnotes:
    """Numbers notes as they come up. One text, one number.

    Only a table that is held against the paper marks what the paper leaves open.
    """

    marks_assumptions: bool = True

    errata: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    assumed: Counter[str] = field(default_factory=Counter)
    words: set[CellWord] = field(default_factory=set)

    def erratum(self, note: str) -> str:
        """The mark of a note, `*1`; nothing for no note."""
        return _number(self.errata, note, "*") if note else ""

    def warning(self, warnings: tuple[str, ...]) -> str:
        """The marks of warnings, `!1!2`."""
        return "".join(_number(self.warnings, each, "!") for each in warnings)

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
        yield from (f"*{number} {note}" for number, note in enumerate(self.errata, 1))
        if self.assumed:
            cells = (f"{reason} ({_cells(count)})" for reason, count in self.assumed.items())
            yield "† rests on what nobody published: " + "; ".join(cells) + "."
        yield from (f"!{number} {note}" for number, note in enumerate(self.warnings, 1))
        yield from (text for word, text in LEGEND.items() if word in self.words)
        yield from comparison.unequal_scatter
        yield from (NOTES[name] for name in teaching(each.measured for each in comparison.cells()))
        if self.words & {"agrees", "differs"}:
            yield from (NOTES[name] for name in ("many cells", "shared baseline"))
        yield from (text for text in (comparison.table.caption, comparison.table.note) if text)


def _number(known: list[str], text: str, mark: str) -> str:
    if text not in known:
        known.append(text)
    return f"{mark}{known.index(text) + 1}"


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"
