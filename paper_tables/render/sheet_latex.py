"""A sheet as a LaTeX table with booktabs; `DOCUMENT` is the smallest document around it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence

from paper_tables.render.footnotes import LETTERS, plain_letters
from paper_tables.render.sheet import Sheet, SheetRow

DOCUMENT = r"""\documentclass{{article}}
\usepackage{{booktabs,graphicx}}
\begin{{document}}
{body}
\end{{document}}
"""

LONG = 40  # characters from which a head is folded
SHRUNK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # never made larger

# In points, for `article` at 10 pt, whose page is the smallest in use; the letters and lines are averages.
LINE_WIDTH, PAGE = 345.0, 500.0  # PAGE without the caption, the heads and the rules
LINE, SPACE, LETTER, GAP = 12.0, 4.0, 5.0, 12.0
NOTE, NOTE_LETTERS = 9.5, 86  # a line of notes and the letters in it

_MATH = {
    "±": r"\pm",
    "✓": r"\surd",
    "○": r"\circ",
    "×": r"\times",
    "Δ": r"\Delta",
    "σ": r"\sigma",
    "α": r"\alpha",
    "τ": r"\tau",
    "ε": r"\varepsilon",
    "√": r"\surd",
    "≥": r"\geq",
    "≤": r"\leq",
    "→": r"\to",
    "↑": r"\uparrow",
    "↓": r"\downarrow",
    "‖": r"\|",
    "²": "^2",
    "−": "-",
}
_TEXT = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "`": r"\textasciigrave{}",
    "†": r"\textdagger{}",
    "✗": r"\textsf{x}",
    **{each: rf"\textsuperscript{{{plain_letters(each)}}}" for each in LETTERS},
    "–": "--",
    "·": r"\textperiodcentered{}",
    "…": r"\ldots{}",
    "[": "{[}",  # after \\ a bracket would be taken for its option
    "]": "{]}",
    "*": "{*}",
    **{each: f"\\{each}" for each in "#$%&_"},
    **{each: f"${command}$" for each, command in _MATH.items()},
}
_NEGATIVE = re.compile(r"(?<![A-Za-z0-9-])-(?=\d)")


def latex(sheet: Sheet) -> str:
    """A `table` float, or several where it is too tall for a page: they need `booktabs` and `graphicx`."""
    parts = list(_parts(sheet))
    return "".join(_float(sheet, *part, number, len(parts)) for number, part in enumerate(parts, 1))


def _parts(sheet: Sheet) -> Iterator[tuple[list[SheetRow], list[str]]]:
    """Rows and notes by float; notes that have no room below the last rows get a float of their own."""
    scale = min(1.0, LINE_WIDTH / _width(sheet))
    rows, used = list[SheetRow](), 0.0
    for row in sheet.rows:
        height = scale * (LINE * len(list(sheet.lines(row))) + SPACE)
        if rows and used + height > PAGE:
            yield rows, []
            rows, used = [], 0.0
        rows.append(row)
        used += height
    notes, room = list[str](), PAGE - used
    for note in sheet.notes:
        height = NOTE * math.ceil(len(note) / NOTE_LETTERS) + SPACE
        if height > room and (notes or rows):
            yield rows, notes
            rows, notes, room = [], [], PAGE
        notes.append(note)
        room -= height
    yield rows, notes


def _width(sheet: Sheet) -> float:
    """About how wide the table is by itself, in points; a folded head is not measured."""
    heads = [min(LONG, max(len(row.labels[at]) for row in sheet.rows)) for at in range(len(sheet.heads))]
    columns = [
        max([len(column), *(len(line.text) for row in sheet.rows for line in row.fields[at].lines)])
        for at, column in enumerate(sheet.columns)
    ]
    return sum(LETTER * letters + GAP for letters in (*heads, *columns)) if sheet.rows else LINE_WIDTH


def _float(sheet: Sheet, rows: Sequence[SheetRow], notes: Sequence[str], number: int, parts: int) -> str:
    again = number > 1
    tabular = [
        SHRUNK,
        rf"\begin{{tabular}}{{{_columns(sheet)}}}",
        r"\toprule",
        _row(sheet.titles),
        r"\midrule",
        *_body(sheet, rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    lines = [
        r"\begin{table}[htbp]",
        *([r"\addtocounter{table}{-1}"] if again else []),
        r"\centering",
        rf"\caption{{{escape(sheet.title)}{f' (part {number} of {parts})' if parts > 1 else ''}}}",
        *([] if again else [rf"\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', sheet.name)}}}"]),
        *(tabular if rows or not again else []),
        *(rf"\par\smallskip{{\footnotesize\raggedright {escape(note)}\par}}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _columns(sheet: Sheet) -> str:
    """Left-aligned columns; a head of sentences is folded."""
    widest = [max((len(row.labels[at]) for row in sheet.rows), default=0) for at in range(len(sheet.heads))]
    heads = "".join(r"p{0.4\linewidth}" if width > LONG else "l" for width in widest)
    return heads + "l" * (len(sheet.titles) - len(widest))


def _body(sheet: Sheet, rows: Sequence[SheetRow]) -> Iterator[str]:
    for index, row in enumerate(rows):
        if index and sheet.labelled:
            yield r"\addlinespace"
        yield from (_row([each.text for each in line]) for line in sheet.lines(row))


def _row(cells: list[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def escape(text: str) -> str:
    """`text` as LaTeX prints it literally; what its default fonts lack becomes its code point."""
    minus = _NEGATIVE.sub("−", " ".join(text.split()))
    return "".join(_TEXT.get(each) or _letter(each) for each in minus)


def _letter(each: str) -> str:
    """ASCII, and the accented letters of Latin-1, as they are."""
    latin = "À" <= each <= "ÿ" and unicodedata.decomposition(each)
    return each if each.isascii() or latin else f"U+{ord(each):04X}"
