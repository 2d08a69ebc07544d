"""The arithmetic behind every interval and verdict; STATISTICS.md says what each number means and why.

Numbers in, numbers out: accuracies in percent, differences in points.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import stdev, variance
from typing import NamedTuple

Group = Mapping[int, float]
"""The accuracies (percent) of one setting, by seed."""

POWER = 0.8
MOST_SEEDS = 1000  # the search for a number of seeds ends here


class Interval(NamedTuple):
    """A two-sided interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Component:
    """An independent component of an estimate: the mean of `n` values whose sample variance is `variance`."""

    variance: float
    n: int


@dataclass(frozen=True)
class Error:
    """The standard error of an estimate and its (possibly fractional) degrees of freedom."""

    se: float
    df: float


def deviation(values: Sequence[float]) -> float | None:
    """The sample standard deviation (n - 1), None for fewer than two values."""
    return stdev(values) if len(values) > 1 else None


def combine(components: Sequence[Component]) -> Error:
    """The error of a sum of independent components, each with its own variance (Welch and Satterthwaite)."""
    return _satterthwaite([(each.variance / each.n, each.n - 1) for each in components])


def _satterthwaite(components: Sequence[tuple[float, int]]) -> Error:
    """From the variance of each component and its degrees of freedom."""
    total = math.fsum(variance for variance, _ in components)
    below_line = math.fsum(variance**2 / df for variance, df in components)
    return Error(math.sqrt(total), total**2 / below_line if below_line else sum(df for _, df in components))


def prediction_half_width(*sides: tuple[Sequence[float], int]) -> float | None:
    """How far a sum of our means and that of published means may lie apart by chance (95 %).

    Each side is our n runs of one setting and how many runs (k) are behind the published mean, which are
    taken to scatter as ours: t·√Σ s²(1/n + 1/k). None where a setting was run once.
    """
    if any(len(values) < 2 for values, _ in sides):
        return None
    error = _satterthwaite(
        [(variance(values) * (1 / len(values) + 1 / k), len(values) - 1) for values, k in sides]
    )
    return quantile(0.975, error.df) * error.se


def equal_scatter(groups: Iterable[Sequence[float]]) -> float | None:
    """p of the Brown–Forsythe test that all groups scatter alike; None where it can say nothing.

    Groups of fewer than three values are left out: two lie equally far from their median, always.
    """
    compared = [group for group in groups if len(group) > 2]
    if len(compared) < 2:
        return None
    import numpy as np
    from scipy import stats

    with np.errstate(divide="ignore", invalid="ignore"):  # groups that do not scatter at all
        p = float(stats.levene(*compared, center="median").pvalue)
    return None if math.isnan(p) else p


@cache  # the search for a number of seeds needs the same few thousand values each time
def quantile(probability: float, df: float) -> float:
    """Student's t: the value that is exceeded with 1 - probability."""
    from scipy.special import stdtrit

    return float(stdtrit(df, probability))


def t_interval(estimate: float, error: Error, *, confidence: float = 0.95) -> Interval:
    """estimate ± t·se."""
    half = quantile((1 + confidence) / 2, error.df) * error.se
    return Interval(estimate - half, estimate + half)


def below(estimate: float, error: Error) -> float:
    """One-sided p: the chance of an estimate this far above 0, or further, if the truth were 0; se > 0."""
    from scipy.special import stdtr

    return float(stdtr(error.df, -estimate / error.se))


def two_sided(estimate: float, error: Error) -> float:
    """Two-sided p of the t test against 0."""
    return min(1.0, 2 * below(abs(estimate), error))


def tost(estimate: float, error: Error, *, margin: float) -> float:
    """p of two one-sided tests: the larger of the two against -margin and +margin."""
    return max(below(estimate + margin, error), below(margin - estimate, error))


def beyond(estimate: float, error: Error, *, margin: float) -> float:
    """p of the t test of a truth within ±margin, one-sided, doubled because the estimate chose the side."""
    return min(1.0, 2 * below(abs(estimate) - margin, error))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p values, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def smallest_gain(error: Error, *, power: float = POWER) -> float:
    """The true gain that a two-sided 5 % test finds with this power: (t_0.975 + t_power)·se."""
    return (quantile(0.975, error.df) + quantile(power, error.df)) * error.se


def smallest_margin(error: Error, *, power: float = POWER) -> float:
    """The margin within which a true 0 is confirmed with this power: (t_0.95 + t_(1+power)/2)·se."""
    return (quantile(0.95, error.df) + quantile((1 + power) / 2, error.df)) * error.se


def seeds_needed(
    wanted: float, components: Sequence[Component], *, smallest: Callable[[Error], float] = smallest_gain
) -> int | None:
    """Seeds per setting with which `smallest` is at most |wanted|; None above MOST_SEEDS."""

    def minus_smallest(seeds: int) -> float:
        return -smallest(
            combine([Component(each.variance, seeds) for each in components])
        )  # rises with every seed

    seeds = 2 + bisect_left(range(2, MOST_SEEDS + 1), -abs(wanted), key=minus_smallest)
    return seeds if seeds <= MOST_SEEDS else None
