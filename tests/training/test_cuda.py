"""Training on a real GPU: no step waits, runs resume, and the numbers are those of the CPU up to rounding."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tfkd_cli import models
from tfkd_cli.data.augment import AUGMENTATIONS, Augment
from tfkd_cli.methods import CrossEntropy, Distillation, LabelSmoothing, Loss, TfReg
from tfkd_cli.spec import ForeignTeacher, Recipe, RunSpec
from tfkd_cli.training import gpu_step, precision
from tfkd_cli.training.teacher_logits import FrozenTeacher, TeacherLogits
from tfkd_cli.training.trainer import Epoch, Training

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here"),
]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
IMAGES, BATCH, CLASSES = 644, 32, 10  # 21 steps; the last has 4 images


@pytest.fixture(autouse=True)
def _configured() -> Iterator[None]:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    precision.configure(CUDA, tf32=False)
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def arrays() -> Any:
    """Images that can be learnt: a class is a brightness, under noise."""
    numbers = np.random.default_rng(0)
    labels = numbers.integers(0, CLASSES, IMAGES)
    noise = numbers.integers(0, 100, (IMAGES, 3, 32, 32))
    images = (noise + 15 * labels[:, None, None, None]).astype(np.uint8)
    facts = SimpleNamespace(classes=CLASSES, channels=3, size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    return SimpleNamespace(
        facts=facts,
        train_images_NCHW=images,
        train_labels_N=labels,
        test_images_NCHW=images[:100],
        test_labels_N=labels[:100],
        val_images_NCHW=None,
        val_labels_N=None,
    )


def training_of(
    loss: Loss,
    *,
    device: torch.device = CUDA,
    student: str = "resnet8",
    cached: bool = False,
    at_step: Callable[[], None] = lambda: None,
    **recipe: Any,
) -> Training:
    settings = {
        "epochs": 2,
        "batch_size": BATCH,
        "milestones": (1,),
        "augment": "crop-flip-rotate15",
        "lr": 0.05,
    }
    spec = RunSpec(
        dataset="random",
        student=student,
        loss=loss,
        teacher=ForeignTeacher(network="resnet8", digest="0" * 64) if loss.needs_teacher else None,
        recipe=replace(Recipe(), **{**settings, **recipe}),
    )
    teacher, teacher_logits = None, None
    if loss.needs_teacher:
        torch.manual_seed(1)
        network = models.build("resnet8", classes=CLASSES, channels=3, size=32)
        teacher = FrozenTeacher(
            network, device=device, precision_name=spec.recipe.precision, example=torch.randn(2, 3, 32, 32)
        )
        if cached:
            teacher_logits = TeacherLogits(teacher=teacher, images=IMAGES, classes=CLASSES, device=device)
    return Training(
        spec,
        data=arrays(),
        device=device,
        teacher=None if cached else teacher,
        teacher_logits=teacher_logits,
        at_step=at_step,
    )


def graphed(training: Training) -> Training:
    """As in a run of more than `gpu_step.GRAPH_STEPS` steps."""
    training._speedups = gpu_step.Speedups(compiled=False, graph=True)
    training._run_step = training._step_to_run()
    return training


@pytest.mark.parametrize("recipe", sorted(AUGMENTATIONS))
def test_a_gpu_draws_the_same_views_and_gives_the_same_pixels(recipe: str) -> None:
    images_NCHW = torch.randint(0, 256, (500, 3, 32, 32), dtype=torch.uint8)
    seen, drawn = [], []
    for device in (CPU, CUDA):
        augment = Augment(recipe, size=32, device=device)
        drawn.append(augment.draw(stream=3, epoch=4, indices_N=torch.arange(500)))
        seen.append(augment(images_NCHW.to(device), drawn[-1]).cpu())
    torch.testing.assert_close(drawn[1].cpu(), drawn[0], rtol=0, atol=0)
    grey_levels = 1 if AUGMENTATIONS[recipe].resized_crop else 0
    torch.testing.assert_close(seen[1].int(), seen[0].int(), rtol=0, atol=grey_levels)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("arithmetic", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("loss", "cached"),
    [
        (CrossEntropy(), False),
        (LabelSmoothing(), False),
        (Distillation(), False),
        (Distillation(), True),
        (TfReg(), False),
    ],
)
@pytest.mark.parametrize(("student", "optimizer"), [("plain-cnn", "sgd"), ("resnet8", "adam")])
def test_no_step_waits_for_the_gpu(
    student: str, optimizer: str, loss: Loss, cached: bool, arithmetic: str, graph: bool
) -> None:
    training = training_of(
        loss, student=student, cached=cached, precision=arithmetic, optimizer=optimizer, lr=1e-3
    )
    if graph:
        graphed(training)
    training._data._batches_at_once = 2  # so that later steps prepare images, too
    next(training.epochs())  # cuDNN chooses its kernels, and the graph is recorded
    teacher = training._teacher_of_epoch(lambda: None)
    steps = 0

    def at_step() -> None:
        nonlocal steps
        steps += 1
        torch.cuda.set_sync_debug_mode("error")  # from the second step on: the first one copies the order

    try:
        training._train(teacher, at_step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps == training.steps == 21
    training._refuse_divergence()


@pytest.mark.parametrize("cached", [False, True])
def test_twenty_steps_on_a_gpu_agree_with_the_cpu(cached: bool) -> None:
    here, there = (
        next(training_of(Distillation(), device=device, cached=cached, epochs=1).epochs())
        for device in (CPU, CUDA)
    )
    assert there.train_loss == pytest.approx(here.train_loss, rel=2e-3)
    assert there.parts == pytest.approx(here.parts, rel=2e-3)
    assert there.test_loss == pytest.approx(here.test_loss, rel=2e-2)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("student", ["resnet8", "plain-cnn"])
def test_a_graph_gives_the_numbers_of_the_steps_as_they_are_written(student: str, optimizer: str) -> None:
    """Learning rates, dropout's masks and the sums of the epoch reach the recorded step."""
    recipe: dict[str, Any] = {
        "student": student,
        "optimizer": optimizer,
        "lr": 0.05 if optimizer == "sgd" else 1e-3,
    }
    plain = list(training_of(LabelSmoothing(), **recipe).epochs())
    replayed = list(graphed(training_of(LabelSmoothing(), **recipe)).epochs())
    for one, other in zip(plain, replayed, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-2)
        assert other.lr == one.lr


