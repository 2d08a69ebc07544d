"""What a request's names mean, and the figures, claims and controls as data."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from paper_tables.hyperparameters import lookup
from paper_tables.reader import FOLDER, Paper
from paper_tables.spec import PaperTablesError, Setting
from paper_tables.strict import Names
from tfkd_cli.methods import LOSSES, METHODS, CrossEntropy, LabelSmoothing, Loss, TfReg

CONTROLS = ("controls-cifar10", "controls-cifar100", "controls-tiny-imagenet")


def names_of(paper: Paper, *wanted: str) -> list[str]:
    return [each.name for each in paper.expand(wanted)]


def loss_of(setting: Setting, form: str = "released") -> Loss:
    kind = METHODS[setting.method].loss
    forms = kind.FORMS[setting.form or form]
    values = {name: each.value for name, each in lookup(setting, form=form).loss.items()}
    return kind(**{**forms, **values})


def test_all_is_the_paper_and_our_controls_without_the_demo(paper: Paper) -> None:
    assert names_of(paper, "all") == [
        *(f"table{number}" for number in range(1, 12)),
        *CONTROLS,
        *("fig2a", "fig2b", "fig3", "fig4", "fig4-resnet18", "soft-targets"),
    ]


def test_paper_leaves_our_controls_out_and_controls_leaves_the_paper_out(paper: Paper) -> None:
    assert names_of(paper, "controls") == list(CONTROLS)
    assert names_of(paper, "paper") == [each for each in names_of(paper, "all") if each not in CONTROLS]


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (["table1"], ["table1"]),
        (["Table_10", "TABLE 1"], ["table10", "table1"]),
        (["fig2"], ["fig2a", "fig2b"]),
        (["Figure 2a"], ["fig2a"]),
        (["fig4"], ["fig4"]),
        (["soft_targets", "fig2b", "fig2"], ["soft-targets", "fig2b", "fig2a"]),
        (["demo", "demo"], ["demo"]),
    ],
)
def test_a_name_means_a_table_or_a_figure_once(paper: Paper, asked: list[str], meant: list[str]) -> None:
    assert names_of(paper, *asked) == meant


def test_an_unknown_name_is_refused_with_the_nearest(paper: Paper) -> None:
    with pytest.raises(PaperTablesError, match="tabel3") as caught:
        paper.expand(["tabel3"])
    assert "table3" in caught.value.hint
    assert "fig2, " in caught.value.expected


def test_a_table_of_ones_own_is_a_file(names: Names, tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "paper", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (folder / "tables" / "mine.toml").write_text(
        'title = "Mine"\nkind = "control"\ndataset = "digits"\nstudent = "resnet8"\nheads = ["Method"]\n'
        'column = [{ name = "accuracy", label = "Accuracy" }]\n'
        '[[row]]\nlabels = ["LSR"]\nmethod = "lsr"\nloss = { alpha = 0.2 }\n',
        encoding="utf-8",
    )
    table = Paper(names, folder).tables["mine"]
    assert table.rows[0].labels == ("LSR",)
    assert next(table.cells()).setting.loss == (("alpha", 0.2),)


@pytest.mark.parametrize(("name", "teacher"), [("fig2a", "resnet18"), ("fig2b", "resnext29")])
def test_figure_2_has_nine_checkpoints_the_last_fully_trained(paper: Paper, name: str, teacher: str) -> None:
    swept = paper.figures[name].series[0].settings
    assert [each.teacher_epoch for each in swept] == [1, 10, 20, 35, 50, 80, 120, 160, None]
    assert {(each.student, each.teacher) for each in swept} == {("mobilenetv2", teacher)}
    assert [each.method for each in swept] == ["de-kd"] * 8 + ["kd"]


def test_what_was_read_off_a_figure_is_approximate(paper: Paper) -> None:
    for figure in paper.figures.values():
        for series in figure.series:
            confirmed = "baseline" in series.label or series.label.startswith("Tables")
            expected = "CONFIRMED" if confirmed and figure.kind == "sweep" else "APPROXIMATE"
            assert not series.published or series.status == expected, (figure.name, series.label)


def test_figure_1_is_a_drawing_and_figures_2_to_4_are_there(paper: Paper) -> None:
    assert list(paper.figures) == ["fig2a", "fig2b", "fig3", "fig4", "fig4-resnet18", "soft-targets"]


def test_figure_3_is_computed_from_the_virtual_teacher(paper: Paper) -> None:
    drawn = dict(paper.figures["fig3"].series[0].values)
    loss = TfReg(temperature=drawn["temperature"], correct_prob=drawn["correct_prob"])
    assert loss.virtual_probabilities(drawn["classes"]) == pytest.approx((0.1045, 0.0995), abs=5e-5)


def test_there_are_five_claims_in_the_papers_order(paper: Paper) -> None:
    claims = {name: claim for name, claim in paper.claims.items() if claim.family == "paper"}
    assert list(claims) == ["re-kd", "de-kd", "tf-self", "tf-reg", "loss-scale"]
    counts = {name: len(claim.contrasts) for name, claim in claims.items()}
    assert counts == {"re-kd": 17, "de-kd": 12, "tf-self": 11, "tf-reg": 12, "loss-scale": 12}
    assert {name for name, claim in claims.items() if claim.relation == "equal"} == {"tf-self"}
    assert claims["tf-self"].margin == 0.3


def test_each_claim_of_the_audit_is_tested_for_a_difference_and_for_equality(paper: Paper) -> None:
    claims = {name: claim for name, claim in paper.claims.items() if claim.family == "audit"}
    assert len(claims) == 6
    for name in ("audit-tf-reg", "audit-tf-self", "audit-teacher"):
        better, equal = claims[name], claims[f"{name}-equal"]
        assert (better.relation, equal.relation, equal.margin) == ("better", "equal", 0.3)
        assert better.contrasts == equal.contrasts
        assert {(c.setting.dataset, c.setting.student) for c in better.contrasts} == {
            ("cifar10", "plain-cnn"),
            ("cifar100", "plain-cnn"),
        }


def test_a_contrast_carries_the_printed_gain_over_its_other_cell(paper: Paper) -> None:
    first = paper.claims["tf-reg"].contrasts[0]
    assert (first.setting.student, first.setting.method, first.against.method) == (
        "mobilenetv2",
        "tf-reg",
        "lsr",
    )
    assert first.published == pytest.approx(2.50 - 0.94)
    assert paper.claims["re-kd"].contrasts[0].published == 1.41
    assert paper.claims["loss-scale"].contrasts[0].published is None


def test_the_control_claim_sets_each_kd_row_against_scaled_cross_entropy(paper: Paper) -> None:
    for contrast in paper.claims["loss-scale"].contrasts:
        kd, scaled = loss_of(contrast.setting), loss_of(contrast.against)
        assert contrast.setting.student == contrast.against.student
        assert isinstance(scaled, CrossEntropy)
        assert scaled.scale == pytest.approx(kd.weights(100)["ce"])


@pytest.mark.parametrize("name", CONTROLS)
def test_cross_entropy_is_scaled_by_the_weight_and_trained_with_the_batch_of_its_row(
    paper: Paper, name: str
) -> None:
    columns = [each.name for each in paper.tables[name].columns]
    compared = 0
    for row in paper.tables[name].rows:
        cells = dict(zip(columns, row.cells, strict=True))
        released, scaled = cells["released"], cells["scaled-ce"]
        if released is None or scaled is None:
            continue
        compared += 1
        assert not scaled.is_baseline
        assert loss_of(scaled.setting).weights(100)["ce"] == pytest.approx(
            loss_of(released.setting).weights(100)["ce"]
        )
        batches = [
            lookup(each.setting, form="released").recipe["batch_size"].value for each in (released, scaled)
        ]
        assert batches[0] == batches[1], row.labels
    assert compared >= 6


def test_scaled_label_smoothing_is_the_released_tf_reg_itself(paper: Paper) -> None:
    logits = torch.randn(64, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64)
    table = paper.tables["controls-cifar100"]
    columns = [each.name for each in table.columns]
    rows = [dict(zip(columns, row.cells, strict=True)) for row in table.rows]
    rows = [row for row in rows if row["lsr"] is not None]
    assert len(rows) == 4
    for row in rows:
        gradients = []
        for cell in (row["released"], row["scaled-lsr"] or row["lsr"]):
            assert cell is not None
            z = logits.clone().requires_grad_()
            total = loss_of(cell.setting)(z, labels).total
            gradients.append(torch.autograd.grad(total, z)[0])
        assert (gradients[0] - gradients[1]).norm() < 1e-8 * gradients[0].norm()


@pytest.mark.parametrize(
    ("student", "epsilon", "scale"),
    [
        ("mobilenetv2", 0.160, 0.0595),
        ("shufflenetv2", 0.160, 0.0595),
        ("resnet18", 0.100, 1.0),
        ("googlenet", 0.053, 0.950),
    ],
)
def test_the_equivalent_label_smoothing_has_the_known_epsilon_and_scale(
    paper: Paper, student: str, epsilon: float, scale: float
) -> None:
    found = [
        loss_of(cell.setting) for cell in paper.tables["controls-cifar100"].cells() if cell.column == "lsr"
    ]
    students = [
        cell.setting.student for cell in paper.tables["controls-cifar100"].cells() if cell.column == "lsr"
    ]
    smoothing = found[students.index(student)]
    assert isinstance(smoothing, LabelSmoothing)
    assert smoothing.alpha == pytest.approx(epsilon, abs=6e-4)
    released = loss_of(Setting(dataset="cifar100", student=student, method="tf-reg")).weights(100)
    assert sum(released.values()) == pytest.approx(scale)


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_print_nothing_and_say_which_form_they_are(paper: Paper, name: str) -> None:
    for cell in paper.tables[name].cells():
        assert cell.published.mean is None
        if cell.column in ("released", "printed"):
            assert cell.setting.form == cell.column


def test_the_demo_has_all_seven_methods_three_seeds_and_nothing_published(paper: Paper) -> None:
    demo = paper.tables["demo"]
    methods = {"baseline", "lsr", "kd", "re-kd", "de-kd", "tf-self", "tf-reg"}
    assert {cell.setting.method for cell in demo.cells()} == methods
    assert (demo.kind, demo.seeds, demo.fast) == ("demo", 3, True)
    assert all(cell.published.mean is None for cell in demo.cells())
    assert {cell.setting.dataset for cell in demo.cells()} == {"digits"}


def test_variants_of_other_suites_are_losses_of_ours_where_they_can_be(paper: Paper) -> None:
    built = {each.name: LOSSES[each.kind](**dict(each.loss)) for each in paper.variants if each.kind}
    assert built["torchdistill-tf-self"].weights(1000) == pytest.approx({"ce": 0.9, "kl": 0.1})
    assert built["kd-lib-virtual-teacher"].weights(100) == pytest.approx({"ce": 0.5, "kl": 0.005})
    assert built["nasty-teacher-kd"].weights(100) == pytest.approx({"ce": 0.1, "kl": 360})
    assert built["user-tf-reg-imagenet"].weights(1000) == pytest.approx({"ce": 0.9, "kl": 0.1})
    assert {each.suite for each in paper.variants} >= {"torchdistill", "KD_Lib", "Self-KD-Lib"}
