"""A teacher from a file of another code base: its forms, its judgement, and that it teaches."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tfkd_cli import models
from tfkd_cli.__main__ import main
from tfkd_cli.errors import RequestError
from tfkd_cli.reproduction import foreign
from tfkd_cli.training import checkpoints

Weights = Mapping[str, torch.Tensor]

FORMS: dict[str, Callable[[Weights], Any]] = {
    "bare": dict,
    "under state_dict, with module.": lambda w: {"state_dict": {f"module.{k}": v for k, v in w.items()}},
    "under model, beside other things": lambda w: {"model": dict(w), "epoch": 3, "lr": 0.1},
    "under net": lambda w: {"net": dict(w)},
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Dark cats and bright dogs."""
    numbers = np.random.default_rng(0)
    for label, level in (("cat", 60), ("dog", 190)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(20):
            pixels = numbers.integers(level - 55, level + 55, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


def trained(photos: Path, classes: int = 2) -> Weights:
    """A plain CNN that was told dark from bright for a few steps, somewhere else."""
    torch.manual_seed(0)
    network = models.build("plain-cnn", classes=classes, channels=3, size=28)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for _ in range(12):
        labels_N = torch.arange(2).repeat(8)
        levels = torch.tensor([60, 190])[labels_N][:, None, None, None] / 255
        images = (levels + 0.2 * torch.rand(16, 3, 28, 28) - 0.1 - 0.45) / 0.226
        loss = torch.nn.functional.cross_entropy(network(images), labels_N)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return checkpoints.weights_of(network)


def asked(photos: Path, file: Path, *more: str) -> list[str]:
    where = ["--results", str(photos.parent / "results"), "--cache-dir", str(photos.parent / "cache")]
    what = ["--dataset", f"folder:{photos}", "--student", "plain-cnn", "--method", "kd", "--epochs", "1"]
    teacher = ["--teacher", "plain-cnn", "--teacher-checkpoint", str(file)]
    return ["run", *what, *teacher, "--threads", "1", *where, *more]


def test_a_foreign_teacher_is_shown_and_then_teaches(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "teacher.pt"
    torch.save(FORMS["under state_dict, with module."](trained(photos)), file)
    assert main(asked(photos, file)) == 0
    said = capfd.readouterr().err
    assert "Teacher plain-cnn from the file: 100.00 % on the validation part" in said
    assert said.index("Teacher plain-cnn") < said.index("started")
    (taught,) = tmp_path.glob("results/runs/*-kd-from-plain-cnn-*")  # no tf-self: the teacher is another's
    spec = json.loads((taught / "spec.json").read_text())
    assert spec["teacher"]["digest"] == foreign.identify(file, ("plain-cnn",)).digest


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_in_the_forms_other_code_bases_write(form: str, tmp_path: Path) -> None:
    network = models.build("resnet8", classes=2, channels=3, size=28)
    file = tmp_path / "teacher.pt"
    torch.save(FORMS[form](network.state_dict()), file)
    checkpoints.fill(network, checkpoints.read_weights(file), path=file, name="resnet8")


def test_a_teacher_that_scores_as_chance_is_refused_before_anything_is_trained(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = {name: torch.zeros_like(value) for name, value in trained(photos).items()}
    torch.save(weights, tmp_path / "zeros.pt")
    assert main(asked(photos, tmp_path / "zeros.pt")) == 2
    said = capfd.readouterr().err
    assert "scores as chance" in said
    assert "cat, dog" in said
    assert not (tmp_path / "results").exists()


def test_a_teacher_of_other_classes_is_refused_with_both_numbers(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save(trained(photos, classes=5), tmp_path / "five.pt")
    assert main(asked(photos, tmp_path / "five.pt")) == 2
    said = capfd.readouterr().err
    assert "(5," in said
    assert "(2," in said
    assert "Traceback" not in said


def test_a_file_that_is_no_checkpoint_is_refused(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.pt").write_text("no weights")
    assert main(asked(photos, tmp_path / "notes.pt")) == 2
    assert "cannot read the weights" in capfd.readouterr().err


def test_an_architecture_must_be_named_once(tmp_path: Path) -> None:
    for networks in ((), ("resnet8", "resnet20")):
        with pytest.raises(RequestError, match="needs its architecture"):
            foreign.identify(tmp_path / "weights.pt", networks)
