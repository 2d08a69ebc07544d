"""Each formula of STATISTICS.md against numbers worked by hand, and against plain SciPy."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from paper_tables.statistics import (
    Component,
    Error,
    beyond,
    combine,
    deviation,
    equal_scatter,
    holm,
    prediction_half_width,
    quantile,
    seeds_needed,
    smallest_gain,
    smallest_margin,
    t_interval,
    tost,
    two_sided,
)


def test_the_deviation_is_the_samples_and_unknown_for_one_value() -> None:
    assert deviation([1.0, 2.0, 6.0]) == pytest.approx(math.sqrt(7))
    assert deviation([1.0]) is None


def test_the_interval_uses_the_textbook_quantile() -> None:
    low, high = t_interval(1.0, Error(0.1, 4))  # t(0.975; 4) = 2.776
    assert (low, high) == pytest.approx((1 - 0.2776, 1 + 0.2776), abs=1e-4)


@given(st.floats(0.001, 0.999), st.floats(1, 200))
def test_quantiles_are_those_of_scipy(probability: float, df: float) -> None:
    assert quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), rel=1e-6, abs=1e-9)


def test_the_two_sided_p_is_that_of_the_t_test() -> None:
    values = np.array([0.4, 0.9, 1.1, 0.2])
    error = Error(float(stats.sem(values)), 3)
    assert two_sided(float(values.mean()), error) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert two_sided(-float(values.mean()), error) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


@given(st.floats(-1, 1), st.floats(0.01, 1), st.integers(1, 40))
def test_equality_is_confirmed_exactly_when_the_90_percent_interval_lies_inside(
    estimate: float, se: float, df: int
) -> None:
    error = Error(se, df)
    low, high = t_interval(estimate, error, confidence=0.90)
    p = tost(estimate, error, margin=0.3)
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (low > -0.3 and high < 0.3)


def test_tost_takes_the_worse_side() -> None:
    # Estimate 0.1, se 0.1, margin 0.3: t = 2 against +0.3 and 4 against -0.3.
    assert tost(0.1, Error(0.1, 10), margin=0.3) == pytest.approx(stats.t.sf(2, 10))


def test_beyond_is_the_doubled_test_on_the_side_of_the_estimate() -> None:
    assert beyond(-0.5, Error(0.1, 10), margin=0.3) == pytest.approx(2 * stats.t.sf(2, 10))
    assert beyond(0.0, Error(0.1, 10), margin=0.3) == 1.0


def test_holm_multiplies_by_what_is_left_and_stays_monotone() -> None:
    # Sorted 0.01 0.02 0.03 0.04 × 4 3 2 1 = 0.04 0.06 0.06 0.04, made monotone 0.04 0.06 0.06 0.06.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx((0.06, 0.04, 0.06, 0.06))
    assert holm([0.6, 0.7]) == (1.0, 1.0)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_plain_p_and_bonferroni(p_values: list[float]) -> None:
    for plain, adjusted in zip(p_values, holm(p_values), strict=True):
        assert plain <= adjusted <= min(1.0, len(p_values) * plain) + 1e-12


def test_the_prediction_interval_counts_the_runs_on_both_sides() -> None:
    # s 1, df 2, n 3, k 1: t(0.975; 2) = 4.30265, √(1/3 + 1) = 1.15470: 4.9683.
    assert prediction_half_width(([70.0, 71.0, 72.0], 1)) == pytest.approx(4.9683, abs=1e-4)
    assert prediction_half_width(([70.0], 3)) is None


def test_the_prediction_interval_of_a_difference_takes_each_sides_own_spread() -> None:
    # s² 3 and 1, n 3, k 1: V 4 and 4/3 with df 2 each; df (16/3)² / (8 + 8/9) = 3.2.
    allowed = prediction_half_width(([69.0, 69.0, 72.0], 1), ([70.0, 71.0, 72.0], 1))
    assert allowed == pytest.approx(stats.t.ppf(0.975, 3.2) * math.sqrt(16 / 3))


def test_one_part_keeps_its_degrees_of_freedom() -> None:
    assert astuple(combine([Component(0.28, 7)])) == pytest.approx((0.2, 6))


def test_parts_combine_as_welch_and_satterthwaite() -> None:
    # V 0.04 with df 4 and 0.01 with df 2: se √0.05, df 0.0025 / (0.0004 + 0.00005) = 5.5556.
    error = combine([Component(0.2, 5), Component(0.03, 3)])
    assert astuple(error) == pytest.approx((math.sqrt(0.05), 5.5556), abs=1e-4)


def test_two_parts_of_one_sample_each_give_the_welch_test() -> None:
    a, b = np.array([1.0, 2.0, 4.0]), np.array([3.0, 3.5, 7.0, 8.0])
    components = [Component(float(each.var(ddof=1)), len(each)) for each in (a, b)]
    p = two_sided(float(a.mean() - b.mean()), combine(components))
    assert p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)


def test_equal_scatter_is_tested_around_the_medians() -> None:
    quiet, loud = [70.0, 70.1, 70.2, 70.1, 70.3], [60.0, 70.0, 80.0, 75.0, 64.0]
    assert equal_scatter([quiet, loud]) == pytest.approx(stats.levene(quiet, loud, center="median").pvalue)


def test_equal_scatter_is_unknown_for_too_few_runs_and_for_runs_that_all_agree() -> None:
    assert equal_scatter([[70.0, 71.0, 72.0], [70.0, 75.0]]) is None
    assert equal_scatter([[70.0] * 3, [71.0] * 3]) is None


def test_the_smallest_gain_is_the_sum_of_two_quantiles() -> None:
    # df 4: t(0.975) 2.7764, t(0.80) 0.9410: 3.7174 · 0.1.
    assert smallest_gain(Error(0.1, 4)) == pytest.approx(0.37174, abs=1e-4)
    # df 4: t(0.95) 2.1318, t(0.90) 1.5332: 3.6650 · 0.1.
    assert smallest_margin(Error(0.1, 4)) == pytest.approx(0.36650, abs=1e-4)


def test_the_smallest_gain_is_found_in_about_80_of_100_studies() -> None:
    df, gain = 8, smallest_gain(Error(1.0, 8))
    power = stats.nct.sf(stats.t.ppf(0.975, df), df, gain) + stats.nct.cdf(-stats.t.ppf(0.975, df), df, gain)
    assert power == pytest.approx(0.8, abs=0.02)


def test_the_seeds_needed_are_the_first_that_suffice() -> None:
    # One gain, differences of variance 0.08: se √(0.08/r), df r - 1. The smallest gain at
    # r = 3: (4.3027 + 1.0607)·0.16330 = 0.8758; 4: (3.1824 + 0.9785)·0.14142 = 0.5884;
    # r = 5: (2.7764 + 0.9410)·0.12649 = 0.4702.
    components = [Component(0.08, 3)]
    assert [seeds_needed(gain, components) for gain in (0.88, 0.59, -0.59, 0.58, 0.48)] == [3, 4, 4, 5, 5]


def test_a_gain_of_nothing_or_next_to_nothing_needs_no_nameable_number_of_seeds() -> None:
    assert seeds_needed(0.0, [Component(0.08, 3)]) is None
    assert seeds_needed(1e-6, [Component(0.08, 3)]) is None


@given(st.floats(0.02, 10), st.lists(st.floats(0.01, 4), min_size=1, max_size=4))
def test_fewer_seeds_than_needed_do_not_suffice(gain: float, variances: list[float]) -> None:
    components = [Component(each, 3) for each in variances]
    seeds = seeds_needed(gain, components)
    smallest = [smallest_gain(combine([Component(v, n) for v in variances])) for n in range(2, 40)]
    assert seeds == next((n for n, each in enumerate(smallest, 2) if each <= gain), seeds)
    assert seeds is None or seeds >= 40 or smallest[seeds - 2] <= gain
