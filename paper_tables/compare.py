"""A table's published numbers beside the measured ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

from paper_tables.gains import Gain, mean_gain
from paper_tables.measured import EPOCHS, NOTHING, Epoch, Measured, SeedValue, unequal_scatter
from paper_tables.spec import Cell, Published, Setting, Table
from paper_tables.statistics import deviation

__all__ = ["Assumptions", "CellComparison", "Comparison", "Measured", "Reading", "SeedValue", "compare"]


Assumptions = Callable[[Setting], tuple[str, ...]]
"""Which values of a setting nobody published, in words."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one cell measures at the best or the last epoch, in percent and points.

    `difference` and `gain_difference` are measured minus published. `gain` is None for a baseline, and
    where the baseline has no run.
    """

    epoch: Epoch
    mean: float
    std: float | None
    n: int
    difference: float | None = None
    gain: Gain | None = None
    gain_difference: float | None = None


@dataclass(frozen=True, kw_only=True)
class CellComparison:
    """One cell: what was published, what was measured, and what stands between the two."""

    cell: Cell
    measured: Measured
    best: Reading | None
    last: Reading | None
    assumed: tuple[str, ...]
    warnings: tuple[str, ...]
    baseline: Measured  # the runs the gain is over (its own, for a baseline)
    baseline_published: Published
    baseline_assumed: tuple[str, ...]

    @property
    def n(self) -> int:
        """How many runs are finished."""
        return self.measured.n

    @property
    def wanted(self) -> int:
        """How many runs were asked for; never fewer than there are."""
        return max(self.measured.wanted, self.measured.n)

    @property
    def runs(self) -> tuple[str, ...]:
        """The folders of the finished runs, by seed."""
        return self.measured.runs

    @property
    def baseline_runs(self) -> tuple[str, ...]:
        """The folders of the finished runs the gain is over, by seed; none for a baseline."""
        return () if self.cell.is_baseline else self.baseline.runs

    def reading(self, epoch: Epoch) -> Reading | None:
        """The reading at the best or the last epoch."""
        return self.best if epoch == "best" else self.last


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A table with its cells in place (row by row, None where the paper leaves one empty)."""

    table: Table
    rows: tuple[tuple[CellComparison | None, ...], ...]
    unequal_scatter: tuple[str, ...]  # sentences

    def cells(self) -> Iterator[CellComparison]:
        """All cells, row by row."""
        for row in self.rows:
            yield from (each for each in row if each is not None)

    @property
    def published(self) -> bool:
        """Whether the table has any printed number."""
        printed = (each.cell.published for each in self.cells())
        return any(each.mean is not None or each.gain is not None for each in printed)


def compare(
    table: Table, measured: Mapping[Setting, Measured], assumed: Assumptions = lambda setting: ()
) -> Comparison:
    """Every cell of `table` beside what was measured for its setting."""
    published = {cell.setting: cell.published for cell in table.cells() if cell.is_baseline}

    def cell_comparison(cell: Cell) -> CellComparison:
        setting, baseline = cell.setting, cell.setting.baseline()
        readings = {epoch: _reading(cell, measured, epoch) for epoch in EPOCHS}
        own, under = measured.get(setting, NOTHING), measured.get(baseline, NOTHING)
        return CellComparison(
            cell=cell,
            measured=own,
            best=readings["best"],
            last=readings["last"],
            assumed=assumed(setting),
            warnings=_warnings(own, NOTHING if cell.is_baseline else under),
            baseline=under,
            baseline_published=published.get(baseline, Published()),
            baseline_assumed=assumed(baseline),
        )

    rows = tuple(tuple(cell_comparison(cell) if cell else None for cell in row.cells) for row in table.rows)
    unequal = tuple(text for epoch in EPOCHS for text in unequal_scatter(table.settings(), measured, epoch))
    return Comparison(table=table, rows=rows, unequal_scatter=unequal)


def _reading(cell: Cell, measured: Mapping[Setting, Measured], epoch: Epoch) -> Reading | None:
    own = measured.get(cell.setting, NOTHING)
    if not own.n:
        return None
    values = list(own.group(epoch).values())
    pair = cell.setting, cell.setting.baseline()
    gain = None if cell.is_baseline else mean_gain([pair], measured, epoch)
    return Reading(
        epoch=epoch,
        mean=fmean(values),
        std=deviation(values),
        n=len(values),
        difference=_minus(fmean(values), cell.published.mean),
        gain=gain,
        gain_difference=_minus(gain.mean if gain else None, cell.published.gain),
    )


def _minus(ours: float | None, theirs: float | None) -> float | None:
    return None if ours is None or theirs is None else ours - theirs


def _warnings(own: Measured, baseline: Measured) -> tuple[str, ...]:
    """What a reader must know before trusting the cell: mixtures within it, and against its baseline."""
    across: list[str] = []
    for name, words in (("precision", "precision"), ("code", "code version")):
        ours = {getattr(value, name) for value in own.values}
        theirs = {getattr(value, name) for value in baseline.values}
        if len(ours) == len(theirs) == 1 and ours != theirs:
            across.append(f"its baseline ran with another {words}: {_word(theirs)}, these runs {_word(ours)}")
    return tuple(dict.fromkeys([*own.warnings, *own.unlike_paper, *own.mixtures(), *across]))


def _word(values: set[str]) -> str:
    return next(iter(values)) or "unknown"
