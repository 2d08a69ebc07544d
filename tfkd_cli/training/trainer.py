"""The epoch loop, as an iterator that touches no file: `for epoch in training.epochs()`.

Nothing random is carried from step to step. Weights depend on the seed; the order of images on (seed,
epoch); an image's view on (stream, epoch, image); dropout on (seed, epoch, step). So `state()` at any step
boundary, loaded into a fresh `Training`, continues bit for bit on the CPU at the same number of threads.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - reached only from the runner
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli import models
from tfkd_cli.data import augment
from tfkd_cli.errors import RunError
from tfkd_cli.methods import LossParts
from tfkd_cli.spec import Recipe, RunSpec
from tfkd_cli.training import checkpoints, precision
from tfkd_cli.training.evaluation import Scores, evaluate, part_of

if TYPE_CHECKING:
    from tfkd_cli.data import Arrays
    from tfkd_cli.training.teacher_logits import FrozenTeacher, TeacherLogits

SHARED_STREAM = 2**31 - 1
"""The augmentation stream of all seeds where the recipe says "shared"; no seed of anybody's."""

COMPILE_STEPS = 10_000
"""torch.compile costs minutes: only a run of at least so many steps on a GPU earns them back."""


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on all parts: `seed_of("order", seed, epoch)`."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def learning_rate(recipe: Recipe, *, step: int, steps_per_epoch: int) -> float:
    """The rate of step `step` (from 1 over the whole run): linear warm-up, then drops at milestones."""
    epochs_done = (step - 1) // steps_per_epoch
    drops = sum(epochs_done >= milestone for milestone in recipe.milestones)
    warmup_steps = recipe.warmup_epochs * steps_per_epoch
    warmup = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    return recipe.peak_lr * warmup * recipe.lr_factor**drops


def batches(order_N: Tensor, batch_size: int) -> list[Tensor]:
    """The epoch's batches; the last may be smaller, but one image joins the batch before (BatchNorm)."""
    parts = list(torch.split(order_N, batch_size))
    if len(parts) > 1 and batch_size > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


