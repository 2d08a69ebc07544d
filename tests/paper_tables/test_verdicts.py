from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from scipy import stats

from paper_tables.compare import Comparison, Reading, compare
from paper_tables.measured import Measured
from paper_tables.spec import Claim, Contrast, Setting, Table
from paper_tables.verdicts import ClaimVerdict, judge_claims

Make = Callable[..., Measured]
Name = Callable[..., Setting]


def verdicts(comparison: Comparison) -> dict[str, Reading]:
    return {each.cell.column: each.best for each in comparison.cells() if each.best}


def test_a_published_value_inside_the_prediction_interval_agrees(comparison: Comparison) -> None:
    # t(0.975; 2) 4.30265 · s 1 · √(1/3 + 1/3) = 3.5131; measured 74, published 73.
    level = verdicts(comparison)["kd"].level
    assert level.word == "agrees"
    assert level.allowed == pytest.approx(3.5131, abs=1e-4)


def test_level_and_gain_are_judged_separately(comparison: Comparison) -> None:
    # Level 70 against 80 (k 1): allowed 4.30265 · √3 · √(1/3 + 1) = 8.6053.
    # Gain -1 against +4: 3 · (1/3 + 1) and, for the baseline, 1 · (1/3 + 1) with df 3.2 (test_statistics).
    lsr = verdicts(comparison)["lsr"]
    assert (lsr.level.word, lsr.gain_level.word) == ("differs", "agrees")
    assert (lsr.level.allowed, lsr.gain_level.allowed) == pytest.approx(
        (8.6053, stats.t.ppf(0.975, 3.2) * math.sqrt(16 / 3)), abs=1e-4
    )


def test_every_verdict_says_what_these_seeds_could_have_shown(comparison: Comparison) -> None:
    # 3 seeds: (t(0.975; 2) 4.30265 + t(0.80; 2) 1.06066) · 0.57735; 4: (3.18245 + 0.97847) · 0.5 = 2.0805.
    kd = verdicts(comparison)["kd"]
    assert kd.gain
    assert kd.gain.smallest == pytest.approx(3.09651, abs=1e-4)
    assert kd.seeds_for_printed_gain == 4


def test_a_baseline_is_judged_by_its_level_alone(comparison: Comparison) -> None:
    baseline = verdicts(comparison)["baseline"]
    assert (baseline.level.word, baseline.gain_level.word) == ("agrees", "not published")


