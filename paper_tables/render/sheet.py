"""A sheet: what is to be shown, before anyone decides how. Every renderer draws the same sheet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Style = Literal["", "paper", "good", "bad", "faint"]


@dataclass(frozen=True)
class Line:
    """One line of a field: its text, its label (`best`, `gain`; may be empty), how it is meant.

    `value` is what it sorts by.
    """

    text: str
    label: str = ""
    style: Style = ""
    value: float | None = None


@dataclass(frozen=True, kw_only=True)
class Field:
    """What stands in one place of a sheet; `link` leads to where it comes from (HTML only)."""

    lines: tuple[Line, ...] = ()
    link: str | None = None

    @property
    def value(self) -> float | None:
        """What sorts it: the last value among its `paper` and `best` lines, or its only one."""
        values = [line.value for line in self.lines if line.label in ("", "paper", "best")]
        return next((value for value in reversed(values) if value is not None), None)

    @property
    def linked(self) -> Line | None:
        """The line that carries the link: the measured value."""
        return next((line for line in self.lines if line.text and line.label in ("", "best")), None)

    def line(self, label: str) -> Line:
        """The line with this label; an empty one where there is none."""
        return next((line for line in self.lines if line.label == label), Line("", label))


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """The texts that head a row, and its fields."""

    labels: tuple[str, ...]
    fields: tuple[Field, ...]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A titled table of fields with its notes.

    `order` is that of the labels of their lines. A head wider than `head_width` is folded in a terminal.
    """

    name: str
    title: str
    heads: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[SheetRow, ...]
    notes: tuple[str, ...] = ()
    order: tuple[str, ...] = ("",)
    head_width: int = 20

    @property
    def labelled(self) -> bool:
        """Whether lines carry labels, which then need a column of their own."""
        return self.order != ("",)

    @property
    def titles(self) -> list[str]:
        """What heads each column of the printed table."""
        return [*self.heads, *([""] if self.labelled else []), *self.columns]

    def lines(self, row: SheetRow) -> Iterator[list[Line]]:
        """The printed lines of a row, a text for each of `titles`; at least one."""
        used = {line.label for field in row.fields for line in field.lines}
        for number, label in enumerate([each for each in self.order if each in used] or [""]):
            heads = (Line(text if number == 0 else "") for text in row.labels)
            named = [Line(label, style="faint")] if self.labelled else []
            yield [*heads, *named, *(field.line(label) for field in row.fields)]


def plain_sheet(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str | Field]],
    *,
    name: str = "",
    notes: Iterable[str] = (),
) -> Sheet:
    """Rows of texts as a sheet: the first text heads its row, a Field may carry a link."""
    shown = (
        SheetRow(
            labels=(str(first),),
            fields=tuple(each if isinstance(each, Field) else Field(lines=(Line(each),)) for each in rest),
        )
        for first, *rest in rows
    )
    return Sheet(
        name=name or title,
        title=title,
        heads=(heads[0],),
        columns=tuple(heads[1:]),
        rows=tuple(shown),
        notes=tuple(notes),
    )
