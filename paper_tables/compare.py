"""A table's published numbers beside the measured ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

from paper_tables.gains import Gain, common_seeds, mean_gain
from paper_tables.measured import EPOCHS, NOTHING, Assumptions, Epoch, Measured, SeedValue, unequal_scatter
from paper_tables.spec import Cell, Setting, Table
from paper_tables.statistics import deviation
from paper_tables.verdicts import Judgement, Side, judge

__all__ = ["CellComparison", "Comparison", "Measured", "Reading", "SeedValue", "compare"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What one cell measures at the best or the last epoch, in percent and points, with its verdicts.

    `gain` is None for a baseline, and where the baseline has no run. `seeds_for_printed_gain`: seeds per
    setting that would show the printed gain.
    """

    mean: float
    std: float | None
    level: Judgement
    gain: Gain | None
    gain_level: Judgement
    seeds_for_printed_gain: int | None


@dataclass(frozen=True, kw_only=True)
class CellComparison:
    """One cell: what was published, what was measured, and what stands between the two.

    `best` and `last` are None without a run; `baseline_runs`: the folders of the finished runs the gain is
    over, by seed, none for a baseline.
    """

    cell: Cell
    measured: Measured
    best: Reading | None
    last: Reading | None
    assumed: tuple[str, ...]
    warnings: tuple[str, ...]
    baseline_runs: tuple[str, ...]

    @property
    def n(self) -> int:
        """How many runs are finished."""
        return self.measured.n

    @property
    def wanted(self) -> int:
        """How many runs were asked for; never fewer than there are."""
        return max(self.measured.wanted, self.measured.n)


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
    printed_runs = {cell.setting: cell.published.runs for cell in table.cells() if cell.is_baseline}

    def comparison(cell: Cell) -> CellComparison:
        own = measured.get(cell.setting, NOTHING)
        under = NOTHING if cell.is_baseline else measured.get(cell.setting.baseline(), NOTHING)
        best, last = (
            _reading(cell, measured, assumed, epoch, printed_runs=printed_runs) if own.n else None
            for epoch in EPOCHS
        )
        return CellComparison(
            cell=cell,
            measured=own,
            best=best,
            last=last,
            assumed=assumed(cell.setting),
            warnings=_warnings(own, under),
            baseline_runs=under.runs,
        )

    rows = tuple(tuple(comparison(cell) if cell else None for cell in row.cells) for row in table.rows)
    unequal = tuple(text for epoch in EPOCHS for text in unequal_scatter(table.settings(), measured, epoch))
    return Comparison(table=table, rows=rows, unequal_scatter=unequal)


def _reading(
    cell: Cell,
    measured: Mapping[Setting, Measured],
    assumed: Assumptions,
    epoch: Epoch,
    *,
    printed_runs: Mapping[Setting, int],
) -> Reading:
    """`printed_runs`: of the baselines, the runs behind each printed value."""
    setting, baseline, published = cell.setting, cell.setting.baseline(), cell.published
    own, under = measured[setting], measured.get(baseline, NOTHING)
    ours, theirs = own.group(epoch), under.group(epoch)
    mean, gain = fmean(ours.values()), None
    if not cell.is_baseline:
        gain = mean_gain([(setting, baseline)], measured, epoch)
    seeds = common_seeds(ours, theirs)  # only these runs count in a paired gain
    sides = (
        Side(own, {seed: ours[seed] for seed in seeds or ours}, published.runs),
        Side(under, {seed: theirs[seed] for seed in seeds or theirs}, printed_runs.get(baseline, 1)),
    )
    return Reading(
        mean=mean,
        std=deviation(list(ours.values())),
        level=judge(published.mean, mean, [Side(own, ours, published.runs)], assumed=bool(assumed(setting))),
        gain=gain,
        gain_level=judge(
            None if cell.is_baseline else published.gain,
            gain.mean if gain else None,
            sides,
            assumed=bool(assumed(setting) or assumed(baseline)),
        ),
        seeds_for_printed_gain=gain.seeds_for(published.gain) if gain else None,
    )


def _warnings(own: Measured, baseline: Measured) -> tuple[str, ...]:
    """What a reader must know before trusting the cell: mixtures within it, and against its baseline."""
    across: list[str] = []
    for name, words in (("precision", "precision"), ("code", "code version")):
        ours = {getattr(value, name) or "unknown" for value in own.values}
        theirs = {getattr(value, name) or "unknown" for value in baseline.values}
        if len(ours) == len(theirs) == 1 and ours != theirs:
            across.append(f"its baseline ran with another {words}: {theirs.pop()}, these runs {ours.pop()}")
    return tuple(dict.fromkeys([*own.warnings, *own.unlike_paper, *own.mixtures(), *across]))
