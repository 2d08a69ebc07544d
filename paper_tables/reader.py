"""Everything the paper says, read strictly from the TOML beside this module.

A table is read when it is first asked for. Names of networks, data sets and
methods are passed in, since this package knows nothing of the code that runs them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from paper_tables import claim_toml, figure_toml, hyperparameters, table_toml
from paper_tables.claim_toml import ClaimKeys, Variant, Variants
from paper_tables.spec import Claim, Figure, Table, UnknownNameError
from paper_tables.strict import Names, near, read_toml

FOLDER = Path(__file__).parent
GROUPS = {
    "all": ("paper", "control"),
    "paper": ("paper",),
    "controls": ("control",),
    "audit": ("audit",),
}
T = TypeVar("T")


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


class Folder(Mapping[str, T], Generic[T]):
    """The TOML files of a folder by name, in natural order, each read when it is first asked for."""

    def __init__(self, path: Path, read: Callable[[str, Any], T]) -> None:
        self._paths = {each.stem: each for each in sorted(path.glob("*.toml"), key=_natural)}
        self._read = read
        self._found: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._found:
            self._found[name] = self._read(name, read_toml(self._paths[name], dict))
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __contains__(self, name: object) -> bool:
        return name in self._paths


class Paper:
    """The paper's tables, figures and claims, our own tables, and the losses of other suites."""

    def __init__(self, names: Names, folder: Path = FOLDER) -> None:
        self.tables: Mapping[str, Table] = Folder(
            folder / "tables", lambda name, data: table_toml.table(name, data, names)
        )
        self.figures: Mapping[str, Figure] = Folder(
            folder / "figures", lambda name, data: figure_toml.figure(name, data, names)
        )
        self._names, self._folder = names, folder

    @cached_property
    def claims(self) -> Mapping[str, Claim]:
        """The claims by name, in the order they state."""
        files = {path.stem: read_toml(path, ClaimKeys) for path in (self._folder / "claims").glob("*.toml")}
        ordered = sorted(files.items(), key=lambda each: (each[1].order, each[0]))
        return {name: claim_toml.claim(name, keys, self.tables) for name, keys in ordered}

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """The losses that other suites publish under the paper's names."""
        found = read_toml(self._folder / "variants.toml", Variants).variant
        claim_toml.check_variants(found, self._names)
        return found

    def errata(self) -> list[Erratum]:
        """The paper's slips, in the order of its tables."""
        return [erratum for table in self.tables.values() for erratum in _errata(table)]

    def check(self) -> Paper:
        """Read every file, hyperparameters.toml included; PaperTablesError on the first thing wrong."""
        hyperparameters.check(self._names)
        for folder in (self.tables, self.figures):
            tuple(folder.values())
        _ = self.claims, self.variants
        return self

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
