"""The arithmetic behind every interval and verdict; STATISTICS.md says what each number means and why.

Numbers in, numbers out. A group is one setting's accuracies by seed; a block is one student on one data
set: its settings share, per seed, the initial weights, the batch order and the augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

Group = Mapping[int, float]
"""The accuracies (percent) of one setting, by seed."""

POWER = 0.8
MOST_SEEDS = 1000  # a search for seeds ends here: nobody trains more
ROUNDING = 1e-9  # points per run; least squares leaves some 1e-15 of accuracies that agree exactly


class Interval(NamedTuple):
    """A two-sided interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """A pooled standard deviation over runs, its degrees of freedom, and how many each further seed adds.

    `sigma` is None where no degree of freedom is left: nothing was run twice.
    """

    sigma: float | None
    df: int
    df_per_seed: int


@dataclass(frozen=True)
class Error:
    """The standard error of an estimate and its (possibly fractional) degrees of freedom."""

    se: float
    df: float


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return math.fsum(values) / len(values)


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n - 1), None for fewer than two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((each - centre) ** 2 for each in values) / (len(values) - 1))


def pooled_spread(groups: Sequence[Group]) -> Spread:
    """Standard deviation of runs within a setting, pooled over settings."""
    measured = [list(group.values()) for group in groups if group]
    squares = math.fsum((value - mean(values)) ** 2 for values in measured for value in values)
    df = sum(len(values) - 1 for values in measured)
    return Spread(math.sqrt(squares / df) if df else None, df, len(measured))


def paired_spread(blocks: Mapping[Hashable, Sequence[Group]]) -> Spread:
    """Standard deviation of runs around setting + seed effects within a block, pooled over blocks.

    A difference of two runs with one seed has the variance 2σ². With every seed in every setting this is
    the residual of a randomised-block analysis of variance: df = Σ (settings - 1)·(seeds - 1).
    """
    squares, df, per_seed = 0.0, 0, 0
    for groups in blocks.values():
        measured = [group for group in groups if group]
        block_squares, block_df = _additive_residual(measured)
        squares, df = squares + block_squares, df + block_df
        per_seed += max(0, len(measured) - 1)
    return Spread(math.sqrt(squares / df) if df else None, df, per_seed)


def _additive_residual(groups: Sequence[Group]) -> tuple[float, int]:
    """Residual sum of squares and degrees of freedom of accuracy ~ setting + seed, by least squares."""
    import numpy as np

    seeds = sorted({seed for group in groups for seed in group})
    cells = [
        (row, seeds.index(seed), value) for row, group in enumerate(groups) for seed, value in group.items()
    ]
    if not cells:
        return 0.0, 0
    design = np.zeros((len(cells), len(groups) + len(seeds)))
    for index, (row, column, _) in enumerate(cells):
        design[index, row] = design[index, len(groups) + column] = 1
    values = np.array([value for _, _, value in cells])
    values = values - values.mean()  # the residual is the same, the rounding smaller
    solution, _, rank, _ = np.linalg.lstsq(design, values, rcond=None)
    df = len(cells) - int(rank)
    residual = values - design @ solution
    squares = float(residual @ residual)
    return (squares if squares > len(cells) * ROUNDING**2 else 0.0, df) if df else (0.0, 0)


@cache  # the search for seeds asks for the same few thousand again and again
def quantile(probability: float, df: float) -> float:
    """Student's t: the value that is exceeded with 1 - probability."""
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def t_interval(estimate: float, error: Error, *, confidence: float = 0.95) -> Interval:
    """estimate ± t·se."""
    half = quantile((1 + confidence) / 2, error.df) * error.se
    return Interval(estimate - half, estimate + half)


def below(estimate: float, error: Error) -> float:
    """One-sided p: the chance of an estimate this far above 0, or further, if the truth were 0."""
    from scipy.special import stdtr

    if error.se == 0:
        return 0.0 if estimate > 0 else 1.0
    return float(stdtr(error.df, -estimate / error.se))


def two_sided(estimate: float, error: Error) -> float:
    """Two-sided p of the t test against 0."""
    return min(1.0, 2 * below(abs(estimate), error))


def tost(estimate: float, error: Error, *, margin: float) -> float:
    """p of two one-sided tests: the larger of the two against -margin and +margin."""
    return max(below(estimate + margin, error), below(margin - estimate, error))


def beyond(estimate: float, error: Error, *, margin: float) -> float:
    """p that the truth lies outside ±margin, doubled because the estimate chose the side."""
    return min(1.0, 2 * below(abs(estimate) - margin, error))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p values, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def prediction_half_width(spread: Spread, *runs: int, confidence: float = 0.95) -> float | None:
    """t·s·√(1/n + 1/k + …): how far means of n and k runs may lie apart by chance; None without spread."""
    if spread.sigma is None:
        return None
    return quantile((1 + confidence) / 2, spread.df) * spread.sigma * math.sqrt(sum(1 / n for n in runs))


@dataclass(frozen=True)
class Stratum:
    """One data set's share in an estimate.

    Its variance now; and, were every setting run with one seed, its variance and how many degrees of
    freedom each further seed adds.
    """

    variance: float
    df: int
    variance_of_one: float
    df_per_seed: int


def combine(strata: Sequence[Stratum]) -> Error:
    """The error of a sum of independent parts, with Welch and Satterthwaite's degrees of freedom."""
    return _satterthwaite([(each.variance, each.df) for each in strata])


def _satterthwaite(parts: Sequence[tuple[float, int]]) -> Error:
    total = math.fsum(variance for variance, _ in parts)
    below_line = math.fsum(variance**2 / df for variance, df in parts)
    return Error(math.sqrt(total), total**2 / below_line if below_line else sum(df for _, df in parts))


def smallest_gain(error: Error, *, power: float = POWER) -> float:
    """The true gain that a two-sided 5 % test finds with this power: (t_0.975 + t_power)·se."""
    return (quantile(0.975, error.df) + quantile(power, error.df)) * error.se


def smallest_margin(error: Error, *, power: float = POWER) -> float:
    """The margin within which a true 0 is confirmed with this power: (t_0.95 + t_(1+power)/2)·se."""
    return (quantile(0.95, error.df) + quantile((1 + power) / 2, error.df)) * error.se


def seeds_needed(
    wanted: float, strata: Sequence[Stratum], *, smallest: Callable[[Error], float] = smallest_gain
) -> int | None:
    """Seeds per setting with which `smallest` is at most |wanted|; None above MOST_SEEDS."""

    def enough(seeds: int) -> bool:
        parts = [(each.variance_of_one / seeds, each.df_per_seed * (seeds - 1)) for each in strata]
        return smallest(_satterthwaite(parts)) <= abs(wanted)

    if wanted == 0 or not all(each.df_per_seed for each in strata) or not enough(MOST_SEEDS):
        return None
    low, high = 1, MOST_SEEDS  # the smallest gain falls with every seed: not enough(low), enough(high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
