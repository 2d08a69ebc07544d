"""A training step and an evaluation batch on a simulated GPU: nothing is copied to it or read from it.

`FakeTensorMode` propagates shapes, types and devices and computes nothing. On a fake `cuda` device an
operation that mixes devices raises, and so does reading a value (`.item()`, `float(…)`, `if tensor`); copies
and operations on tensors of the CPU are counted. Without a driver it has no autograd engine of CUDA, no fused
optimiser, no compiler and no graph, and of `torch.autocast` only the switches. So views, teacher, forward
pass, loss, sums and evaluation are shown on fake `cuda`. The backward pass and SGD are shown on `meta`, which
has no autocast: there the network is stored as bf16. `test_cuda.py` shows the whole step on a real GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tfkd_cli import models
from tfkd_cli.data.augment import AUGMENTATIONS
from tfkd_cli.methods import LOSSES, CrossEntropy, Distillation, LossParts
from tfkd_cli.models import NETWORKS
from tfkd_cli.spec import ForeignTeacher, Recipe, RunSpec
from tfkd_cli.training import evaluation, precision
from tfkd_cli.training.epoch_data import Batch
from tfkd_cli.training.gpu_step import GraphedStep, speedups
from tfkd_cli.training.teacher_logits import FrozenTeacher
from tfkd_cli.training.trainer import Training

CUDA, META = torch.device("cuda"), torch.device("meta")
EVERY_LOSS = [kind(**kind.FORMS[form]) for kind in LOSSES.values() for form in kind.FORMS]
IMAGES, BATCH, CLASSES = 4, 2, 10


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that involve a tensor of the CPU, and whether anything was computed in bf16."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.copies: list[str] = []  # between the CPU and another device
        self.on_cpu: list[str] = []
        self.bf16 = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [each for each in tree_leaves((args, kwargs, result)) if isinstance(each, Tensor)]
        devices = {each.device.type for each in tensors}
        if "cpu" in devices:
            (self.copies if len(devices) > 1 else self.on_cpu).append(str(func))
        self.bf16 |= any(each.dtype == torch.bfloat16 for each in tensors)
        return result


def build_on(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are built on this device, without values: fake and meta tensors cannot be moved there."""
    build = models.build

    def build_there(*given: Any, **more: Any) -> nn.Module:
        with device:
            return build(*given, **more)

    monkeypatch.setattr(models, "build", build_there)
    monkeypatch.setattr(precision, "_placed", lambda network, device: network)
    monkeypatch.setattr(precision, "_folded", lambda network, example_NCHW: network)


@pytest.fixture(name="fake_cuda")
def _fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """A GPU without a driver; autocast is switched on without asking for one."""

    @contextlib.contextmanager
    def autocast(precision_name: str, device: torch.device) -> Iterator[None]:
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", precision_name == "bf16")
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.clear_autocast_cache()

    build_on(CUDA, monkeypatch)
    monkeypatch.setattr(precision, "autocast", autocast)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield CUDA


