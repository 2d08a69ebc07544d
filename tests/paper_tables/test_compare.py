from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from scipy import stats

from paper_tables.compare import CellComparison, Comparison, Measured, SeedValue, compare
from paper_tables.gains import Gain, mean_gain
from paper_tables.measured import pools
from paper_tables.spec import Cell, Published, Row, Setting, Table

Make = Callable[..., Measured]
Name = Callable[..., Setting]


def cells(comparison: Comparison) -> dict[str, CellComparison]:
    return {each.cell.column: each for each in comparison.cells()}


def gain_of(cell: CellComparison) -> Gain:
    assert cell.best is not None
    assert cell.best.gain is not None
    return cell.best.gain


def test_a_cell_shows_mean_std_and_n_beside_what_was_published(comparison: Comparison) -> None:
    kd = cells(comparison)["kd"]
    assert kd.best is not None
    assert (kd.best.mean, kd.best.std, kd.n, kd.wanted) == (74.0, 1.0, 3, 3)
    assert kd.best.difference == pytest.approx(74.0 - 73.0)
    assert kd.best.gain_difference == pytest.approx(3.0 - 2.5)
    assert kd.runs == ("kd-s0", "kd-s1", "kd-s2")


def test_the_last_epoch_is_read_on_its_own(comparison: Comparison) -> None:
    kd = cells(comparison)["kd"]
    assert kd.last is not None
    assert (kd.last.mean, kd.last.difference) == pytest.approx((73.5, 0.5))


def test_a_gain_is_paired_by_seed_with_the_spread_of_its_block(comparison: Comparison) -> None:
    # σ_p² 0.5 with df 4 (test_statistics); se √(0.5 · 2/3) = 0.57735; t(0.975; 4) = 2.77645.
    gain = gain_of(cells(comparison)["kd"])
    assert (gain.mean, gain.paired, gain.pairs) == (3.0, True, 3)
    assert gain.interval == pytest.approx((3 - 1.60299, 3 + 1.60299), abs=1e-4)


def test_a_baseline_has_no_gain(comparison: Comparison) -> None:
    baseline = cells(comparison)["baseline"].best
    assert baseline is not None
    assert baseline.gain is None


def test_without_matching_seeds_the_gain_is_that_of_the_pooled_t_test(
    table: Table, runs: dict[Setting, Measured], make_setting: Name
) -> None:
    moved = tuple(replace(value, seed=value.seed + 10) for value in runs[make_setting("kd")].values)
    two = {
        make_setting("baseline"): runs[make_setting("baseline")],
        make_setting("kd"): Measured(values=moved),
    }
    gain = gain_of(cells(compare(table, two))["kd"])
    theirs = stats.ttest_ind([74, 73, 75], [70, 71, 72]).confidence_interval(0.95)
    assert not gain.paired
    assert gain.interval == pytest.approx((theirs.low, theirs.high))


