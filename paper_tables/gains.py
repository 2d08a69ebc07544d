"""Gains: one setting's accuracy over another's, and the mean of several, with what they do not know.

A mean gain is a weighted sum of runs. Writing the weights down is what makes shared runs count right: a
baseline under four students stands four times in the mean, and its error with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from paper_tables.measured import Epoch, Measured, Pool, identity
from paper_tables.spec import Setting
from paper_tables.statistics import (
    Error,
    Group,
    Interval,
    Spread,
    Stratum,
    combine,
    mean,
    seeds_needed,
    smallest_gain,
    t_interval,
)

LEAST_PAIRS = 2  # with fewer matching seeds there is no pairing

Pair = tuple[Setting, Setting]
"""The setting that should gain, and the one it is held against."""


@dataclass(frozen=True, kw_only=True)
class Gain:
    """A gain, or the mean of several, in points. `error` and `interval` are None where no spread is known.

    `paired`: from differences of runs with the same seed, `pairs` of them where it is a single gain.
    """

    mean: float
    paired: bool
    pairs: int | None
    error: Error | None
    interval: Interval | None
    strata: tuple[Stratum, ...]

    @property
    def smallest(self) -> float | None:
        """The smallest true gain these seeds could have shown (80 % power, 5 % two-sided)."""
        return smallest_gain(self.error) if self.error else None

    def seeds_for(self, gain: float | None) -> int | None:
        """Seeds per setting that would show this gain; None if unknown or too many to name."""
        return seeds_needed(gain, self.strata) if gain is not None and self.error else None


@dataclass(frozen=True, kw_only=True)
class _Share:
    """One data set's part of a mean gain: the weight of each run, and of each setting."""

    runs: Mapping[tuple[Hashable, int], float]
    settings: Mapping[Hashable, float]
    paired: bool


def single_gain(pair: Pair, measured: Mapping[Setting, Measured], pool: Pool) -> Gain | None:
    """The gain of one setting over another; None where either has no run."""
    return mean_gain([pair], measured, {pool.dataset: pool}, pool.epoch)


def mean_gain(
    pairs: Sequence[Pair], measured: Mapping[Setting, Measured], pooled: Mapping[str, Pool], epoch: Epoch
) -> Gain | None:
    """The mean gain over these pairs, each weighing the same; None where any of them has no run."""
    if not pairs or any(
        setting not in measured or not measured[setting].n for pair in pairs for setting in pair
    ):
        return None
    shares = {
        dataset: _share(
            [pair for pair in pairs if pair[0].dataset == dataset], measured, epoch, 1 / len(pairs)
        )
        for dataset in dict.fromkeys(pair[0].dataset for pair in pairs)
    }
    estimate = mean([_difference(*pair, measured, epoch) for pair in pairs])
    strata = [_stratum(share, _spread(pooled[dataset], share)) for dataset, share in shares.items()]
    known = tuple(stratum for stratum in strata if stratum is not None)
    error = combine(known) if len(known) == len(strata) else None
    return Gain(
        mean=estimate,
        paired=all(share.paired for share in shares.values()),
        pairs=len(matching(*pairs[0], measured)) if len(pairs) == 1 else None,
        error=error,
        interval=t_interval(estimate, error) if error else None,
        strata=known,
    )


def matching(setting: Setting, against: Setting, measured: Mapping[Setting, Measured]) -> tuple[int, ...]:
    """The seeds by which two settings are paired: those both have, if the student is one and they are two."""
    both = measured[setting].group("best").keys() & measured[against].group("best").keys()
    same_student = (setting.dataset, setting.student) == (against.dataset, against.student)
    return tuple(sorted(both)) if same_student and len(both) >= LEAST_PAIRS else ()


def _difference(
    setting: Setting, against: Setting, measured: Mapping[Setting, Measured], epoch: Epoch
) -> float:
    ours, theirs = _used(setting, against, measured, epoch)
    return mean(list(ours.values())) - mean(list(theirs.values()))


def _used(
    setting: Setting, against: Setting, measured: Mapping[Setting, Measured], epoch: Epoch
) -> tuple[Group, Group]:
    """The runs a gain is computed from: those of the matching seeds, or all where there is no pairing."""
    ours, theirs = measured[setting].group(epoch), measured[against].group(epoch)
    seeds = matching(setting, against, measured)
    if not seeds:
        return ours, theirs
    return {seed: ours[seed] for seed in seeds}, {seed: theirs[seed] for seed in seeds}


def _share(
    pairs: Sequence[Pair], measured: Mapping[Setting, Measured], epoch: Epoch, weight: float
) -> _Share:
    runs: dict[tuple[Hashable, int], float] = defaultdict(float)
    settings: dict[Hashable, float] = defaultdict(float)
    for pair in pairs:
        for setting, group, sign in zip(pair, _used(*pair, measured, epoch), (weight, -weight), strict=True):
            name = identity(setting, measured)
            settings[name] += sign
            for seed in group:
                runs[name, seed] += sign / len(group)
    paired = all(matching(*pair, measured) for pair in pairs)
    return _Share(runs=runs, settings=settings, paired=paired)


def _spread(pool: Pool, share: _Share) -> Spread:
    """Seed effects cancel only where every pair is paired."""
    return pool.paired if share.paired else pool.level


def _stratum(share: _Share, spread: Spread) -> Stratum | None:
    if spread.sigma is None:
        return None
    return Stratum(
        variance=spread.sigma**2 * sum(weight**2 for weight in share.runs.values()),
        df=spread.df,
        variance_of_one=spread.sigma**2 * sum(weight**2 for weight in share.settings.values()),
        df_per_seed=spread.df_per_seed,
    )