OPTIONAL = ("teacher_seconds", "val_loss", "val_accuracy")
"""Of an epoch, what only some runs have."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What an epoch gave: accuracies in percent, losses per image, `loss_ce` and `loss_kl` unweighted."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    test_top5: float
    loss_ce: float
    loss_kl: float | None
    seconds: float
    images_per_second: float
    teacher_seconds: float | None = None  # of `seconds`: until an epoch's answers were there
    val_loss: float | None = None
    val_accuracy: float | None = None

    def line(self, *, attempt: int) -> dict[str, Any]:
        """The line of metrics.jsonl; what only some runs have is left out where there is none."""
        line = {"epoch": self.epoch, "attempt": attempt, **asdict(self)}
        return {k: v for k, v in line.items() if v is not None or k not in OPTIONAL}


class Training:
    """One network in training, at a step boundary between calls.

    `at_step` is called at every step boundary (and between the questions to a teacher and the batches of
    the evaluation): there `state()` may be taken, and an exception raised in it ends the training.
    """

    def __init__(
        self,
        spec: RunSpec,
        *,
        data: Arrays,
        device: torch.device,
        teacher: FrozenTeacher | None = None,
        teacher_logits: TeacherLogits | None = None,
        at_step: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec, self.device, self.at_step = spec, device, at_step
        self._facts = data.facts
        self._teacher, self._teacher_logits = teacher, teacher_logits
        train = part_of(data.train_images_NCHW, data.train_labels_N, device)
        self._images_NCHW, self._labels_N = train.images_NCHW, train.labels_N
        self._test = part_of(data.test_images_NCHW, data.test_labels_N, device)
        self._val = None
        if data.val_images_NCHW is not None:
            self._val = part_of(data.val_images_NCHW, data.val_labels_N, device)
        self.steps = len(batches(torch.arange(len(self._labels_N)), spec.recipe.batch_size))
        self.network = self._build()
        self._forward = self._maybe_compiled()
        self._optimizer = _optimizer(spec.recipe, self.network, device=device)
        self.epoch, self.step, self.seconds = 1, 0, 0.0  # epoch in progress, its steps done, its time so far
        self.teacher_seconds = 0.0  # of that, until the answers were there
        self.best_epoch = 0
        self.best_scores: dict[str, float] = {}  # of the epoch that was chosen, on the test part
        self.last_scores: dict[str, float] = {}
        self.best_weights: checkpoints.Weights = {}
        self._start_epoch()

    def _build(self) -> nn.Module:
        facts = self._facts
        torch.manual_seed(seed_of("weights", self.spec.seed))
        network = models.build(
            self.spec.student, classes=facts.classes, channels=facts.channels, size=facts.size
        )
        return precision.prepare(network, precision=self.spec.recipe.precision, device=self.device)

    def _maybe_compiled(self) -> Callable[[Tensor], Tensor]:
        """The network as it is called in training; it pays on a GPU, in bf16, in a long run only."""
        long = self.steps * self.spec.recipe.epochs >= COMPILE_STEPS
        if self.device.type == "cuda" and self.spec.recipe.precision == "bf16" and long:
            return torch.compile(self.network)
        return self.network

    def epochs(self) -> Iterator[Epoch]:
        """The epochs still to do; after each, `epoch`, `best_epoch` and `best_weights` are up to date."""
        while self.epoch <= self.spec.recipe.epochs:
            yield self._do_epoch()

    @property
    def best_accuracy(self) -> float:
        """The test accuracy of the best epoch so far, in percent; -1 before the first."""
        return self.best_scores.get("accuracy", -1.0)

    @property
    def chosen_on(self) -> str:
        """Which part's accuracy chooses the best epoch: `validation` where there is such a part."""
        return "test" if self._val is None else "validation"

    @property
    def done(self) -> bool:
        """Whether all epochs are done."""
        return self.epoch > self.spec.recipe.epochs

    def _do_epoch(self) -> Epoch:
        started, seconds_before = time.perf_counter(), self.seconds

        def at_step() -> None:
            self.seconds = seconds_before + time.perf_counter() - started
            self.at_step()

        if self.step < self.steps:
            teacher_NK = self._epoch_logits(at_step)
            self._train(teacher_NK, at_step)
        self._refuse_divergence()
        training_seconds = seconds_before + time.perf_counter() - started
        tested = evaluate(self.network, self._test, self._facts, at_step=at_step)
        checked = evaluate(self.network, self._val, self._facts, at_step=at_step) if self._val else None
        self.seconds = seconds_before + time.perf_counter() - started
        return self._finish_epoch(tested, checked, training_seconds=training_seconds)

    def _train(self, teacher_NK: Tensor | None, at_step: Callable[[], None]) -> None:
        self.network.train()
        order = torch.Generator().manual_seed(seed_of("order", self.spec.seed, self.epoch))
        todo = batches(torch.randperm(len(self._labels_N), generator=order), self.spec.recipe.batch_size)
        for indices_N in todo[self.step :]:
            self._do_step(indices_N, teacher_NK)
            self.step += 1
            at_step()

    def _epoch_logits(self, at_step: Callable[[], None]) -> Tensor | None:
        if self._teacher_logits is None:
            return None
        started, before = time.perf_counter(), self.teacher_seconds

        def at_question() -> None:
            self.teacher_seconds = before + time.perf_counter() - started
            at_step()

        teacher_NK = self._teacher_logits.epoch(self.epoch, view=self._view, at_step=at_question)
        self.teacher_seconds = before + time.perf_counter() - started
        return teacher_NK

    def _view(self, indices_N: Tensor) -> Tensor:
        """These images in their views of this epoch, normalised; `indices_N` on the CPU."""
        stream = self.spec.seed if self.spec.recipe.augment_stream == "seed" else SHARED_STREAM
        images_NCHW = augment.augment(
            self._images_NCHW[indices_N.to(self.device, non_blocking=True)],
            self.spec.recipe.augment,
            stream=stream,
            epoch=self.epoch,
            indices_N=indices_N,
        )
        return self._normalised(images_NCHW)

    def _normalised(self, images_NCHW: Tensor) -> Tensor:
        facts = self._facts
        return augment.normalise(images_NCHW, facts.mean, facts.std, memory_format=torch.channels_last)

    def logits(self, images_NCHW: Tensor) -> Tensor:
        """Logits, shape (N, K), of uint8 images by the network as it stands, in eval mode and fp32."""
        self.network.eval()
        with torch.inference_mode():
            return self.network(self._normalised(images_NCHW.to(self.device))).float()  # type: ignore[no-any-return]

    def _do_step(self, indices_N: Tensor, cached_NK: Tensor | None) -> None:
        recipe = self.spec.recipe
        images_NCHW = self._view(indices_N)
        indices_N = indices_N.to(self.device, non_blocking=True)
        labels_N = self._labels_N[indices_N]
        teacher_NK = None
        if cached_NK is not None:
            teacher_NK = cached_NK[indices_N].float()
        elif self._teacher is not None:
            teacher_NK = self._teacher(images_NCHW)
        torch.manual_seed(seed_of("dropout", self.spec.seed, self.epoch, self.step))
        with precision.autocast(recipe.precision, self.device):
            logits_NK = self._forward(images_NCHW)
        parts = self.spec.loss(logits_NK.float(), labels_N, teacher_NK)
        self._optimizer.zero_grad(set_to_none=True)
        parts.total.backward()  # type: ignore[no-untyped-call]
        self._lr = learning_rate(
            recipe, step=(self.epoch - 1) * self.steps + self.step + 1, steps_per_epoch=self.steps
        )
        for group in self._optimizer.param_groups:
            group["lr"] = self._lr
        self._optimizer.step()
        self._add(parts, logits_NK, labels_N)

    def _add(self, parts: LossParts, logits_NK: Tensor, labels_N: Tensor) -> None:
        """Add a batch to the epoch's sums, on the device: a GPU is not waited for."""
        with torch.no_grad():
            right = (logits_NK.argmax(1) == labels_N).sum()
            kl = parts.total.new_zeros(()) if parts.kl is None else parts.kl
            means = torch.stack([parts.total, parts.ce, kl]).to(self._sums.dtype)
            self._sums[:3] += means * len(labels_N)
            self._sums[3] += right
        if self.device.type == "cpu":
            self._refuse_divergence()

    def _refuse_divergence(self) -> None:
        loss = float(self._sums[0])
        if not math.isfinite(loss):
            raise RunError(
                f"the loss became {loss} in epoch {self.epoch}, by step {self.step + 1} of {self.steps}.",
                expected="a finite loss; a large temperature² times multiplier makes gradients too large.",
                hint="try --lr 0.01, a smaller --temperature or --set loss.multiplier=1, or --form printed.",
            )

    def _finish_epoch(self, tested: Scores, checked: Scores | None, *, training_seconds: float) -> Epoch:
        images = len(self._labels_N)
        loss, ce, kl, right = (self._sums / images).tolist()
        has_kl = self.spec.loss.kind != "cross-entropy"
        epoch = Epoch(
            epoch=self.epoch,
            lr=self._lr,
            train_loss=loss,
            train_accuracy=100 * right,
            test_loss=tested.loss,
            test_accuracy=tested.accuracy,
            test_top5=tested.top5,
            loss_ce=ce,
            loss_kl=kl if has_kl else None,
            seconds=self.seconds,
            images_per_second=images / max(training_seconds, 1e-9),
            teacher_seconds=self.teacher_seconds if self._teacher_logits else None,
            val_loss=checked.loss if checked else None,
            val_accuracy=checked.accuracy if checked else None,
        )
        self._choose(tested, checked)
        self.epoch, self.step, self.seconds, self.teacher_seconds = self.epoch + 1, 0, 0.0, 0.0
        self._start_epoch()
        return epoch

    def _choose(self, tested: Scores, checked: Scores | None) -> None:
        """Keep the best epoch's weights: on the validation part where there is one; the first on ties."""
        self.last_scores = asdict(tested)
        by = "accuracy"
        if checked is not None:
            by = "val_accuracy"
            self.last_scores |= {"val_accuracy": checked.accuracy, "val_loss": checked.loss}
        if self.last_scores[by] > self.best_scores.get(by, -1.0):
            self.best_epoch, self.best_scores = self.epoch, self.last_scores
            self.best_weights = checkpoints.weights_of(self.network)

    def _start_epoch(self) -> None:
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self._sums = torch.zeros(4, dtype=dtype, device=self.device)  # loss, ce, kl, right: sums over images
        self._lr = 0.0

    def state(self) -> dict[str, Any]:
        """What a fresh `Training` of the same spec needs to continue here: tensors (copies), plain values."""
        self._refuse_divergence()
        return {
            "key": self.spec.key,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "teacher_seconds": self.teacher_seconds,
            "lr": self._lr,
            "sums": checkpoints.plain(self._sums),
            "network": checkpoints.plain(self.network.state_dict()),
            "optimizer": checkpoints.plain(self._optimizer.state_dict()),
            "best": {"epoch": self.best_epoch, "scores": dict(self.best_scores)},
            "last_scores": dict(self.last_scores),
            "best_weights": dict(self.best_weights),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`; RunError when it is another run's."""
        if state.get("key") != self.spec.key:
            raise RunError(
                f"this training state belongs to run {str(state.get('key'))[:12]}.",
                expected=f"run {self.spec.key[:12]}.",
            )
        self.network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(checkpoints.plain(state["optimizer"]))
        self.epoch, self.step = state["epoch"], state["step"]
        self.seconds, self._lr = state["seconds"], state["lr"]
        self.teacher_seconds = state.get("teacher_seconds", 0.0)  # older states have none
        self._sums.copy_(state["sums"])
        self.best_epoch, self.best_scores = state["best"]["epoch"], dict(state["best"]["scores"])
        self.last_scores = dict(state["last_scores"])
        self.best_weights = dict(state["best_weights"])


def _optimizer(recipe: Recipe, network: nn.Module, *, device: torch.device) -> torch.optim.Optimizer:
    """SGD without Nesterov, or Adam; the decay reaches all parameters, BatchNorm and biases too."""
    fused = True if device.type in ("cpu", "cuda") else None
    parameters = network.parameters()
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.peak_lr, weight_decay=recipe.weight_decay, fused=fused)
    return torch.optim.SGD(
        parameters,
        lr=recipe.peak_lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        fused=fused,
    )
