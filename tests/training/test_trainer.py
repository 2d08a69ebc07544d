"""The epoch loop: exact resume, the schedule, batches, best, and what a diverging loss says."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tfkd_cli import models
from tfkd_cli.errors import RunError
from tfkd_cli.methods import CrossEntropy, Distillation, LabelSmoothing, Loss, LossParts, TfReg
from tfkd_cli.spec import ForeignTeacher, Recipe, RunSpec
from tfkd_cli.training import checkpoints, precision, trainer
from tfkd_cli.training.epoch_data import seed_of, split
from tfkd_cli.training.evaluation import Scores
from tfkd_cli.training.teacher_logits import FrozenTeacher, TeacherLogits
from tfkd_cli.training.trainer import Epoch, Training, learning_rate

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _bf16_although_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 is tested on machines without units for it too."""
    monkeypatch.setattr(precision, "_has_bf16_units", lambda device: True)


RECIPE = Recipe(epochs=2, batch_size=8, milestones=(1,), warmup_epochs=0.5, augment="crop-flip-rotate15")
TEACHER = ForeignTeacher(network="resnet8", digest="0" * 64)


def arrays(train: int = 21, test: int = 12, size: int = 16) -> Any:
    """Random images of 3 classes, and the facts a training needs."""
    numbers = np.random.default_rng(0)

    def images(count: int) -> tuple[Any, Any]:
        pixels = numbers.integers(0, 256, (count, 1, size, size), dtype=np.uint8)
        return pixels, numbers.integers(0, 3, count)

    facts = SimpleNamespace(classes=3, channels=1, size=size, mean=(0.5,), std=(0.25,))
    (train_x, train_y), (test_x, test_y) = images(train), images(test)
    return SimpleNamespace(
        facts=facts,
        train_images_NCHW=train_x,
        train_labels_N=train_y,
        test_images_NCHW=test_x,
        test_labels_N=test_y,
        val_images_NCHW=None,
        val_labels_N=None,
        class_names=("a", "b", "c"),
    )


def spec_of(loss: Loss | None = None, *, student: str = "resnet8", **recipe: Any) -> RunSpec:
    loss = loss or CrossEntropy()
    return RunSpec(
        dataset="random",
        student=student,
        loss=loss,
        teacher=TEACHER if loss.needs_teacher else None,
        recipe=replace(RECIPE, **recipe),
    )


def teacher_for(spec: RunSpec) -> FrozenTeacher:
    torch.manual_seed(1)
    network = models.build("resnet8", classes=3, channels=1, size=16)
    example = torch.randn(2, 1, 16, 16)
    return FrozenTeacher(network, device=CPU, precision_name=spec.recipe.precision, example=example)


def training_of(spec: RunSpec, at_step: Callable[[], None] = lambda: None, **sizes: int) -> Training:
    data = arrays(**sizes)
    teacher, teacher_logits = (teacher_for(spec) if spec.teacher else None), None
    if teacher is not None and spec.recipe.augment_stream == "shared":
        teacher_logits = TeacherLogits(
            teacher=teacher, images=len(data.train_labels_N), classes=3, device=CPU
        )
        teacher = None
    return Training(
        spec, data=data, device=CPU, teacher=teacher, teacher_logits=teacher_logits, at_step=at_step
    )


def facts_of(epoch: Epoch) -> dict[str, Any]:
    """What must be equal bit for bit: all but the times."""
    line = epoch.line(attempt=1)
    times = ("seconds", "teacher_seconds", "images_per_second")
    return {key: value for key, value in line.items() if key not in times}


def stopped_at(spec: RunSpec, stop: int) -> tuple[dict[str, Any], list[Epoch]]:
    """The state after `stop` step boundaries, through a file, and the epochs done by then."""
    saved = io.BytesIO()
    passed = 0

    class StopHereError(Exception):
        pass

    def at_step() -> None:
        nonlocal passed
        passed += 1
        if passed == stop:
            saved.write(checkpoints.to_bytes(training.state()))
            raise StopHereError

    training = training_of(spec, at_step)
    epochs: list[Epoch] = []
    with pytest.raises(StopHereError):
        epochs.extend(iter(training.epochs()))
    saved.seek(0)
    return torch.load(saved, weights_only=True), epochs


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for (name, left), right in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


