"""The epoch loop: `for epoch in training.epochs()`. It knows nothing of the run's folder; `recorder` saves.

Nothing random is carried from step to step. Weights depend on the seed; the order of images on (seed,
epoch); an image's view on (stream, epoch, image); dropout on (seed, epoch, step, rank). So `state()` at any
step boundary, loaded into a fresh `Training`, continues bit for bit on the CPU at the same number of threads.

In a data-parallel run (`ranks`) each process computes its part of every batch, of the same images in the same
views as one process would; loss, gradients and metrics are means over the images of the whole batch.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - reached only from the runner
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli import models
from tfkd_cli.data.augment import Normalise
from tfkd_cli.errors import RunError
from tfkd_cli.methods import LossParts
from tfkd_cli.spec import Recipe, RunSpec
from tfkd_cli.training import batch_norm, checkpoints, gpu_step, precision
from tfkd_cli.training.epoch_data import Batch, EpochData, TeacherOf, seed_of
from tfkd_cli.training.evaluation import Scores, evaluate
from tfkd_cli.training.parts import Part, part_of
from tfkd_cli.training.ranks import Ranks

if TYPE_CHECKING:
    from tfkd_cli.data import Arrays
    from tfkd_cli.training.teacher_logits import FrozenTeacher, TeacherLogits


log = logging.getLogger("tfkd")


def learning_rate(recipe: Recipe, *, step: int, steps_per_epoch: int) -> float:
    """The rate of step `step` (from 1 over the whole run): linear warm-up, then drops at milestones."""
    epochs_done = (step - 1) // steps_per_epoch
    drops = sum(epochs_done >= milestone for milestone in recipe.milestones)
    warmup_steps = recipe.warmup_epochs * steps_per_epoch
    warmup = min(1.0, step / warmup_steps) if warmup_steps else 1.0
    return recipe.peak_lr * warmup * recipe.lr_factor**drops


OPTIONAL = ("teacher_seconds", "val_loss", "val_accuracy")
"""Of an epoch, what only some runs have."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Metrics of one epoch: accuracies in percent, losses per image; `parts` of the loss, unweighted."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    test_top5: float
    parts: Mapping[str, float]
    seconds: float
    images_per_second: float
    teacher_seconds: float | None = None  # of `seconds`: until the epoch's teacher logits were there
    val_loss: float | None = None
    val_accuracy: float | None = None

    def line(self, *, attempt: int) -> dict[str, Any]:
        """The line of metrics.jsonl; what only some runs have is left out where there is none."""
        line = {"epoch": self.epoch, "attempt": attempt, **asdict(self)}
        parts = {f"loss_{name}": value for name, value in line.pop("parts").items()}
        return {k: v for k, v in line.items() if v is not None or k not in OPTIONAL} | parts


