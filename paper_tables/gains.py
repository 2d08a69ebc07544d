"""Gains: one setting's accuracy over another's, and the mean of several, with what they do not know.

A mean gain is a weighted sum of settings. Within one student it is calculated seed by seed, so that a
baseline shared by several contrasts, and whatever else the runs of a seed have in common, counts as what
it is. Each student brings its own variance.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from paper_tables.measured import NOTHING, Epoch, Measured
from paper_tables.spec import Setting
from paper_tables.statistics import (
    Component,
    Error,
    Group,
    Interval,
    combine,
    seeds_needed,
    smallest_gain,
    t_interval,
    two_sided,
)

LEAST_PAIRS = 2  # with fewer common seeds there is no pairing
ROUNDING = 9  # decimals of a point: sums of floats that agree exactly are left apart by some 1e-14

Pair = tuple[Setting, Setting]
"""The setting that should gain, and the one it is held against."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A gain, or the mean of several, in points.

    `pairs`: how many seeds a single gain is the mean difference of; None for several gains, and where its
    settings have no two seeds in common. `partial`: it is calculated on common seeds and some runs have
    others, so that it is not the difference of the means. `components` are independent; none where a variance
    is unknown.
    """

    mean: float
    paired: bool
    pairs: int | None
    partial: bool
    components: tuple[Component, ...]

    @property
    def error(self) -> Error | None:
        """Its standard error; None where a setting was run once."""
        return combine(self.components) if self.components else None

    @property
    def interval(self) -> Interval | None:
        """The 95 % interval; None where a setting was run once."""
        return t_interval(self.mean, self.error) if self.error else None

    @property
    def known_error(self) -> Error | None:
        """Its standard error where a test can use it: differences that are all equal say nothing."""
        return self.error if self.error and self.error.se else None

    @property
    def p(self) -> float | None:
        """Two-sided p against 0."""
        return two_sided(self.mean, self.known_error) if self.known_error else None

    @property
    def smallest(self) -> float | None:
        """The smallest true gain these seeds could have shown (80 % power, 5 % two-sided)."""
        return smallest_gain(self.known_error) if self.known_error else None

    def seeds_for(self, gain: float | None) -> int | None:
        """Seeds per setting that would show this gain; None if unknown or too many to name."""
        return seeds_needed(gain, self.components) if gain is not None and self.known_error else None


def mean_gain(pairs: Sequence[Pair], measured: Mapping[Setting, Measured], epoch: Epoch) -> Gain | None:
    """The mean gain over these pairs, each weighing the same; None where any of them has no run."""
    if not pairs or any(not measured.get(setting, NOTHING).n for pair in pairs for setting in pair):
        return None
    students: dict[Hashable, dict[Hashable, tuple[float, Group]]] = defaultdict(dict)
    for pair in pairs:
        for setting, sign in zip(pair, (1, -1), strict=True):
            student, own = students[setting.dataset, setting.student], measured[setting]
            before, group = student.get(own.runs, (0.0, own.group(epoch)))
            student[own.runs] = before + sign / len(pairs), group
    shares = [_of_student(list(settings.values())) for settings in students.values()]
    known = all(share.components for share in shares)
    return Gain(
        mean=math.fsum(share.mean for share in shares),
        paired=all(share.paired for share in shares),
        pairs=shares[0].pairs if len(pairs) == len(shares) == 1 else None,
        partial=any(share.partial for share in shares),
        components=tuple(part for share in shares for part in share.components) if known else (),
    )


def _of_student(weighted: Sequence[tuple[float, Group]]) -> Gain:
    """One student's share, from the weight and the runs of each setting.

    The mean and variance of one value per common seed; else each setting's own mean and variance.
    """
    seeds = common_seeds(*(group for _, group in weighted))
    if seeds:
        contrast = [math.fsum(weight * group[seed] for weight, group in weighted) for seed in seeds]
        rounded = [round(each, ROUNDING) for each in contrast]
        return Gain(
            mean=fmean(rounded),
            paired=len(weighted) > 1,
            pairs=len(seeds) if len(weighted) > 1 else None,
            partial=any(len(group) > len(seeds) for _, group in weighted),
            components=(Component(variance(rounded), len(seeds)),),
        )
    values = [(weight, list(group.values())) for weight, group in weighted]
    known = all(len(each) > 1 for _, each in values)
    return Gain(
        mean=math.fsum(weight * fmean(each) for weight, each in values),
        paired=False,
        pairs=None,
        partial=False,
        components=tuple(Component(weight**2 * variance(each), len(each)) for weight, each in values)
        if known
        else (),
    )


def common_seeds(*groups: Group) -> tuple[int, ...]:
    """The seeds that all groups have; none where there are too few for pairing."""
    seeds = set(groups[0]).intersection(*groups[1:])
    return tuple(sorted(seeds)) if len(seeds) >= LEAST_PAIRS else ()