SPECS = {
    "ce": spec_of(),
    "ce adam dropout": spec_of(student="plain-cnn", optimizer="adam", lr=1e-3),
    "lsr": spec_of(LabelSmoothing(), augment="shift"),
    "tf-reg": spec_of(TfReg(alpha=0.1), student="plain-cnn"),
    "kd": spec_of(Distillation(temperature=4)),
    "kd shared adam": spec_of(Distillation(), augment_stream="shared", optimizer="adam", lr=1e-3),
    "kd fast dropout": spec_of(
        Distillation(), student="plain-cnn", augment_stream="shared", precision="bf16"
    ),
    "fast strided depthwise": spec_of(student="shufflenetv2", precision="bf16", epochs=1),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_run_resumed_at_random_steps_ends_bit_for_bit_as_one_never_stopped(name: str) -> None:
    spec = SPECS[name]
    boundaries = 0

    def count() -> None:
        nonlocal boundaries
        boundaries += 1

    whole = training_of(spec, count)
    expected = [facts_of(epoch) for epoch in whole.epochs()]
    for stop in random.Random(name).sample(range(1, boundaries + 1), k=3):
        state, _ = stopped_at(spec, stop)
        resumed = training_of(spec)
        resumed.load(state)
        assert [facts_of(epoch) for epoch in resumed.epochs()] == expected[state["epoch"] - 1 :]
        assert_same_weights(whole.network, resumed.network)
        assert (whole.best_epoch, whole.best_accuracy) == (resumed.best_epoch, resumed.best_accuracy)
        for key, value in whole.best_weights.items():
            assert torch.equal(value, resumed.best_weights[key])


def test_a_state_may_be_loaded_twice_although_training_goes_on_in_between() -> None:
    spec = spec_of(optimizer="adam")
    state, _ = stopped_at(spec, 2)
    first, second = training_of(spec), training_of(spec)
    first.load(state)
    list(first.epochs())
    second.load(state)
    list(second.epochs())
    assert_same_weights(first.network, second.network)


def test_a_state_of_another_run_is_refused() -> None:
    state = training_of(spec_of()).state()
    with pytest.raises(RunError, match="belongs to run"):
        training_of(spec_of(lr=0.2)).load(state)


def test_a_state_taken_between_epochs_stands_at_the_start_of_the_next_one() -> None:
    training = training_of(spec_of())
    next(training.epochs())
    state = training.state()
    assert (state["epoch"], state["step"], float(state["sums"].abs().sum())) == (2, 0, 0.0)


def test_seeds_give_other_weights_and_the_same_seed_the_same() -> None:
    spec = spec_of()
    first, again, other = (training_of(replace(spec, seed=seed)).network for seed in (0, 0, 1))
    assert_same_weights(first, again)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_the_shared_stream_shows_all_seeds_the_same_views_in_another_order() -> None:
    batches = [torch.arange(6)]
    shared = [training_of(replace(spec_of(augment_stream="shared"), seed=seed)) for seed in (0, 1)]
    own = [training_of(replace(spec_of(), seed=seed)) for seed in (0, 1)]
    same, others = (
        [next(training._data.views(1, batches)).images_NCHW for training in seeds] for seeds in (shared, own)
    )
    assert torch.equal(*same)
    assert not torch.equal(*others)
    assert seed_of("order", 0, 1) != seed_of("order", 1, 1)


def test_a_last_batch_of_one_image_joins_the_batch_before() -> None:
    assert [len(each) for each in split(torch.arange(17), 8)] == [8, 9]
    assert [len(each) for each in split(torch.arange(18), 8)] == [8, 8, 2]
    assert [len(each) for each in split(torch.arange(3), 1)] == [1, 1, 1]
    assert [len(each) for each in split(torch.arange(1), 8)] == [1]


@given(st.integers(1, 300), st.integers(1, 40))
def test_batches_hold_every_image_once_in_order(images: int, batch_size: int) -> None:
    order = torch.arange(images)
    assert torch.equal(torch.cat(split(order, batch_size)), order)


@pytest.mark.parametrize("at_once", [1, 2, 3, 8])
def test_batches_and_their_teacher_logits_do_not_depend_on_how_many_are_prepared_at_once(
    at_once: int,
) -> None:
    data = training_of(spec_of())._data
    expected = list(data.batches(2, teacher=lambda images_NCHW, indices_N: indices_N[:, None]))
    data._batches_at_once = at_once
    found = list(data.batches(2, first=1, teacher=lambda images_NCHW, indices_N: indices_N[:, None]))
    assert [len(batch.labels_N) for batch in expected] == [8, 8, 5]
    for one, other in zip(expected[1:], found, strict=True):
        assert one.teacher_NK is not None
        assert other.teacher_NK is not None
        assert torch.equal(one.images_NCHW, other.images_NCHW)
        assert torch.equal(one.labels_N, other.labels_N)
        assert torch.equal(one.teacher_NK, other.teacher_NK)


def test_the_rate_warms_up_by_step_and_drops_when_milestone_epochs_are_done() -> None:
    recipe = Recipe(epochs=6, lr=1.0, batch_size=128, milestones=(2, 4), lr_factor=0.1, warmup_epochs=1)
    rates = [learning_rate(recipe, step=step, steps_per_epoch=4) for step in range(1, 25)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:8] == [1.0] * 4
    assert rates[8:16] == pytest.approx([0.1] * 8)
    assert rates[16:] == pytest.approx([0.01] * 8)


def test_warm_up_may_last_a_part_of_an_epoch_or_not_exist() -> None:
    half = Recipe(lr=1.0, warmup_epochs=0.5, milestones=())
    assert [learning_rate(half, step=i, steps_per_epoch=5) for i in (1, 2, 3)] == [0.4, 0.8, 1.0]
    assert learning_rate(replace(half, warmup_epochs=0), step=1, steps_per_epoch=5) == 1.0
    assert learning_rate(replace(half, batch_size=256), step=9, steps_per_epoch=5) == 2.0


def test_the_best_epoch_is_the_last_of_equal_ones_as_in_the_released_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = training_of(spec_of(lr=1e-12, epochs=3))  # nothing is learnt: accuracies tie but for BatchNorm
    even = Scores(loss=1.0, accuracy=50.0, top5=100.0, balanced_accuracy=50.0, ece=0.0)
    monkeypatch.setattr(trainer, "evaluate", lambda *given, **more: even)
    list(training.epochs())
    assert training.best_epoch == 3


def test_accuracies_are_percent_of_all_images_and_losses_means_per_image() -> None:
    training = training_of(spec_of(LabelSmoothing(alpha=0.2, spread="all"), epochs=1))
    (epoch,) = training.epochs()
    assert 0 <= epoch.test_accuracy <= epoch.test_top5 == 100.0  # three classes: all are in the top three
    assert epoch.train_loss == pytest.approx(0.8 * epoch.parts["ce"] + 0.2 * epoch.parts["kl"])
    network, data = training.network.eval(), arrays()
    with torch.no_grad():
        images = (torch.from_numpy(data.test_images_NCHW) / 255 - 0.5) / 0.25
        right = network(images).argmax(1) == torch.from_numpy(data.test_labels_N)
    assert epoch.test_accuracy == pytest.approx(100 * right.double().mean().item())


def test_plain_cross_entropy_has_no_kl_in_its_record() -> None:
    (epoch,) = training_of(spec_of(epochs=1)).epochs()
    assert [name for name in epoch.line(attempt=3) if name.startswith("loss_")] == ["loss_ce"]
    assert list(epoch.line(attempt=3))[:3] == ["epoch", "attempt", "lr"]


def test_a_diverging_loss_says_where_and_what_to_try() -> None:
    training = training_of(spec_of(lr=1e30))
    with pytest.raises(RunError, match=r"the loss became (nan|inf) in epoch \d+, by step \d+ of 3") as caught:
        list(training.epochs())
    assert caught.value.hint.startswith("try --lr 1e+29, or smaller weights")
    with pytest.raises(RunError):
        training.state()  # never saved


@dataclass(frozen=True, kw_only=True)
class Ramped(CrossEntropy):
    """Cross-entropy times the epoch."""

    depends_on_epoch = True

    def __call__(
        self, logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None, *, epoch: float = 1
    ) -> LossParts:
        total, parts = super().__call__(logits_NK, labels_N)
        return LossParts(epoch * total, parts)


def test_a_loss_is_told_the_epoch() -> None:
    for epoch in training_of(spec_of(Ramped(), epochs=3)).epochs():
        assert epoch.train_loss == pytest.approx(epoch.epoch * epoch.parts["ce"])


@pytest.mark.parametrize(("loss", "times"), [(CrossEntropy(), 0), (Ramped(), 3)])
def test_a_step_is_recorded_anew_in_each_epoch_where_the_loss_depends_on_it(
    loss: Loss, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, made = training_of(spec_of(loss, epochs=3)), Mock()
    made.side_effect = training._step_to_run
    monkeypatch.setattr(training, "_step_to_run", made)
    list(training.epochs())
    assert made.call_count == times


def test_parts_that_a_loss_did_not_announce_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ramped, "reports", {"ce": "", "other": ""})
    with pytest.raises(RunError, match="gave the parts ce"):
        next(training_of(spec_of(Ramped(), epochs=1)).epochs())


def test_bf16_trains_as_fp32_does_up_to_rounding() -> None:
    exact, fast = (next(training_of(spec_of(precision=each)).epochs()) for each in ("fp32", "bf16"))
    assert fast.train_loss == pytest.approx(exact.train_loss, rel=0.05)


def test_weights_decay_everywhere_batch_norm_and_biases_too() -> None:
    training = training_of(spec_of())
    (group,) = training._optimizer.param_groups
    assert len(group["params"]) == len(list(training.network.parameters()))
    assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, False)