@pytest.mark.parametrize("graph", [False, True])
def test_a_run_stopped_on_a_gpu_goes_on_there_and_on_a_cpu(graph: bool) -> None:
    prepared: Callable[[Training], Training] = graphed if graph else lambda training: training
    states: list[dict[str, Any]] = []

    def at_step() -> None:
        if (training.epoch, training.step) == (1, 10):
            states.append(training.state())

    training = prepared(training_of(Distillation(), at_step=at_step))
    expected = list(training.epochs())[-1]
    for device in (CUDA, CPU):
        resumed = training_of(Distillation(), device=device)
        resumed = prepared(resumed) if device == CUDA else resumed
        resumed.load(states[0])
        found = list(resumed.epochs())[-1]
        assert found.train_loss == pytest.approx(expected.train_loss, rel=2e-2)


def test_a_state_loaded_after_a_recording_is_the_one_that_goes_on() -> None:
    training = graphed(training_of(CrossEntropy()))
    start = training.state()
    first = list(training.epochs())
    training.load(start)
    assert [each.epoch for each in training.epochs()] == [1, 2]
    again = training.last_scores["loss"]
    assert again == pytest.approx(first[-1].test_loss, rel=2e-2)


def test_a_compiled_network_trains_as_it_is_written(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain = list(training_of(CrossEntropy()).epochs())
    monkeypatch.setattr(gpu_step, "COMPILE_STEPS", 1)
    monkeypatch.setattr(gpu_step, "GRAPH_STEPS", 1)
    training = training_of(CrossEntropy())
    assert training._speedups == (True, True)
    for one, other in zip(plain, list(training.epochs()), strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=2e-2)


def test_tf32_is_used_and_recorded_or_neither() -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    torch.manual_seed(0)
    one, other = torch.randn(2, 512, 512, device=CUDA)
    exact = one.double() @ other.double()
    errors = {}
    for allowed in (False, True):
        precision.configure(CUDA, tf32=allowed)
        errors[precision.arithmetic("fp32", CUDA)] = float(((one @ other).double() - exact).abs().max())
    assert errors["tf32"] > 10 * errors["fp32"]


TWO_RUNS = """
import sys
from tests.training.test_cuda import CUDA, training_of
from tfkd_cli.methods import CrossEntropy
epochs = list(training_of(CrossEntropy(), epochs=int(sys.argv[1])).epochs())
print(epochs[-1].train_loss)
"""


def test_two_runs_at_once_on_one_gpu_give_what_one_gives() -> None:
    command = [sys.executable, "-c", TWO_RUNS, "3"]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    losses = [float(process.communicate()[0]) for process in started]
    alone: Epoch = list(training_of(CrossEntropy(), epochs=3).epochs())[-1]
    assert [process.returncode for process in started] == [0, 0]
    assert losses == pytest.approx([alone.train_loss] * 2, rel=5e-2)