def test_only_matching_seeds_are_paired(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    runs[make_setting("baseline")] = make_measured(70.0, 71.0, 72.0, 99.0, name="baseline")
    gain = gain_of(cells(compare(table, runs))["kd"])
    assert (gain.mean, gain.pairs) == (3.0, 3)


def test_a_single_run_shows_its_gain_with_the_spread_of_the_others(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    runs[make_setting("kd")] = make_measured(74.0, name="kd")
    kd = cells(compare(table, runs))["kd"]
    assert kd.best is not None
    assert kd.best.std is None
    # unpaired: 74 - 71 over all seeds, level σ² = (2 + 6)/4 with df 4, se √(2 · (1 + 1/3)).
    assert kd.best.gain is not None
    assert kd.best.gain.mean == pytest.approx(3.0)
    assert kd.best.gain.interval == pytest.approx((3 - 4.53393, 3 + 4.53393), abs=1e-4)


def test_one_run_of_each_gives_a_gain_without_an_interval(
    table: Table, make_setting: Name, make_measured: Make
) -> None:
    once = {make_setting("baseline"): make_measured(70.0, name="b"), make_setting("kd"): make_measured(74.0)}
    gain = gain_of(cells(compare(table, once))["kd"])
    assert (gain.mean, gain.interval, gain.smallest, gain.seeds_for(2.5)) == (4.0, None, None, None)


def test_nothing_measured_leaves_the_published_side(table: Table) -> None:
    for each in compare(table, {}).cells():
        assert (each.n, each.best, each.last) == (0, None, None)
        assert each.cell.published.mean is not None


def test_missing_runs_are_counted_against_those_wanted(
    table: Table, make_setting: Name, make_measured: Make
) -> None:
    kd = cells(compare(table, {make_setting("kd"): make_measured(74.0, 75.0, wanted=5)}))["kd"]
    assert (kd.n, kd.wanted) == (2, 5)


def test_mixed_precision_and_code_are_warned_of_by_seed(table: Table, make_setting: Name) -> None:
    values = (
        SeedValue(seed=0, best=70, last=70, run="a", code="abc"),
        SeedValue(seed=1, best=70, last=70, run="b", code="def", precision="bf16"),
    )
    kd = cells(compare(table, {make_setting("kd"): Measured(values=values)}))["kd"]
    assert kd.warnings == (
        "mixed precision: fp32 (seed 0); bf16 (seed 1)",
        "mixed code versions: abc (seed 0); def (seed 1)",
    )


def test_a_baseline_of_another_precision_is_warned_of(
    table: Table, runs: dict[Setting, Measured], make_setting: Name
) -> None:
    kd = runs[make_setting("kd")]
    runs[make_setting("kd")] = Measured(values=tuple(replace(v, precision="bf16") for v in kd.values))
    found = cells(compare(table, runs))["kd"].warnings
    assert found == ("its baseline ran with another precision: fp32, these runs bf16",)


def test_what_sets_runs_apart_from_the_paper_stands_among_the_warnings(
    table: Table, make_setting: Name, make_measured: Make
) -> None:
    small = replace(make_measured(70.0), unlike_paper=("not the full data set",))
    assert cells(compare(table, {make_setting("kd"): small}))["kd"].warnings == ("not the full data set",)


def test_two_names_for_the_same_runs_count_once_in_the_spread(
    runs: dict[Setting, Measured], make_setting: Name
) -> None:
    kd = make_setting("kd")
    twice = {**runs, replace(kd, method="re-kd"): runs[kd]}
    assert pools(twice, twice, "best") == pools(runs, runs, "best")


def test_each_data_set_has_its_own_spread(
    runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    other = make_setting("kd", dataset="cifar10")
    found = pools([*runs, other], {**runs, other: make_measured(90.0, 90.2, name="other")}, "best")
    assert found["cifar100"].level.df == 6
    assert found["cifar10"].level.sigma == pytest.approx(0.02**0.5)


def test_a_seed_cannot_count_twice() -> None:
    value = SeedValue(seed=0, best=70, last=70, run="a")
    with pytest.raises(ValueError, match="one seed twice"):
        Measured(values=(value, replace(value, run="b")))


def test_a_shared_baseline_is_not_counted_as_fresh_evidence(
    runs: dict[Setting, Measured], make_setting: Name
) -> None:
    # Gains 3 and -1, mean 1. Weights: each kd and lsr run 1/6, each baseline run -1/3; Σw² = 6/36 + 3/9
    # = 0.5, V = 0.5 · 0.5. Were the baselines fresh it would be (1/3 + 1/3)/4 = 1/6.
    pairs = [(make_setting(method), make_setting("baseline")) for method in ("kd", "lsr")]
    gain = mean_gain(pairs, runs, pools(runs, runs, "best"), "best")
    assert gain is not None
    assert gain.error is not None
    assert [gain.mean, gain.error.se, gain.error.df] == pytest.approx([1, 0.5, 4])


def test_a_cell_may_be_empty(table: Table) -> None:
    holed = replace(table, rows=(Row(labels=("x",), cells=(None, *table.rows[0].cells[1:])),))
    assert compare(holed, {}).rows[0][0] is None


def test_a_cell_that_prints_only_a_gain_has_no_difference_in_level(
    table: Table, runs: dict[Setting, Measured], make_setting: Name
) -> None:
    only = Cell(row=0, column="kd", setting=make_setting("kd"), published=Published(gain=2.67))
    kd = cells(compare(replace(table, rows=(Row(labels=("x",), cells=(only,)),)), runs))["kd"]
    assert kd.best is not None
    assert kd.best.difference is None
    assert kd.best.gain_difference == pytest.approx(3.0 - 2.67)
