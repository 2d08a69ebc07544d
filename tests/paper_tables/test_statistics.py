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
    Error,
    Spread,
    Stratum,
    beyond,
    combine,
    deviation,
    holm,
    mean,
    paired_spread,
    pooled_spread,
    prediction_half_width,
    quantile,
    seeds_needed,
    smallest_gain,
    smallest_margin,
    t_interval,
    tost,
    two_sided,
)

# Three settings of one student with seeds 0, 1, 2.
# a: mean 71, deviations -1 0 1; b: mean 74, 0 -1 1; c: mean 70, -1 -1 2.
A, B, C = {0: 70.0, 1: 71.0, 2: 72.0}, {0: 74.0, 1: 73.0, 2: 75.0}, {0: 69.0, 1: 69.0, 2: 72.0}


def test_the_level_spread_pools_squares_and_degrees_of_freedom_over_settings() -> None:
    spread = pooled_spread([A, B, C])  # squares 2 + 2 + 6 = 10, df 2 + 2 + 2 = 6
    assert astuple(spread) == pytest.approx((math.sqrt(10 / 6), 6, 3))


def test_a_setting_with_one_run_adds_nothing_to_the_spread_and_an_empty_one_is_left_out() -> None:
    spread = pooled_spread([A, {0: 99.0}, {}])
    assert astuple(spread) == pytest.approx((1.0, 2, 2))


def test_the_paired_spread_is_the_residual_of_the_randomised_block_analysis() -> None:
    # Seed effects are the mean deviations -2/3, -2/3, 4/3. Residuals: a -1/3 2/3 -1/3, b 2/3 -1/3 -1/3,
    # c -1/3 -1/3 2/3: squares 3 · 6/9 = 2, df (3 - 1)(3 - 1) = 4.
    spread = paired_spread({"student": [A, B, C]})
    assert astuple(spread) == pytest.approx((math.sqrt(2 / 4), 4, 2))


def test_the_paired_spread_of_two_settings_is_that_of_the_paired_t_test() -> None:
    spread = paired_spread({"student": [A, B]})
    assert spread.sigma is not None
    mine = t_interval(-3.0, Error(spread.sigma * math.sqrt(2 / 3), spread.df))
    theirs = stats.ttest_rel(list(A.values()), list(B.values())).confidence_interval(0.95)
    assert mine == pytest.approx((theirs.low, theirs.high))


def test_blocks_are_fitted_apart_and_pooled() -> None:
    # Blocks of a and b: differences -4 -2 -3, residual squares (1 + 1 + 0)/2 = 1, df 2; twice: 2 / 4.
    spread = paired_spread({"one": [A, B], "two": [A, B]})
    assert astuple(spread) == pytest.approx((math.sqrt(2 / 4), 4, 2))


def test_missing_seeds_cost_degrees_of_freedom_and_nothing_else() -> None:
    # b lacks seed 2: of a's three runs only seeds 0 and 1 pair. Differences -4, -2: residual 2/2 = 1, df 1.
    spread = paired_spread({"student": [A, {0: 74.0, 1: 73.0}]})
    assert astuple(spread) == pytest.approx((1.0, 1, 1))


def test_methods_that_agree_with_every_seed_have_no_paired_spread_at_all() -> None:
    group = {0: 100 * 12 / 19, 1: 100 * 10 / 19, 2: 100 / 3}
    assert paired_spread({"student": [group, dict(group), dict(group)]}).sigma == 0


def test_without_common_seeds_there_is_no_paired_spread() -> None:
    assert paired_spread({"student": [{0: 70.0, 1: 71.0}, {2: 74.0, 3: 75.0}]}).sigma is None


def test_nothing_run_twice_gives_no_spread() -> None:
    assert pooled_spread([{0: 70.0}, {0: 71.0}]) == Spread(None, 0, 2)
    assert paired_spread({}) == Spread(None, 0, 0)


def test_mean_and_deviation_are_the_samples() -> None:
    assert mean([1.0, 2.0, 6.0]) == 3.0
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


def test_no_spread_at_all_decides_by_the_estimate() -> None:
    still = Error(0.0, 4)
    assert two_sided(0.5, still) == 0.0
    assert two_sided(0.0, still) == 1.0
    assert tost(0.0, still, margin=0.3) == 0.0


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
    # s 0.3, df 8, n 3, k 1: t(0.975; 8) = 2.306, √(1/3 + 1) = 1.1547: 0.7988.
    assert prediction_half_width(Spread(0.3, 8, 4), 3, 1) == pytest.approx(0.7988, abs=1e-4)
    assert prediction_half_width(Spread(None, 0, 4), 3, 1) is None


def test_one_stratum_keeps_its_degrees_of_freedom() -> None:
    assert astuple(combine([Stratum(0.04, 6, 0.12, 2)])) == pytest.approx((0.2, 6))


def test_strata_combine_as_welch_and_satterthwaite() -> None:
    # V 0.04 with df 4 and 0.01 with df 2: se √0.05, df 0.0025 / (0.0004 + 0.00005) = 5.5556.
    error = combine([Stratum(0.04, 4, 0.12, 2), Stratum(0.01, 2, 0.03, 1)])
    assert astuple(error) == pytest.approx((math.sqrt(0.05), 5.5556), abs=1e-4)


def test_two_strata_of_one_sample_each_give_the_welch_test() -> None:
    a, b = np.array([1.0, 2.0, 4.0]), np.array([3.0, 3.5, 7.0, 8.0])
    parts = [Stratum(float(each.var(ddof=1) / len(each)), len(each) - 1, 1.0, 1) for each in (a, b)]
    p = two_sided(float(a.mean() - b.mean()), combine(parts))
    assert p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)


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
    # One gain, σ_p 0.2, one block of two settings: se √(0.08/r), df r - 1. The smallest gain at
    # r = 3: (4.3027 + 1.0607)·0.16330 = 0.8758; 4: (3.1824 + 0.9785)·0.14142 = 0.5884;
    # r = 5: (2.7764 + 0.9410)·0.12649 = 0.4702.
    strata = [Stratum(0.08 / 3, 2, 0.08, 1)]
    assert [seeds_needed(gain, strata) for gain in (0.88, 0.59, -0.59, 0.58, 0.48)] == [3, 4, 4, 5, 5]


def test_a_gain_of_nothing_or_next_to_nothing_needs_no_nameable_number_of_seeds() -> None:
    strata = [Stratum(0.08, 2, 0.08, 1)]
    assert seeds_needed(0.0, strata) is None
    assert seeds_needed(1e-6, strata) is None
    assert seeds_needed(1.0, [Stratum(0.08, 2, 0.08, 0)]) is None
