"""Scores on worked cases: accuracy, balanced accuracy, calibration; and which epoch is the best."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tfkd_cli.data import Arrays, DataSet, dataset
from tfkd_cli.data.split import hold_out
from tfkd_cli.methods import CrossEntropy
from tfkd_cli.spec import Recipe, RunSpec
from tfkd_cli.training.evaluation import evaluate
from tfkd_cli.training.parts import part_of
from tfkd_cli.training.trainer import Training

CPU = torch.device("cpu")
FACTS: Any = SimpleNamespace(classes=2, channels=1, size=1, mean=(0.0,), std=(1.0,))


class Says(torch.nn.Module):
    """Logits that were written down, in the order of the images."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits_NK = torch.tensor(logits)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return self.logits_NK[: len(images_NCHW)]


def scores(logits: list[list[float]], labels: list[int]) -> Any:
    part = part_of(np.zeros((len(labels), 1, 1, 1), dtype=np.uint8), np.array(labels), CPU)
    return evaluate(Says(logits), part, FACTS)


def test_balanced_accuracy_weighs_classes_alike() -> None:
    found = scores([[5.0, 0.0]] * 4, [0, 0, 0, 1])
    assert found.accuracy == pytest.approx(75.0)
    assert found.balanced_accuracy == pytest.approx(50.0)


def test_a_confusion_matrix_counts_images_by_true_and_by_predicted_class() -> None:
    found = scores([[5.0, 0.0], [5.0, 0.0], [0.0, 5.0], [5.0, 0.0]], [0, 0, 0, 1])
    assert found.confusion == ("2 1", "1 0")


def test_calibration_error_is_confidence_against_accuracy() -> None:
    logit = float(np.log(0.9 / 0.1))
    found = scores([[logit, 0.0]] * 10, [0] * 7 + [1] * 3)  # 90 % sure, 70 % right
    assert found.ece == pytest.approx(20.0, abs=1e-3)
    assert found.loss == pytest.approx(-0.7 * np.log(0.9) - 0.3 * np.log(0.1), abs=1e-5)


def arrays(*, val: int) -> Arrays:
    numbers = np.random.default_rng(0)

    def part(count: int) -> tuple[Any, Any]:
        return numbers.integers(0, 256, (count, 1, 16, 16), dtype=np.uint8), np.arange(count) % 2

    facts = DataSet(
        name="random", label="random", classes=2, channels=1, size=16, train_images=24, test_images=8,
        mean=(0.5,), std=(0.25,),
    )  # fmt: skip
    (train_x, train_y), (test_x, test_y), (val_x, val_y) = part(24), part(8), part(val or 2)
    return Arrays(
        facts=facts, class_names=("a", "b"),
        train_images_NCHW=train_x, train_labels_N=train_y, test_images_NCHW=test_x, test_labels_N=test_y,
        val_images_NCHW=val_x if val else None, val_labels_N=val_y if val else None,
    )  # fmt: skip


@pytest.mark.parametrize("val", [0, 10])
def test_the_best_epoch_is_chosen_on_the_validation_part_where_there_is_one(val: int) -> None:
    recipe = Recipe(epochs=4, batch_size=8, milestones=(), augment="none", lr=0.5)
    spec = RunSpec(dataset="random", student="resnet8", loss=CrossEntropy(), recipe=recipe)
    training = Training(spec, data=arrays(val=val), device=CPU)
    epochs = list(training.epochs())
    by = [epoch.val_accuracy if val else epoch.test_accuracy for epoch in epochs]
    best = max(by, key=lambda each: each or 0.0)
    assert training.best_epoch == max(
        epoch.epoch for epoch, value in zip(epochs, by, strict=True) if value == best
    )
    assert training.best_accuracy == epochs[training.best_epoch - 1].test_accuracy
    assert training.chosen_on == ("validation" if val else "test")
    assert ("val_accuracy" in epochs[0].line(attempt=1)) == bool(val)


def test_a_held_out_part_is_taken_from_training_by_class_and_content_and_is_always_the_same() -> None:
    whole = arrays(val=0)
    once, again = hold_out(whole, 0.25), hold_out(whole, 0.25)
    assert once.val_images_NCHW is not None
    assert once.val_labels_N is not None
    assert again.val_images_NCHW is not None
    assert (len(once.train_labels_N), len(once.val_labels_N)) == (18, 6)
    assert sorted(once.val_labels_N.tolist()) == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(once.val_images_NCHW, again.val_images_NCHW)
    assert np.array_equal(once.test_images_NCHW, whole.test_images_NCHW)
    assert hold_out(whole, 0.0) is whole
    assert hold_out(arrays(val=4), 0.25).train_labels_N.shape == (24,)


def test_a_share_held_out_is_part_of_a_runs_identity_and_none_is_as_before() -> None:
    plain = RunSpec(dataset="digits", student="resnet8")
    held = RunSpec(dataset="digits", student="resnet8", recipe=Recipe(holdout=0.15))
    assert held.key != plain.key
    assert "holdout" not in plain.to_json()["recipe"]
    assert RunSpec.from_json(held.to_json()) == held
    assert dataset("digits").val_images == 0
