"""A sheet as a LaTeX table with booktabs; `DOCUMENT` is the smallest document around it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from paper_tables.render.sheet import Sheet, SheetRow

DOCUMENT = r"""\documentclass{{article}}
\usepackage{{booktabs,graphicx}}
\begin{{document}}
{body}
\end{{document}}
"""

LONG = 40  # characters from which a head is folded

_MATH = {
    "±": r"\pm",
    "≈": r"\approx",
    "≠": r"\neq",
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
    """A `table` float: it needs `booktabs` and `graphicx`, nothing else."""
    labelled = ["" for _ in range(sheet.labelled)]
    heads = [*sheet.heads, *labelled, *sheet.columns]
    lines = [
        r"\begin{table}[htbp]",
        r"\centering",
        rf"\caption{{{escape(sheet.title)}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9-]', '-', sheet.name)}}}",
        r"\resizebox{\linewidth}{!}{%",
        rf"\begin{{tabular}}{{{_columns(sheet, len(heads))}}}",
        r"\toprule",
        _row(heads),
        r"\midrule",
        *_body(sheet),
        r"\bottomrule",
        r"\end{tabular}}",
        *(rf"\par\smallskip{{\footnotesize\raggedright {escape(note)}\par}}" for note in sheet.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _columns(sheet: Sheet, count: int) -> str:
    """Left-aligned columns; a head of sentences is folded."""
    widest = [max((len(row.labels[at]) for row in sheet.rows), default=0) for at in range(len(sheet.heads))]
    heads = "".join(r"p{0.4\linewidth}" if width > LONG else "l" for width in widest)
    return heads + "l" * (count - len(widest))


def _body(sheet: Sheet) -> Iterator[str]:
    for index, row in enumerate(sheet.rows):
        if index and sheet.labelled:
            yield r"\addlinespace"
        yield from (_row(cells) for cells in _lines(sheet, row))


def _lines(sheet: Sheet, row: SheetRow) -> Iterator[list[str]]:
    for number, label in enumerate(row.line_labels(sheet.order)):
        heads = row.labels if number == 0 else ("",) * len(row.labels)
        texts = (field.line(label).text for field in row.fields)
        yield [*heads, *([label] if sheet.labelled else []), *texts]


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
