"""Everything the paper says, read strictly from the TOML beside this module.

Names of networks, data sets and methods are passed in, since this package knows nothing of the code that
runs them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paper_tables import claim_toml, figure_toml, hyperparameters, table_toml
from paper_tables.spec import Claim, Figure, Table, UnknownNameError
from paper_tables.strict import Names, near, read_toml

FOLDER = Path(__file__).parent
GROUPS = {
    "all": ("paper", "control"),
    "paper": ("paper",),
    "controls": ("control",),
    "audit": ("audit",),
}


@dataclass(frozen=True, kw_only=True)
class Erratum:
    """A slip of the paper, copied as printed. `gain`: mean less baseline is another number."""

    table: str
    row: int
    labels: tuple[str, ...]
    column: str
    kind: Literal["gain", "two values"]
    text: str
    printed: float | None = None  # the printed gain, in points
    arithmetic: float | None = None  # printed mean less printed baseline, in points


class Paper:
    """The paper's tables, figures and claims, our own tables, and the losses of other suites.

    All files are read and checked, hyperparameters.toml included: PaperTablesError on the first thing wrong.
    Tables and figures are in natural order, claims in the order they state.
    """

    def __init__(self, names: Names, folder: Path = FOLDER) -> None:
        hyperparameters.check(names)

        def files(kind: str) -> dict[str, Any]:
            paths = sorted((folder / kind).glob("*.toml"), key=_natural)
            return {path.stem: read_toml(path, dict) for path in paths}

        self.tables: Mapping[str, Table] = {
            name: table_toml.table(name, data, names) for name, data in files("tables").items()
        }
        self.figures: Mapping[str, Figure] = {
            name: figure_toml.figure(name, data, names) for name, data in files("figures").items()
        }
        claims = {name: claim_toml.keys(name, data) for name, data in files("claims").items()}
        self.claims: Mapping[str, Claim] = {
            name: claim_toml.claim(name, each, self.tables)
            for name, each in sorted(claims.items(), key=lambda pair: pair[1].order)
        }
        self.variants = claim_toml.variants(folder / "variants.toml", names)

    def errata(self) -> list[Erratum]:
        """The paper's slips, in the order of its tables."""
        return [erratum for table in self.tables.values() for erratum in _errata(table)]

    def expand(self, names: Sequence[str]) -> list[Table | Figure]:
        """The tables and figures that these names mean, each once; `fig2` is fig2a and fig2b.

        `all` is the paper and our controls, `paper` the paper alone, `controls` our controls, `audit` our
        audit; PaperTablesError with the nearest known name.
        """
        found = dict.fromkeys(item for name in names for item in self._meant(name))
        return [self.tables[each] if each in self.tables else self.figures[each] for each in found]

    def _meant(self, name: str) -> list[str]:
        known = {_fold(each): [each] for each in (*self.tables, *self.figures)}
        for figure in self.figures:
            if part := re.fullmatch(r"(\D+\d+)[a-z]", figure):
                known.setdefault(part[1], []).append(figure)
        wanted = _fold(name).replace("figure", "fig")
        if wanted in GROUPS:
            tables = [each.name for each in self.tables.values() if each.kind in GROUPS[wanted]]
            return tables + (list(self.figures) if "paper" in GROUPS[wanted] else [])
        if wanted not in known:
            parts = [each for each, found in known.items() if each not in map(_fold, found)]
            everything = [*GROUPS, *self.tables, *parts, *self.figures]
            raise UnknownNameError(
                f'unknown table or figure "{name}".',
                expected=f"Known: {', '.join(everything)}.",
                hint=near(wanted, everything),
            )
        return known[wanted]


def _errata(table: Table) -> Iterator[Erratum]:
    for row in table.rows:
        for cell in filter(None, row.cells):
            if cell.erratum:
                slip = table_toml.is_slip(cell, row.cells)
                yield Erratum(
                    table=table.name,
                    row=cell.row,
                    labels=row.labels,
                    column=cell.column,
                    kind="gain" if slip else "two values",
                    text=cell.note,
                    printed=cell.published.gain,
                    arithmetic=table_toml.arithmetic_gain(cell, row.cells) if slip else None,
                )


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())


def _natural(path: Path) -> tuple[int, str, int, str]:
    """table2 before table10, the paper's before ours."""
    match = re.fullmatch(r"([a-z]+)(\d+)(.*)", path.stem)
    if match is None:
        return (1, path.stem, 0, "")
    return (0, match[1], int(match[2]), match[3])
