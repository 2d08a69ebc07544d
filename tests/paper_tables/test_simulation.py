"""Coverage and error rates of the verdicts on simulated runs: 200 experiments a case, or 2,000 (`drill`).

The random numbers are fixed. The bounds lie four standard errors of a simulation from what is expected.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from paper_tables.measured import Measured, SeedValue
from paper_tables.spec import Claim, Contrast, Setting
from paper_tables.verdicts import ClaimVerdict, judge_claims

FEW, MANY = 200, 2000  # experiments per case
EQUAL, UNEQUAL = (0.25, 0.25, 0.25), (0.1, 0.25, 0.75)
MARGIN = 0.3
SHARED = 0.5  # of the variance of a run is common to the runs of its seed


@dataclass(frozen=True, kw_only=True)
class Case:
    """Methods that gain nothing over the baseline of their student.

    `sigma`: standard deviation of a run in points, by student; `baseline`: by how much the baseline's is
    larger; `paired`: whether the methods have the baseline's seeds, or none of them.
    """

    sigma: tuple[float, ...]
    methods: int = 1
    baseline: float = 1.0
    paired: bool = True


CASES = {
    "equal scatter": Case(sigma=EQUAL),
    "unequal students": Case(sigma=UNEQUAL),
    "a noisy baseline": Case(sigma=EQUAL[:1], baseline=3),
    "a noisy baseline, shared": Case(sigma=EQUAL, methods=4, baseline=3),
    "no seed in common": Case(sigma=EQUAL[:1], baseline=3, paired=False),
}


@dataclass(frozen=True, kw_only=True)
class Luck:
    """Two arms of one student, `difference` points apart, each taught by one teacher or by one per seed."""

    per_seed: bool
    difference: float
    teacher: float = 0.2  # standard deviation of a student's accuracy over teachers
    sigma: float = 0.25  # over seeds of the student


def setting(student: str, method: str) -> Setting:
    return Setting(dataset="cifar100", student=student, method=method)


def runs(each: Setting, accuracies: NDArray[np.float64], first_seed: int = 0) -> Measured:
    values = (
        SeedValue(seed=seed, best=value, last=value, run=f"{each.student}-{each.method}-s{seed}")
        for seed, value in enumerate(accuracies.tolist(), first_seed)
    )
    return Measured(values=tuple(values), wanted=len(accuracies))


def gaining_nothing(case: Case, seeds: int, random: np.random.Generator) -> ClaimVerdict:
    """One experiment: does it say that the methods are better?"""
    measured: dict[Setting, Measured] = {}
    contrasts = []
    for student, sigma in enumerate(case.sigma):
        common = math.sqrt(SHARED if case.paired else 0) * random.normal(size=seeds)
        for method in range(case.methods + 1):
            own = math.sqrt(1 - SHARED if case.paired else 1) * random.normal(size=seeds)
            each = setting(f"s{student}", f"m{method}" if method else "baseline")
            noise = sigma * (own + common) * (1 if method else case.baseline)
            measured[each] = runs(each, 70 + noise, 0 if case.paired or not method else seeds)
            if method:
                contrasts.append(Contrast(setting=each, against=each.baseline(), label=""))
    claim = Claim(name="c", statement="", relation="better", contrasts=tuple(contrasts))
    return judge_claims([claim], measured)[0]


def apart(luck: Luck, seeds: int, random: np.random.Generator) -> ClaimVerdict:
    """One experiment: does it say that the two arms are equal?"""
    measured = {}
    for method, mean in (("kd", 70.0), ("tf-self", 70 + luck.difference)):
        teachers = random.normal(size=seeds if luck.per_seed else 1)
        each = setting("s", method)
        measured[each] = runs(each, mean + luck.teacher * teachers + luck.sigma * random.normal(size=seeds))
    contrast = Contrast(setting=setting("s", "tf-self"), against=setting("s", "kd"), label="")
    claim = Claim(name="c", statement="", relation="equal", contrasts=(contrast,), margin=MARGIN)
    return judge_claims([claim], measured)[0]


def rates(
    experiment: Callable[[np.random.Generator], ClaimVerdict], *, truth: float, count: int
) -> tuple[float, float]:
    """The shares of `count` experiments whose interval covers the truth, and whose verdict is `holds`."""
    random = np.random.default_rng(0)
    covered = holds = 0
    for _ in range(count):
        found = experiment(random)
        assert found.interval is not None
        covered += found.interval.low <= truth <= found.interval.high
        holds += found.word == "holds"
    return covered / count, holds / count


def tolerance(rate: float, count: int) -> float:
    """Four standard errors of a simulated rate."""
    return 4 * math.sqrt(rate * (1 - rate) / count)


sizes = pytest.mark.parametrize(
    ("seeds", "count"),
    [
        (3, FEW),
        *(pytest.param(seeds, MANY, marks=pytest.mark.drill) for seeds in (3, 5, 20)),
    ],
)


@sizes
@pytest.mark.parametrize("name", CASES)
def test_95_of_100_intervals_cover_the_truth_however_the_runs_scatter(
    name: str, seeds: int, count: int
) -> None:
    covered, better = rates(lambda random: gaining_nothing(CASES[name], seeds, random), truth=0, count=count)
    print(f"{name}, n {seeds}: {covered:.1%} of {count} intervals cover the truth, {better:.1%} say better")
    assert 0.95 - tolerance(0.95, count) < covered < 0.97 + tolerance(0.97, count)
    assert better < 0.025 + tolerance(0.025, count)


@sizes
def test_with_a_teacher_per_seed_equality_is_said_wrongly_in_1_of_20_cases_at_most(
    seeds: int, count: int
) -> None:
    luck = Luck(per_seed=True, difference=MARGIN)
    covered, equal = rates(lambda random: apart(luck, seeds, random), truth=MARGIN, count=count)
    print(f"a teacher per seed, n {seeds}: {covered:.1%} of {count} cover the truth, {equal:.1%} say equal")
    assert abs(covered - 0.9) < tolerance(0.9, count)
    assert equal < 0.05 + tolerance(0.05, count)


@sizes
def test_one_teacher_for_all_seeds_hides_its_luck_from_the_interval(seeds: int, count: int) -> None:
    """Why `--teacher-seeds paired` exists, and what NOTES["one teacher"] says."""
    luck = Luck(per_seed=False, difference=MARGIN)
    covered, equal = rates(lambda random: apart(luck, seeds, random), truth=MARGIN, count=count)
    print(f"one teacher, n {seeds}: {covered:.1%} of {count} cover the truth, {equal:.1%} say equal")
    assert covered < 0.85
