"""`tfkd explain`: the loss that would run, and only the differences it has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.__main__ import main


def explained(words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    assert main(["explain", *words, "--results", str(tmp_path / "results")]) == 0
    return capfd.readouterr().out


def as_json(words: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> dict[str, Any]:
    (found,) = json.loads(explained([*words, "--json"], tmp_path, capfd))
    return dict(found)


def test_resnet18s_released_tf_reg_is_label_smoothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = explained(["table9", "ResNet18", "tf_reg"], tmp_path, capfd)
    assert "In words: label smoothing with ε = 0.100; the virtual teacher gives 0.0105 to the label" in said
    assert "multiplies the KL term" in said


def test_only_the_differences_of_this_loss_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    normal_kd = explained(["table9", "mobilenetv2", "kd"], tmp_path, capfd)
    assert "τ² is in the released code" in normal_kd
    assert "multiplies" not in normal_kd
    both_softened = explained(["table10", "resnet50", "tf-reg"], tmp_path, capfd)
    assert "softens the teacher alone" not in both_softened


def test_values_of_the_request_go_before_those_of_the_paper(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grid = ["--student", "resnet8", "--method", "kd", "--teacher", "resnet20", "--dataset", "digits"]
    found = as_json([*grid, "-T", "4", "--epochs", "20"], tmp_path, capfd)
    values = {each["field"]: (each["value"], each["from"]) for each in found["values"]}
    assert values["loss.temperature"] == (4, "declared")
    assert values["recipe.milestones"] == ([6, 12, 16], "declared")
    assert values["loss.alpha"] == (0.6, "assumed")


def test_a_setting_has_the_shape_it_has_in_show(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    setting = as_json(["table9", "resnet18", "tf-reg"], tmp_path, capfd)["setting"]
    main(["show", "table9", "--format", "json", "--results", str(tmp_path / "results")])
    cells = json.loads(capfd.readouterr().out)["cells"]
    assert setting in [cell["setting"] for cell in cells]


def test_scaled_cross_entropy_is_called_what_it_is(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "0.4 times cross-entropy" in explained(["controls-cifar100", "resnet18"], tmp_path, capfd)


def test_the_settings_of_a_table_are_explained_in_its_order(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(explained(["table4", "de-kd", "--json"], tmp_path, capfd))
    datasets = [each["setting"]["dataset"] for each in found]
    assert datasets == ["cifar100"] * 8 + ["tiny-imagenet"] * 4


def test_what_follows_from_the_epochs_is_told_from_what_was_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    grid = ["--student", "resnet8", "--method", "baseline", "--dataset", "digits", "--epochs", "2"]
    notes = {each["field"]: each["note"] for each in as_json(grid, tmp_path, capfd)["values"]}
    assert notes["recipe.epochs"] == "by this request"
    assert notes["recipe.milestones"] == "follows from the number of epochs"


def test_a_figure_without_runs_has_no_loss_to_explain(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "fig3"]) == 2
    assert "fig3 rests on no run" in capfd.readouterr().err