def test_verdicts_are_repeated_on_the_last_epoch(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    runs[make_setting("kd")] = make_measured(74.0, 73.0, 75.0, name="kd", lower=9.0)
    kd = next(each for each in compare(table, runs).cells() if each.cell.column == "kd")
    assert kd.best
    assert kd.last
    assert (kd.best.level.word, kd.last.level.word) == ("agrees", "differs")


def test_two_runs_are_too_few(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    runs[make_setting("kd")] = make_measured(74.0, 73.0, name="kd")
    found = verdicts(compare(table, runs))["kd"]
    assert (found.level.word, found.gain_level.word) == ("too few runs", "too few runs")


def test_a_gain_needs_three_runs_of_the_baseline_too(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    runs[make_setting("baseline")] = make_measured(70.0, 71.0, name="baseline")
    found = verdicts(compare(table, runs))["kd"]
    assert (found.level.word, found.gain_level.word) == ("agrees", "too few runs")


def test_a_gain_is_judged_by_the_seeds_it_is_paired_on_and_no_others(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    runs[make_setting("baseline")] = make_measured(70.0, 71.0, 72.0, 71.5, 70.5, 71.0, name="baseline")
    paired = verdicts(compare(table, runs))["kd"].gain_level
    # s² 1 and 1, n 3 and 3 (not 6), k 3 and 1: V 2/3 and 4/3, df 4 / (2/9 + 8/9) = 3.6.
    assert paired.allowed == pytest.approx(stats.t.ppf(0.975, 3.6) * math.sqrt(2))
    two = tuple(replace(value, seed=value.seed + 1) for value in runs[make_setting("kd")].values)
    runs[make_setting("baseline")] = make_measured(70.0, 71.0, 72.0, name="baseline")
    runs[make_setting("kd")] = replace(runs[make_setting("kd")], values=two)
    found = verdicts(compare(table, runs))["kd"]
    assert (found.level.word, found.gain_level.word) == ("agrees", "too few runs")


def test_without_its_baseline_a_gain_is_not_measured(
    table: Table, runs: dict[Setting, Measured], make_setting: Name
) -> None:
    del runs[make_setting("baseline")]
    found = verdicts(compare(table, runs))["kd"]
    assert (found.level.word, found.gain_level.word) == ("agrees", "not measured")


def test_an_assumed_setting_is_never_the_papers_fault(table: Table, runs: dict[Setting, Measured]) -> None:
    found = verdicts(compare(table, runs, lambda each: ("alpha",) if each.method == "lsr" else ()))
    assert (found["lsr"].level.word, found["kd"].level.word) == ("setting assumed", "agrees")


def test_an_assumed_baseline_makes_the_gain_assumed(table: Table, runs: dict[Setting, Measured]) -> None:
    found = verdicts(compare(table, runs, lambda each: ("lr",) if each.method == "baseline" else ()))["kd"]
    assert (found.level.word, found.gain_level.word) == ("agrees", "setting assumed")


def test_runs_unlike_the_papers_are_never_held_against_it(
    table: Table, runs: dict[Setting, Measured], make_setting: Name
) -> None:
    quick = {each: replace(value, unlike_paper=("10 epochs",)) for each, value in runs.items()}
    found = verdicts(compare(table, quick))["kd"]
    assert (found.level.word, found.gain_level.word) == ("not comparable", "not comparable")


def contrasts(name: Name, *methods: str, dataset: str = "cifar100") -> tuple[Contrast, ...]:
    return tuple(
        Contrast(
            setting=name(method, dataset=dataset),
            against=name("baseline", dataset=dataset),
            label=method,
            published=2.5,
        )
        for method in methods
    )


def better(*found: Contrast) -> Claim:
    return Claim(name="b", statement="It gains", relation="better", contrasts=found)


def equal(*found: Contrast) -> Claim:
    return Claim(name="e", statement="It is equal", relation="equal", contrasts=found)


def judge(claim: Claim, runs: dict[Setting, Measured], *, among: int = 1) -> ClaimVerdict:
    """The verdict on this claim among others that are not measured."""
    unmeasured = [better(Contrast(setting=other, against=other.baseline(), label="")) for other in UNKNOWN]
    return judge_claims([claim, *unmeasured[: among - 1]], runs)[0]


UNKNOWN = [Setting(dataset="imagenet", student=f"s{index}", method="lsr") for index in range(9)]


def test_a_gain_whose_interval_lies_above_0_holds(runs: dict[Setting, Measured], make_setting: Name) -> None:
    # By seed 4 2 3: se 0.57735, df 2. t = 3 / 0.57735 = 5.19615.
    verdict = judge(better(*contrasts(make_setting, "kd")), runs)
    assert verdict.word == "holds"
    assert verdict.p_holm == pytest.approx(2 * stats.t.sf(5.19615, 2), rel=1e-4)
    assert verdict.interval == pytest.approx((3 - 2.48413, 3 + 2.48413), abs=1e-4)
    # 3 seeds: (4.30265 + 1.06066) · 0.57735 = 3.0965; 4 seeds: (3.18245 + 0.97847) · 0.5 = 2.0805.
    assert (verdict.printed_gain, verdict.seeds_for_printed_gain) == (2.5, 4)


def test_the_claim_is_the_mean_over_its_cells(runs: dict[Setting, Measured], make_setting: Name) -> None:
    # test_compare: mean 1, se 0.5, df 2; interval 1 ± 4.30265 · 0.5 holds 0.
    verdict = judge(better(*contrasts(make_setting, "kd", "lsr")), runs)
    assert verdict.word == "not shown"
    assert verdict.interval == pytest.approx((1 - 2.15133, 1 + 2.15133), abs=1e-4)


def test_data_sets_are_combined_each_with_its_own_variance(
    runs: dict[Setting, Measured], make_setting: Name
) -> None:
    # The same runs on two data sets: V 0.0625 each, se √0.125, df 0.125² / (2·0.0625²/2) = 4.
    other = {replace(each, dataset="cifar10"): _renamed(value) for each, value in runs.items()}
    claim = better(
        *contrasts(make_setting, "kd", "lsr"), *contrasts(make_setting, "kd", "lsr", dataset="cifar10")
    )
    verdict = judge(claim, {**runs, **other})
    assert verdict.gain is not None
    assert verdict.gain.error is not None
    assert (verdict.gain.error.se, verdict.gain.error.df) == pytest.approx((0.125**0.5, 4))
    assert [(part.dataset, part.measured, part.total) for part in verdict.by_dataset] == [
        ("cifar100", 2, 2),
        ("cifar10", 2, 2),
    ]


def _renamed(measured: Measured) -> Measured:
    return replace(measured, values=tuple(replace(each, run=f"other-{each.run}") for each in measured.values))


def test_a_loss_where_a_gain_was_claimed_contradicts(
    runs: dict[Setting, Measured], make_setting: Name
) -> None:
    turned = Contrast(setting=make_setting("baseline"), against=make_setting("kd"), label="")
    assert judge(better(turned), runs).word == "contradicted"


def test_holm_counts_claims_that_cannot_be_judged_yet(
    runs: dict[Setting, Measured], make_setting: Name
) -> None:
    # p 0.0351: once below 0.05, twice above.
    claim = better(*contrasts(make_setting, "kd"))
    assert (judge(claim, runs, among=1).word, judge(claim, runs, among=2).word) == ("holds", "not shown")


@pytest.fixture
def close(make_setting: Name, make_measured: Make) -> dict[Setting, Measured]:
    """Differences 0.1, 0, -0.1: mean 0, se 0.1/√3, df 2."""
    return {
        make_setting("baseline"): make_measured(70.0, 71.0, 72.0, name="b"),
        make_setting("tf-self"): make_measured(70.1, 71.0, 71.9, name="t"),
    }


def test_equality_holds_when_the_90_percent_interval_lies_inside_the_margin(
    close: dict[Setting, Measured], make_setting: Name
) -> None:
    # t(0.95; 2) 2.91999 · 0.057735 = 0.16859; p = P(t > 0.3 / 0.057735) = 0.01755.
    verdict = judge(equal(*contrasts(make_setting, "tf-self")), close)
    assert (verdict.word, verdict.confidence) == ("holds", 0.90)
    assert verdict.interval == pytest.approx((-0.16859, 0.16859), abs=1e-4)
    assert verdict.p == pytest.approx(stats.t.sf(0.3 / 0.057735, 2), rel=1e-4)
    # (t(0.95; 2) 2.91999 + t(0.90; 2) 1.88562) · 0.057735.
    assert verdict.smallest_margin == pytest.approx(0.27745, abs=1e-4)
    assert verdict.seeds_for_margin == 3


def test_equality_is_corrected_by_holm_too(close: dict[Setting, Measured], make_setting: Name) -> None:
    claim = equal(*contrasts(make_setting, "tf-self"))
    assert [judge(claim, close, among=among).word for among in (2, 3)] == ["holds", "not shown"]


def test_no_significant_difference_is_not_equality(runs: dict[Setting, Measured], make_setting: Name) -> None:
    verdict = judge(equal(*contrasts(make_setting, "lsr")), runs)  # -1 ± 1.6: holds 0, not inside ±0.3
    assert verdict.word == "not shown"


def test_a_difference_clearly_beyond_the_margin_contradicts_equality(
    make_setting: Name, make_measured: Make
) -> None:
    runs = {
        make_setting("baseline"): make_measured(70.0, 71.0, 72.0, name="b"),
        make_setting("tf-self"): make_measured(71.1, 72.0, 72.9, name="t"),
    }
    assert judge(equal(*contrasts(make_setting, "tf-self")), runs).word == "contradicted"


def test_a_claim_with_a_missing_cell_shows_its_gain_and_no_verdict(
    runs: dict[Setting, Measured], make_setting: Name
) -> None:
    verdict = judge(better(*contrasts(make_setting, "kd", "tf-reg")), runs)
    assert (verdict.word, verdict.cells, verdict.p, verdict.p_holm) == ("not measured", 1, None, None)
    assert verdict.gain is not None
    assert verdict.gain.mean == 3.0


def test_a_claim_without_any_run_has_nothing(make_setting: Name) -> None:
    verdict = judge(better(*contrasts(make_setting, "kd")), {})
    assert (verdict.word, verdict.gain, verdict.interval, verdict.smallest_gain) == (
        "not measured",
        None,
        None,
        None,
    )


def test_a_claim_with_two_runs_of_a_setting_has_too_few(
    runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    runs[make_setting("baseline")] = make_measured(70.0, 71.0, name="baseline")
    assert judge(better(*contrasts(make_setting, "kd")), runs).word == "too few runs"


def test_a_claim_measured_at_another_scale_is_not_comparable(
    runs: dict[Setting, Measured], make_setting: Name
) -> None:
    quick = {each: replace(value, unlike_paper=("10 epochs",)) for each, value in runs.items()}
    verdict = judge(better(*contrasts(make_setting, "kd")), quick)
    assert (verdict.word, verdict.notes) == ("not comparable", ("10 epochs",))


def test_the_cells_that_rest_on_an_assumption_are_counted(
    runs: dict[Setting, Measured], make_setting: Name
) -> None:
    claim = better(*contrasts(make_setting, "kd", "lsr"))
    (verdict,) = judge_claims([claim], runs, assumed=lambda each: ("α",) if each.method == "kd" else ())
    assert verdict.notes == ("1 of 2 cells rest on settings nobody published",)


def test_a_claim_the_paper_does_not_print_has_no_printed_gain(
    runs: dict[Setting, Measured], make_setting: Name
) -> None:
    claim = better(*(replace(each, published=None) for each in contrasts(make_setting, "kd")))
    verdict = judge(claim, runs)
    assert (verdict.printed_gain, verdict.seeds_for_printed_gain) == (None, None)
