from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from scipy import stats

from paper_tables.compare import CellComparison, Comparison, Measured, SeedValue, compare
from paper_tables.gains import Gain, mean_gain
from paper_tables.measured import unequal_scatter
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
    assert kd.best.level.difference == pytest.approx(74.0 - 73.0)
    assert kd.best.gain_level.difference == pytest.approx(3.0 - 2.5)
    assert kd.measured.runs == ("kd-s0", "kd-s1", "kd-s2")


def test_the_last_epoch_is_read_on_its_own(comparison: Comparison) -> None:
    kd = cells(comparison)["kd"]
    assert kd.last is not None
    assert (kd.last.mean, kd.last.level.difference) == pytest.approx((73.5, 0.5))


def test_a_gain_is_paired_by_seed_with_the_spread_of_its_own_differences(comparison: Comparison) -> None:
    # 4 2 3: se √(1/3) = 0.57735; t(0.975; 2) = 4.30265.
    gain = gain_of(cells(comparison)["kd"])
    theirs = stats.ttest_rel([74, 73, 75], [70, 71, 72]).confidence_interval(0.95)
    assert (gain.mean, gain.paired, gain.pairs, gain.partial) == (3.0, True, 3, False)
    assert gain.interval == pytest.approx((3 - 2.48413, 3 + 2.48413), abs=1e-4)
    assert gain.interval == pytest.approx((theirs.low, theirs.high))


def test_a_baseline_has_no_gain(comparison: Comparison) -> None:
    baseline = cells(comparison)["baseline"].best
    assert baseline is not None
    assert baseline.gain is None


def test_without_common_seeds_the_gain_is_that_of_the_welch_test(
    table: Table, runs: dict[Setting, Measured], make_setting: Name
) -> None:
    moved = tuple(replace(value, seed=value.seed + 10) for value in runs[make_setting("lsr")].values)
    runs[make_setting("lsr")] = Measured(values=moved)
    gain = gain_of(cells(compare(table, runs))["lsr"])
    theirs = stats.ttest_ind([69, 69, 72], [70, 71, 72], equal_var=False).confidence_interval(0.95)
    assert (gain.paired, gain.pairs, gain.partial) == (False, None, False)
    assert gain.interval == pytest.approx((theirs.low, theirs.high))