class Training:
    """One network in training, at a step boundary between calls.

    `teacher` is run on the images of each step; `teacher_logits` gives those of a whole epoch. `at_step` is
    called at every step boundary (and between the batches of a teacher's epoch and of the evaluation): there
    `state()` may be taken, and an exception raised in it ends the training. In a data-parallel run `at_batch`
    is called in its place during the evaluation, in which the ranks are not in step.
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
        at_batch: Callable[[], object] = lambda: None,
        ranks: Ranks | None = None,
    ) -> None:
        self.spec, self.device, self._ranks = spec, device, ranks or Ranks()
        self.at_step, self._at_batch = at_step, at_step if self._ranks.size == 1 else at_batch
        self._teacher, self._teacher_logits = teacher, teacher_logits
        self._use(data)
        self.network = self._build()
        self._has_dropout = _has_dropout(spec.student, self.network)
        self._optimizer = _optimizer(spec.recipe, self.network, device=device)
        self._parallel = self._ranks.parallel(self.network, device, own=spec.student.startswith("python:"))
        self._speedups = gpu_step.speedups(
            spec.student, device=device, steps=self.steps * spec.recipe.epochs, processes=self._ranks.size
        )
        self._compiled = gpu_step.compiled(self.network) if self._speedups.compiled else None
        self._run_step = self._step_to_run()
        self.epoch, self.step, self.seconds = 1, 0, 0.0  # epoch in progress, its steps done, its time so far
        self.teacher_seconds = 0.0  # of that, until the teacher logits were there
        self.best_epoch = 0
        self.best_scores: dict[str, float] = {}  # of the epoch that was chosen, on the test part
        self.last_scores: dict[str, float] = {}
        self.best_weights: checkpoints.Weights = {}
        dtype = torch.float32 if device.type == "mps" else torch.float64
        # Sums over images: the loss, each of its parts, how many are right.
        self._sums = torch.zeros(2 + len(spec.loss.reports), dtype=dtype, device=device)
        self._lr = 0.0

    def _use(self, data: Arrays) -> None:
        train = part_of(data.train_images_NCHW, data.train_labels_N, self.device)
        self._test = part_of(data.test_images_NCHW, data.test_labels_N, self.device)
        held_out = data.val_images_NCHW
        self._val = None if held_out is None else part_of(held_out, data.val_labels_N, self.device)
        self._parts = train, self._test, *([self._val] if self._val else [])
        self.skipped = set[str]()  # what was wrong with files that any rank has skipped
        recipe, share = self.spec.recipe, self._ranks.share_of_batch
        self._data = EpochData(train, data.facts, recipe, seed=self.spec.seed, share=share)
        self._facts, self._images, self.steps = data.facts, len(train.labels_N), self._data.steps

    def _build(self) -> nn.Module:
        facts = self._facts
        torch.manual_seed(seed_of("weights", self.spec.seed))
        network = models.build(
            self.spec.student, classes=facts.classes, channels=facts.channels, size=facts.size
        )
        network = precision.prepare(network, precision=self.spec.recipe.precision, device=self.device)
        return batch_norm.synchronised(network, self.device) if self._ranks.sync_batch_norm else network

    def _step_to_run(self) -> Callable[[Batch], None]:
        if self._speedups.graph:
            return gpu_step.GraphedStep(self._step, batch_size=self.spec.recipe.batch_size)
        return self._step

    def epochs(self) -> Iterator[Epoch]:
        """The epochs still to do; after each, `epoch`, `best_epoch` and `best_weights` are up to date."""
        while self.epoch <= self.spec.recipe.epochs:
            yield self._do_epoch()

    def close(self) -> None:
        """End what decodes images: nothing is trained or evaluated after that."""
        for part in self._parts:
            part.close()

    @property
    def best_accuracy(self) -> float:
        """Test accuracy (percent) of the epoch that is best on the part `chosen_on`; -1 before the first."""
        return self.best_scores.get("accuracy", -1.0)

    @property
    def chosen_on(self) -> str:
        """Which part's accuracy chooses the best epoch: `validation` where there is such a part."""
        return "test" if self._val is None else "validation"

    def logits(self, images_NCHW: Tensor) -> Tensor:
        """Logits, shape (N, K), of uint8 images by the network as it stands, in eval mode and fp32."""
        self.network.eval()
        with torch.inference_mode():
            normalised_NCHW = Normalise(self._facts, device=self.device)(images_NCHW.to(self.device))
            return self.network(normalised_NCHW).float()  # type: ignore[no-any-return]

    def _do_epoch(self) -> Epoch:
        self._began = time.perf_counter() - self.seconds
        if self.step < self.steps:
            at_step = partial(self._timed, self.at_step)
            self._train(self._teacher_of_epoch(at_step), at_step)
        self._refuse_divergence()
        self._ranks.share_buffers(self.network)
        training_seconds = time.perf_counter() - self._began
        tested = self._evaluate(self._test)
        checked = self._evaluate(self._val) if self._val else None
        self._note_skipped()
        self.seconds = time.perf_counter() - self._began
        return self._finish_epoch(tested, checked, training_seconds=training_seconds)

    def _timed(self, call: Callable[[], object]) -> None:
        self.seconds = time.perf_counter() - self._began
        call()

    def _note_skipped(self) -> None:
        if self.spec.recipe.corrupt == "skip":
            skipped = self._ranks.of_all({what for part in self._parts for what in part.skipped})
            for what in sorted(set[str]().union(*skipped) - self.skipped):
                log.warning("skipped: %s", what)
                self.skipped.add(what)

    def _evaluate(self, part: Part) -> Scores:
        share, gather, at_batch = self._ranks.share, self._ranks.gather, partial(self._timed, self._at_batch)
        return evaluate(self.network, part, self._facts, at_step=at_batch, share=share, gather=gather)

    def _teacher_of_epoch(self, at_step: Callable[[], None]) -> TeacherOf | None:
        """What gives a batch its teacher logits: the teacher itself, or the logits of the whole epoch."""
        if self._teacher_logits is None:
            teacher = self._teacher
            return None if teacher is None else lambda images_NCHW, indices_N: teacher(images_NCHW)
        started, before = time.perf_counter(), self.teacher_seconds

        def at_teacher_batch() -> None:
            self.teacher_seconds = before + time.perf_counter() - started
            at_step()

        logits_NK = self._teacher_logits.epoch(
            self.epoch,
            views=lambda batches: self._data.views(self.epoch, batches),
            at_step=at_teacher_batch,
        )
        self.teacher_seconds = before + time.perf_counter() - started
        return lambda images_NCHW, indices_N: logits_NK[indices_N].float()

    def _train(self, teacher: TeacherOf | None, at_step: Callable[[], None]) -> None:
        """The rest of the epoch's steps. On a GPU, the host waits for none of them."""
        self.network.train()
        if self.spec.loss.depends_on_epoch:
            self._run_step = self._step_to_run()  # a recorded step would keep the weights of its epoch
        rank = (self._ranks.rank,) if self._ranks.rank else ()
        dropout_seed = seed_of("dropout", self.spec.seed, self.epoch, *rank)
        for batch in self._data.batches(self.epoch, first=self.step, teacher=teacher):
            if self._has_dropout:
                torch.manual_seed(dropout_seed + self.step)
            done = (self.epoch - 1) * self.steps + self.step
            self._set_rate(learning_rate(self.spec.recipe, step=done + 1, steps_per_epoch=self.steps))
            self._run_step(batch)
            if self.device.type == "cpu":
                self._refuse_divergence()
            self.step += 1
            at_step()

    def _set_rate(self, rate: float) -> None:
        self._lr = rate
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _step(self, batch: Batch) -> None:
        """One step: everything in it is computed on the device, and no value is read."""
        parts, logits_NK = self._loss(batch)
        own, images = len(batch.labels_N), self._images_of_step()
        # The gradients' mean over ranks becomes the one over the images of the batch.
        mean = parts.total * (self._ranks.size * self._ranks.weight(own, images=images) * own / images)
        self._optimizer.zero_grad(set_to_none=True)
        mean.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._add(parts, logits_NK, batch.labels_N)

    def _images_of_step(self) -> int:
        """How many images the batch of this step has on all ranks; only the last has another size."""
        size = self.spec.recipe.batch_size
        return size if self.step < self.steps - 1 else self._images - size * (self.steps - 1)

    def _loss(self, batch: Batch) -> tuple[LossParts, Tensor]:
        """The loss of a batch and the logits, shape (N, K), float32."""
        full = len(batch.labels_N) == self.spec.recipe.batch_size
        forward = self._compiled if self._compiled is not None and full else self._parallel
        with precision.autocast(self.spec.recipe.precision, self.device):
            logits_NK = forward(batch.images_NCHW)
        logits_NK = logits_NK.float()
        loss = self.spec.loss
        parts = loss(logits_NK, batch.labels_N, batch.teacher_NK, epoch=self.epoch)
        if parts.parts.keys() != loss.reports.keys():
            raise RunError(
                f"{loss.kind} gave the parts {', '.join(parts.parts)}.",
                expected=f"what its `reports` names: {', '.join(loss.reports)}.",
            )
        return parts, logits_NK

    def _add(self, parts: LossParts, logits_NK: Tensor, labels_N: Tensor) -> None:
        """Add a batch, of all ranks, to the epoch's sums."""
        weight = self._ranks.weight(len(labels_N), images=self._images_of_step())
        with torch.no_grad():
            right = (logits_NK.argmax(1) == labels_N).sum()
            reported = [parts.parts[name] for name in self.spec.loss.reports]
            means = torch.stack([parts.total, *reported]).to(self._sums.dtype)
            counted = torch.cat([means * len(labels_N), right[None].to(self._sums.dtype)])
            self._sums += self._ranks.summed(counted, weight=weight)

    def _refuse_divergence(self) -> None:
        loss = float(self._sums[0])
        if not math.isfinite(loss):
            raise RunError(
                f"the loss became {loss} in epoch {self.epoch}, by step {self.step + 1} of {self.steps}.",
                expected="a finite loss; too large a learning rate or weight of a term makes it infinite.",
                hint=f"try --lr {self.spec.recipe.lr / 10:g}, or smaller weights: tfkd explain shows them.",
            )

    def _finish_epoch(self, tested: Scores, checked: Scores | None, *, training_seconds: float) -> Epoch:
        loss, *parts, right = (self._sums / self._images).tolist()
        epoch = Epoch(
            epoch=self.epoch,
            lr=self._lr,
            train_loss=loss,
            train_accuracy=100 * right,
            test_loss=tested.loss,
            test_accuracy=tested.accuracy,
            test_top5=tested.top5,
            parts=dict(zip(self.spec.loss.reports, parts, strict=True)),
            seconds=self.seconds,
            images_per_second=self._images / max(training_seconds, 1e-9),
            teacher_seconds=self.teacher_seconds if self._teacher_logits else None,
            val_loss=checked.loss if checked else None,
            val_accuracy=checked.accuracy if checked else None,
        )
        self._choose(tested, checked)
        self.epoch, self.step, self.seconds, self.teacher_seconds = self.epoch + 1, 0, 0.0, 0.0
        self._sums.zero_()
        self._lr = 0.0
        return epoch

    def _choose(self, tested: Scores, checked: Scores | None) -> None:
        """Keep the best epoch's weights, by the validation part where there is one.

        Of equal epochs the last is kept (*released train_kd.py*: `is_best = val_acc >= best_val_acc`).
        """
        self.last_scores = asdict(tested)
        by = "accuracy"
        if checked is not None:
            by = "val_accuracy"
            self.last_scores |= {"val_accuracy": checked.accuracy, "val_loss": checked.loss}
        if self.last_scores[by] >= self.best_scores.get(by, -1.0):
            self.best_epoch, self.best_scores = self.epoch, self.last_scores
            self.best_weights = checkpoints.weights_of(self.network)

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
            "optimizer": checkpoints.plain(self._optimizer.state_dict()["state"]),
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
        ours = self._optimizer.state_dict()["param_groups"]  # on another device they may differ
        self._optimizer.load_state_dict(
            {"state": checkpoints.plain(state["optimizer"]), "param_groups": ours}
        )
        self._run_step = self._step_to_run()
        self.epoch, self.step = state["epoch"], state["step"]
        self.seconds, self._lr = state["seconds"], state["lr"]
        self.teacher_seconds = state["teacher_seconds"]
        self._sums.copy_(state["sums"])
        self.best_epoch, self.best_scores = state["best"]["epoch"], dict(state["best"]["scores"])
        self.last_scores = dict(state["last_scores"])
        self.best_weights = dict(state["best_weights"])


def _has_dropout(name: str, network: nn.Module) -> bool:
    """Whether its forward pass draws random numbers; of a network that is not ours, that is assumed."""
    return ":" in name or any(isinstance(each, nn.Dropout | nn.Dropout2d) for each in network.modules())


def _optimizer(recipe: Recipe, network: nn.Module, *, device: torch.device) -> torch.optim.Optimizer:
    """SGD without Nesterov, or Adam; the decay reaches all parameters, BatchNorm and biases too."""
    parameters, on_gpu = network.parameters(), device.type == "cuda"
    options: dict[str, Any] = {"lr": recipe.peak_lr, "weight_decay": recipe.weight_decay}
    options["fused"] = True if device.type in ("cpu", "cuda") else None
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(parameters, **options, capturable=on_gpu)
    else:
        optimizer = torch.optim.SGD(parameters, **options, momentum=recipe.momentum)
    if on_gpu:  # where a CUDA graph can see it change
        for group in optimizer.param_groups:
            group["lr"] = torch.full((), recipe.peak_lr, device=device)
    return optimizer
