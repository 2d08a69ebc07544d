"""A teacher from a file of another code base: its forms, its judgement, and that it teaches."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from tfkd_cli import data, models
from tfkd_cli.__main__ import main
from tfkd_cli.errors import RequestError
from tfkd_cli.methods import Distillation
from tfkd_cli.regular_files import WEIGHTS_LIMIT
from tfkd_cli.reproduction import foreign
from tfkd_cli.spec import ForeignTeacher, RunSpec
from tfkd_cli.training import checkpoints
from tfkd_cli.training.teacher_logits import OwnInputs

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
    return photographs(tmp_path / "photos", cat=60, dog=190)


def photographs(folder: Path, **levels: int) -> Path:
    """Classes of images of these brightnesses, noise apart."""
    numbers = np.random.default_rng(0)
    for label, level in levels.items():
        (folder / label).mkdir(parents=True)
        for number in range(20):
            pixels = numbers.integers(level - 40, level + 40, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@cache
def trained(
    classes: int = 2,
    *,
    levels: tuple[int, ...] = (60, 190),
    mean: float = 0.45,
    std: float = 0.226,
    steps: int = 12,
) -> Weights:
    """A plain CNN that was told images of these brightnesses apart for a few steps, somewhere else."""
    torch.manual_seed(0)
    network = models.build("plain-cnn", classes=classes, channels=3, size=28)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    for _ in range(steps):
        labels_N = torch.arange(len(levels)).repeat(8)
        level_N111 = torch.tensor(levels)[labels_N][:, None, None, None] / 255
        images = (level_N111 + 0.2 * torch.rand(len(labels_N), 3, 28, 28) - 0.1 - mean) / std
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
    torch.save(FORMS["under state_dict, with module."](trained()), file)
    assert main(asked(photos, file)) == 0
    said = capfd.readouterr().err
    assert "Teacher plain-cnn from the file: 100.00 % on the validation part" in said
    assert 'Note: its tensors are those under "state_dict.module.".' in " ".join(said.split())
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


@pytest.fixture
def otherwise_normalised(tmp_path: Path) -> list[str]:
    """The arguments for a teacher of three brightnesses that was trained with pixels from 0 to 1."""
    photos = photographs(tmp_path / "photos", bright=215, dark=40, grey=128)
    weights = trained(3, levels=(215, 40, 128), mean=0.0, std=1.0, steps=60)
    torch.save(weights, tmp_path / "teacher.pt")
    return asked(photos, tmp_path / "teacher.pt")


def test_the_usual_normalisations_are_tried_and_the_best_becomes_part_of_the_runs(
    otherwise_normalised: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read = Mock(side_effect=checkpoints.read_weights)
    monkeypatch.setattr(checkpoints, "read_weights", read)
    assert main(otherwise_normalised) == 0
    assert read.call_count == 2  # once to try all of them, once to judge the teacher; runs read it elsewhere
    said = " ".join(capfd.readouterr().err.split())
    assert "none (pixels from 0 to 1) 100.0 %" in said
    assert "Taken: none (pixels from 0 to 1)" in said
    assert "Teacher plain-cnn from the file: 100.00 % on the validation part" in said
    (taught,) = tmp_path.glob("results/runs/*-kd-from-plain-cnn-*")
    teacher = json.loads((taught / "spec.json").read_text())["teacher"]
    assert (teacher["mean"], teacher["std"]) == ([0], [1])
    assert main(otherwise_normalised) == 0  # the same choice, so nothing is left to train
    assert "started" not in capfd.readouterr().err


def test_a_dry_run_plans_with_the_normalisation_that_is_chosen_once_the_data_are_decoded(
    otherwise_normalised: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*otherwise_normalised, "--dry-run"]) == 0
    assert "will be chosen when photos is decoded" in capfd.readouterr().err
    assert main(otherwise_normalised) == 0
    capfd.readouterr()
    assert main([*otherwise_normalised, "--dry-run", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["runs"]["todo"] == 0


def test_a_normalisation_that_is_given_is_taken_without_trying_others(
    otherwise_normalised: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["--teacher-mean", "0", "--teacher-std", "1"]
    assert main([*otherwise_normalised, *given]) == 0
    said = capfd.readouterr().err
    assert "Taken:" not in said
    assert "100.00 % on the validation part" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--teacher-mean", "0.5"], "both or neither"),
        (["--teacher-mean", "0.5,0.5", "--teacher-std", "1,1"], "have 3 channels"),
        (["--teacher-mean", "grey", "--teacher-std", "1"], "--teacher-mean[0] is 'grey'"),
        (["--teacher-mean", "0.5", "--teacher-std", "0"], "teacher.std[0] is 0"),
        (["--teacher-mean", "123.7", "--teacher-std", "58.4"], "divide by 255"),
        (["--teacher-size", "64", "--teacher-resize", "32"], "64 are cut out"),
    ],
)
def test_inputs_of_a_teacher_that_mean_nothing_are_refused(
    more: list[str], said: str, photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save(trained(), tmp_path / "teacher.pt")
    assert main(asked(photos, tmp_path / "teacher.pt", *more)) == 2
    shown = capfd.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


def test_inputs_without_a_teacher_from_a_file_are_refused(
    photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked_for = [*asked(photos, Path("teacher.pt")), "--teacher-size", "32"]
    at = asked_for.index("--teacher-checkpoint")
    assert main([*asked_for[:at], *asked_for[at + 2 :]]) == 2
    assert "--teacher-checkpoint FILE beside them" in capfd.readouterr().err


def test_a_teacher_is_given_its_own_size_and_normalisation() -> None:
    facts = replace(data.dataset("cifar100"), size=32)
    teacher = ForeignTeacher(
        network="plain-cnn", digest="0" * 64, mean=(0.5,), std=(0.25,), size=24, resize=28
    )
    pixels_NCHW = torch.rand(2, 3, 32, 32)
    seen: list[torch.Tensor] = []

    class Look(torch.nn.Module):
        def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
            seen.append(images_NCHW)
            return images_NCHW.flatten(1)[:, :2]

    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (facts.mean, facts.std))
    OwnInputs(Look(), teacher, facts)((pixels_NCHW - mean) / std)
    small_NCHW = torch.nn.functional.interpolate(pixels_NCHW, size=28, mode="bilinear", antialias=True)
    torch.testing.assert_close(seen[0], (small_NCHW[:, :, 2:26, 2:26] - 0.5) / 0.25, rtol=1e-4, atol=1e-4)


def test_what_a_teacher_is_given_is_part_of_the_key_and_of_the_record() -> None:
    plain = ForeignTeacher(network="plain-cnn", digest="0" * 64)
    own = replace(plain, mean=(0.5,), std=(0.5,))
    runs = [
        RunSpec(dataset="digits", student="resnet8", loss=Distillation(), teacher=each)
        for each in (plain, own)
    ]
    assert runs[0].key != runs[1].key
    assert '"mean"' not in json.dumps(runs[0].to_json())  # as it was before teachers had inputs
    assert [RunSpec.from_json(each.to_json()) for each in runs] == runs


def test_a_teacher_that_scores_as_chance_is_refused_before_anything_is_trained(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = {name: torch.zeros_like(value) for name, value in trained().items()}
    torch.save(weights, tmp_path / "zeros.pt")
    assert main(asked(photos, tmp_path / "zeros.pt")) == 2
    said = capfd.readouterr().err
    assert "scores as chance" in said
    assert "cat, dog" in said
    assert not (tmp_path / "results").exists()


def test_a_teacher_whose_classes_are_in_another_order_is_refused_with_its_order(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = dict(trained())
    last = [name for name in weights if weights[name].shape[:1] == (2,)]
    torch.save({**weights, **{name: weights[name].flip(0) for name in last}}, tmp_path / "swapped.pt")
    assert main(asked(photos, tmp_path / "swapped.pt")) == 2
    said = capfd.readouterr().err
    assert "are in another order than those of the data" in said
    assert "right on 0.00 %, and would be on 100.00 % with its outputs reordered (2 of 2 classes" in said
    assert "its outputs seem to be dog, cat" in said
    assert not (tmp_path / "results").exists()


def check_order(rows: Sequence[Sequence[int]], class_names: Sequence[str]) -> None:
    """Check the order by a confusion matrix: images by class and by what they are called."""
    foreign._check_order([[" ".join(map(str, row)) for row in rows]], class_names, path="x.pt")


def test_a_teacher_with_natural_order_is_told_from_the_folders_alphabetical_one() -> None:
    natural = [str(number) for number in range(1, 13)]
    names = sorted(natural)
    rows = [[45 if natural[output] == name else 5 for output in range(12)] for name in names]
    with pytest.raises(RequestError, match="11 of 12 classes: 10 as output 9, 11 as output 10") as caught:
        check_order(rows, names)
    assert "its outputs seem to be 1, 2, 3, 4, 5, 6 …" in caught.value.hint


@pytest.mark.parametrize(
    "rows",
    [
        [[90, 5, 5], [5, 90, 5], [5, 5, 90]],  # right
        [[30, 70, 0], [0, 100, 0], [10, 60, 30]],  # everything is called one class
        [[20, 40, 40], [15, 45, 40], [10, 45, 45]],  # hardly trained: a chain of preferences, no circle
        [[3, 4, 3], [4, 3, 3], [3, 3, 4]],  # a circle within chance
        [[0, 2, 0], [2, 0, 0], [0, 0, 2]],  # too few images to say
    ],
)
def test_a_weak_teacher_is_not_taken_for_one_with_another_order(rows: list[list[int]]) -> None:
    check_order(rows, ["a", "b", "c"])


def test_two_exchanged_classes_of_many_are_found() -> None:
    rows = [[40 if output == (1, 0, 2, 3)[label] else 3 for output in range(4)] for label in range(4)]
    with pytest.raises(RequestError, match="2 of 4 classes: a as output 1, b as output 0"):
        check_order(rows, list("abcd"))


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: None, lambda path: path.symlink_to(path)]
)
def test_what_is_no_file_of_weights_is_refused_and_never_waited_for(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    make(tmp_path / "teacher.pt")
    with pytest.raises(RequestError, match="cannot be read"):
        foreign.identify(tmp_path / "teacher.pt", ("resnet8",))


def test_an_enormous_file_is_refused_before_its_digest_is_taken(tmp_path: Path) -> None:
    with (tmp_path / "teacher.pt").open("wb") as stream:
        stream.truncate(WEIGHTS_LIMIT + 1)
    with pytest.raises(RequestError, match="it is enormous"):
        foreign.identify(tmp_path / "teacher.pt", ("resnet8",))


def test_a_teacher_of_other_classes_is_refused_with_both_numbers(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.save(trained(classes=5), tmp_path / "five.pt")
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