def test_only_common_seeds_are_paired_and_the_gain_says_so(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    runs[make_setting("baseline")] = make_measured(70.0, 71.0, 72.0, 99.0, name="baseline")
    gain = gain_of(cells(compare(table, runs))["kd"])
    assert (gain.mean, gain.pairs, gain.partial) == (3.0, 3, True)


def test_a_single_run_shows_its_gain_without_an_interval(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    runs[make_setting("kd")] = make_measured(74.0, name="kd")
    kd = cells(compare(table, runs))["kd"]
    assert kd.best is not None
    assert kd.best.std is None
    gain = gain_of(kd)
    assert (gain.mean, gain.interval, gain.p, gain.smallest) == (3.0, None, None, None)


def test_differences_that_are_all_equal_decide_nothing(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    runs[make_setting("kd")] = make_measured(70.1, 71.1, 72.1, name="kd")
    gain = gain_of(cells(compare(table, runs))["kd"])
    assert gain.interval == pytest.approx((0.1, 0.1))
    assert (gain.p, gain.smallest, gain.seeds_for(0.1)) == (None, None, None)


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


QUIET, LOUD = (70.0, 70.1, 70.2, 70.1, 70.3), (60.0, 70.0, 80.0, 75.0, 64.0)


def test_settings_that_do_not_scatter_alike_are_warned_of_by_data_set(
    runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    quiet, loud = (make_setting(method, dataset="cifar10") for method in ("lsr", "kd"))
    found = {**runs, quiet: make_measured(*QUIET, name="quiet"), loud: make_measured(*LOUD, name="loud")}
    (warning,) = unequal_scatter(found, found, "best")
    assert "do not scatter alike on cifar10, best epoch (Brown–Forsythe, p 0.01)" in warning


def test_two_names_for_the_same_runs_count_once_in_the_test_of_scatter(
    make_setting: Name, make_measured: Make
) -> None:
    kd, lsr = make_setting("kd"), make_setting("lsr")
    found = {kd: make_measured(*QUIET, name="kd"), lsr: make_measured(*LOUD, name="lsr")}
    twice = {**found, replace(kd, method="re-kd"): found[kd]}
    assert unequal_scatter(twice, twice, "best") == unequal_scatter(found, found, "best")


def test_a_seed_cannot_count_twice() -> None:
    value = SeedValue(seed=0, best=70, last=70, run="a")
    with pytest.raises(ValueError, match="one seed twice"):
        Measured(values=(value, replace(value, run="b")))


def test_a_shared_baseline_is_not_counted_as_fresh_evidence(
    runs: dict[Setting, Measured], make_setting: Name
) -> None:
    # Gains 3 and -1, mean 1; by seed (4 - 1)/2, (2 - 2)/2, (3 + 0)/2 = 1.5 0 1.5: variance 0.75, se 0.5.
    # Were the baselines fresh it would be (1/3 + 1/3)/4, se 0.41, with df 4.
    pairs = [(make_setting(method), make_setting("baseline")) for method in ("kd", "lsr")]
    gain = mean_gain(pairs, runs, "best")
    assert gain is not None
    assert gain.error is not None
    assert [gain.mean, gain.error.se, gain.error.df] == pytest.approx([1, 0.5, 2])


def test_each_student_brings_its_own_variance(
    runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    # Halves of 4 2 3 (V 1/12, df 2) and of 1.0 1.2 0.9 1.1 (variance 1/60; V 1/960, df 3).
    other = {
        make_setting(method, student="resnet18"): make_measured(*values, name=f"other-{method}")
        for method, values in {"kd": (71, 71.2, 70.9, 71.1), "baseline": (70, 70, 70, 70)}.items()
    }
    pairs = [
        (make_setting("kd", student=student), make_setting("baseline", student=student))
        for student in ("mobilenetv2", "resnet18")
    ]
    gain = mean_gain(pairs, {**runs, **other}, "best")
    assert gain is not None
    assert gain.error is not None
    variance = 1 / 12 + 1 / 960
    df = variance**2 / ((1 / 12) ** 2 / 2 + (1 / 960) ** 2 / 3)
    assert [gain.mean, gain.error.se, gain.error.df] == pytest.approx([2.025, variance**0.5, df])


def test_a_gain_over_another_student_is_never_paired(
    runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    other = make_setting("lsr", student="resnet18")
    runs[other] = make_measured(69.0, 69.0, 72.0, name="other")
    gain = mean_gain([(make_setting("kd"), other)], runs, "best")
    theirs = stats.ttest_ind([74, 73, 75], [69, 69, 72], equal_var=False).confidence_interval(0.95)
    assert gain is not None
    assert not gain.paired
    assert gain.interval == pytest.approx((theirs.low, theirs.high))


def test_a_cell_may_be_empty(table: Table) -> None:
    holed = replace(table, rows=(Row(labels=("x",), cells=(None, *table.rows[0].cells[1:])),))
    assert compare(holed, {}).rows[0][0] is None


def test_a_cell_that_prints_only_a_gain_has_no_difference_in_level(
    table: Table, runs: dict[Setting, Measured], make_setting: Name
) -> None:
    only = Cell(row=0, column="kd", setting=make_setting("kd"), published=Published(gain=2.67))
    kd = cells(compare(replace(table, rows=(Row(labels=("x",), cells=(only,)),)), runs))["kd"]
    assert kd.best is not None
    assert kd.best.level.difference is None
    assert kd.best.gain_level.difference == pytest.approx(3.0 - 2.67)