def arrays() -> Any:
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (IMAGES, 3, 32, 32), dtype=np.uint8)
    labels = numbers.integers(0, CLASSES, IMAGES)
    facts = SimpleNamespace(classes=CLASSES, channels=3, size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    return SimpleNamespace(
        facts=facts,
        train_images_NCHW=images,
        train_labels_N=labels,
        test_images_NCHW=images,
        test_labels_N=labels,
        val_images_NCHW=None,
        val_labels_N=None,
    )


def training_of(network: str, *, device: torch.device, cached: bool = False, **recipe: Any) -> Training:
    """A training by distillation; its teacher is of the student's own architecture."""
    spec = RunSpec(
        dataset="random",
        student=network,
        loss=Distillation(),
        teacher=ForeignTeacher(network=network, digest="0" * 64),
        recipe=replace(Recipe(epochs=2, batch_size=BATCH, augment="crop-flip-rotate15"), **recipe),
    )
    teacher, cached_logits = None, cast(Any, None)
    if cached:
        cached_NK = torch.zeros(IMAGES, CLASSES, dtype=torch.float16, device=device)
        cached_logits = SimpleNamespace(epoch=lambda epoch, **more: cached_NK)
    else:
        built = models.build(network, classes=CLASSES, channels=3, size=32)
        example = torch.empty(0)
        teacher = FrozenTeacher(built, device=device, precision_name=spec.recipe.precision, example=example)
    training = Training(spec, data=arrays(), device=device, teacher=teacher, teacher_logits=cached_logits)
    training._data._batches_at_once = 1  # each step prepares its own batch
    return training


def forward_pass(training: Training) -> Callable[[Batch], None]:
    """The part of a step that needs no autograd engine, with every loss."""

    def step(batch: Batch) -> None:
        parts, logits_NK = training._loss(batch)
        training._add(parts, logits_NK, batch.labels_N)
        for loss in EVERY_LOSS:
            loss(logits_NK, batch.labels_N, batch.teacher_NK)

    return step


def watched(training: Training, step: Callable[[Batch], None]) -> Watch:
    """What the second step of the trainer's loop does with tensors of the CPU; the first starts the epoch."""
    training._run_step = lambda batch: None
    watch, boundaries = Watch(), 0
    with contextlib.ExitStack() as watching:

        def at_step() -> None:
            nonlocal boundaries
            boundaries += 1
            if boundaries == 1:
                training._run_step = step
                watching.enter_context(watch)

        training._train(training._teacher_of_epoch(lambda: None), at_step)
    assert boundaries == 2
    return watch


@pytest.mark.parametrize("arithmetic", ["fp32", "bf16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_copies_nothing_to_a_gpu_and_reads_nothing_from_it(
    network: str, arithmetic: str, fake_cuda: torch.device
) -> None:
    training = training_of(network, device=fake_cuda, precision=arithmetic)
    watch = watched(training, forward_pass(training))
    assert (watch.copies, watch.on_cpu, watch.bf16) == ([], [], arithmetic == "bf16")
    assert training._sums.device.type == "cuda"


@pytest.mark.parametrize(
    ("network", "dropout"), [("plain-cnn", True), ("googlenet", True), ("resnet8", False)]
)
def test_a_step_seeds_the_generators_for_networks_with_dropout_alone(
    network: str, dropout: bool, fake_cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = training_of(network, device=fake_cuda, cached=True)
    seeds: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    watched(training, lambda batch: None)
    assert len(set(seeds)) == (training.steps if dropout else 0)


@pytest.mark.parametrize("recipe", sorted(AUGMENTATIONS))
def test_cached_logits_and_views_of_any_recipe_need_no_copy(recipe: str, fake_cuda: torch.device) -> None:
    training = training_of("resnet8", device=fake_cuda, cached=True, augment=recipe)
    watch = watched(training, forward_pass(training))
    assert (watch.copies, watch.on_cpu) == ([], [])


@pytest.mark.parametrize("network", NETWORKS)
def test_an_evaluation_batch_copies_nothing_to_a_gpu_and_reads_nothing_from_it(
    network: str, fake_cuda: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "GPU_PIXELS", 2 * 32 * 32)  # two batches of two images
    training = training_of(network, device=fake_cuda, cached=True)
    watch, batches = Watch(), 0
    watching = contextlib.ExitStack()

    def at_step() -> None:
        nonlocal batches
        batches += 1
        if batches == 1:
            watching.enter_context(watch)
        else:
            watching.close()

    with pytest.raises(DynamicOutputShapeException):  # the one read at the end
        evaluation.evaluate(training.network, training._test, training._facts, at_step=at_step)
    assert (batches, watch.copies, watch.on_cpu) == (2, [], [])


@pytest.mark.parametrize("arithmetic", ["fp32", "bf16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_backward_pass_and_the_optimiser_need_no_value_and_no_copy(
    network: str, arithmetic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_on(META, monkeypatch)
    training = training_of(network, device=META, cached=True)
    if arithmetic == "bf16":
        training.network.bfloat16()

    def step(batch: Batch) -> None:
        images_NCHW = batch.images_NCHW.to(next(training.network.parameters()).dtype)
        training._step(batch._replace(images_NCHW=images_NCHW))
        logits_NK = torch.zeros(BATCH, CLASSES, device=META, requires_grad=True)
        for loss in EVERY_LOSS:
            loss(logits_NK, batch.labels_N, batch.teacher_NK).total.backward()  # type: ignore[no-untyped-call]

    watch = watched(training, step)
    assert (watch.copies, watch.on_cpu, watch.bf16) == ([], [], arithmetic == "bf16")
    assert all(each.grad is not None for each in training.network.parameters())


def reads_a_value(logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None) -> LossParts:
    return CrossEntropy(scale=1.0 + logits_NK.mean().item())(logits_NK, labels_N)


def mixes_devices(logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None) -> LossParts:
    return CrossEntropy()(logits_NK + torch.ones(1), labels_N)


def computes_on_the_cpu(logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None) -> LossParts:
    return CrossEntropy()(logits_NK, labels_N)._replace(parts={"ce": torch.ones(()).exp()})


def copies_to_the_device(logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None) -> LossParts:
    return CrossEntropy()(logits_NK + torch.tensor([0.5]).to(logits_NK.device), labels_N)


def makes_a_tensor_of_numbers(
    logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None
) -> LossParts:
    return CrossEntropy()(logits_NK + torch.tensor([0.5, 1.0], device=logits_NK.device).sum(), labels_N)


@pytest.mark.parametrize(
    "wrong",
    [reads_a_value, mixes_devices, computes_on_the_cpu, copies_to_the_device, makes_a_tensor_of_numbers],
)
def test_a_loss_that_would_make_the_host_wait_is_found_out(
    wrong: Callable[..., LossParts], fake_cuda: torch.device
) -> None:
    training = training_of("resnet8", device=fake_cuda, cached=True)
    step = forward_pass(training)
    called = {"__call__": lambda self, *batch, epoch: wrong(*batch)}
    loss = type("Wrong", (CrossEntropy,), called)()
    training.spec = cast("RunSpec", SimpleNamespace(seed=0, recipe=training.spec.recipe, loss=loss))
    found = None
    try:
        watch = watched(training, step)
    except (RuntimeError, DataDependentOutputException) as error:
        found = str(error)
    assert found or watch.copies or watch.on_cpu


def test_only_long_runs_on_a_gpu_are_compiled_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    cases = {("resnet18", "cuda", 100): (False, False), ("resnet18", "cuda", 1000): (False, True),
             ("resnet18", "cuda", 78_200): (True, True), ("python:a.b:c", "cuda", 78_200): (False, False),
             ("resnet18", "cpu", 78_200): (False, False)}  # fmt: skip
    for (network, device, steps), expected in cases.items():
        assert speedups(network, device=torch.device(device), steps=steps) == expected
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert speedups("resnet18", device=CUDA, steps=78_200) == (False, True)


class Graph:
    """Stands for torch.cuda.CUDAGraph: replays the step that was recorded on its inputs."""

    def __init__(self) -> None:
        self.replayed = 0

    def replay(self) -> None:
        self.replayed += 1


def batch_of(images: int, value: float = 0.0) -> Batch:
    return Batch(torch.full((images, 1, 2, 2), value), torch.zeros(images, dtype=torch.long), None)


@pytest.fixture(name="graph")
def _graph(monkeypatch: pytest.MonkeyPatch) -> Graph:
    graph, stream = Graph(), SimpleNamespace(wait_stream=lambda other: None)
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda: stream)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda given: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    return graph


def test_a_graph_replays_full_batches_after_real_steps_and_leaves_the_last_batch_alone(graph: Graph) -> None:
    stepped: list[Batch] = []
    step = GraphedStep(stepped.append, batch_size=4)
    for number, images in enumerate([4, 4, 4, 2, 4, 4, 2]):
        step(batch_of(images, value=float(number)))
    # Three steps to warm up, a last batch, the recording (which computes nothing), and a last batch again.
    assert [len(each.labels_N) for each in stepped] == [4, 4, 4, 2, 4, 2]
    assert graph.replayed == 2
    assert (
        float(stepped[4].images_NCHW.mean()) == 5.0
    )  # the buffer that the graph reads holds the last full batch


def test_a_step_that_cannot_be_recorded_runs_as_it_is_written_and_the_log_says_so(
    graph: Graph, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inside: list[object] = []

    @contextlib.contextmanager
    def stream(given: object) -> Iterator[None]:
        inside.append(given)
        yield
        inside.pop()

    def refuse(given: Graph) -> contextlib.AbstractContextManager[None]:
        assert inside  # what holds the current stream; torch.cuda.graph would leave another
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    stepped: list[Batch] = []
    step = GraphedStep(stepped.append, batch_size=4)
    for _ in range(6):
        step(batch_of(4))
    assert (len(stepped), graph.replayed) == (6, 0)
    assert caplog.text.count("cannot be recorded") == 1
