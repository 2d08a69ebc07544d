"""One side of a comparison, in a process of its own: `python -m benchmarks.side` and a JSON on its input.

A line on the input asks for a block of steps; the steps' times come back as a JSON line. Between blocks the
process sleeps. Memory and threads are set as the side's users have them: torch's defaults for the
conventional loop, what tfkd's worker sets for ours.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.load import Clock, Step
from benchmarks.workloads import BATCH, LR, WORKLOADS, Workload

if TYPE_CHECKING:
    from tfkd_cli.data import Arrays
    from tfkd_cli.training.teacher_logits import FrozenTeacher

Play = Callable[[], list[Step]]
OURS = {"fast": True, "fp32": False}


def conventional(workload: Workload, arrays: Arrays, *, steps: int, workers: int, teacher_grad: bool) -> Play:
    """The conventional loop, paused between blocks."""
    import torch

    from benchmarks import conventional as theirs

    network = theirs.build(workload.student, arrays.facts)
    teacher = theirs.build(workload.teacher, arrays.facts).eval() if workload.teacher else None
    batches = theirs.loader(theirs.train_set(arrays), batch_size=BATCH, workers=workers, train=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    loss = workload.spec(dataset="any", fast=False).loss

    def forever() -> Iterator[float]:
        while True:
            yield from theirs.train(
                network, batches, optimizer, loss=loss, teacher=teacher, teacher_grad=teacher_grad
            )

    endless = forever()

    def play() -> list[Step]:
        clock = Clock()
        for _ in itertools.islice(endless, steps):
            clock.mark("step")
        return clock.steps

    return play


class Marks:
    """Says what each step boundary of a training ends: a batch of the teacher, a step or an evaluation."""

    def __init__(self, clock: Clock, *, images: int, teacher_batch: int) -> None:
        self._clock, self._images, self._teacher_batch = clock, images, teacher_batch
        self._before = (0, 0)
        self._left = images  # that the teacher has not seen in this epoch

    def at_step(self, epoch: int, step: int) -> None:
        """Mark the clock; a teacher's batch counts as so many training batches."""
        if step:
            self._clock.mark("step" if (epoch, step) != self._before else "evaluation")
        else:
            images = min(self._teacher_batch, self._left)
            self._clock.mark("teacher", batches=images / BATCH)
            self._left = self._left - images or self._images
        self._before = (epoch, step)


def ours(workload: Workload, arrays: Arrays, *, steps: int, fast: bool) -> Play:
    """tfkd's trainer as it is; a block is an epoch of `steps` batches.

    With --fast an image costs its share of a "teacher" batch and of a "step", or of a step alone where the
    logits are cached. A teacher batch is larger than a training batch; its time is given per `BATCH` images.
    """
    import torch

    from tfkd_cli.training.evaluation import images_at_once
    from tfkd_cli.training.teacher_logits import TeacherLogits
    from tfkd_cli.training.trainer import Training

    facts, device, clock = arrays.facts, torch.device("cpu"), Clock()
    images, teacher_batch = steps * BATCH, images_at_once(device, facts.size)
    marks = Marks(clock, images=images, teacher_batch=teacher_batch)
    teacher = _teacher(workload.teacher, arrays, fast=fast) if workload.teacher else None
    teacher_logits = None
    if teacher is not None and fast:
        teacher_logits = TeacherLogits(
            teacher=teacher, images=images, classes=facts.classes, device=device, batch=teacher_batch
        )
    training = Training(
        workload.spec(dataset=facts.name, fast=fast),
        data=_some(arrays, images=images),
        device=device,
        teacher=teacher,
        teacher_logits=teacher_logits,
        at_step=lambda: marks.at_step(training.epoch, training.step),
    )
    epochs = training.epochs()

    def play() -> list[Step]:
        clock.steps.clear()
        clock.restart()
        next(epochs)
        return [step for step in clock.steps if step.kind != "evaluation"]

    return play


def _teacher(name: str, arrays: Arrays, *, fast: bool) -> FrozenTeacher:
    """A teacher of this architecture, untrained."""
    import torch

    from tfkd_cli import models
    from tfkd_cli.data.augment import Normalise
    from tfkd_cli.training.teacher_logits import FrozenTeacher

    facts = arrays.facts
    example = torch.from_numpy(arrays.train_images_NCHW[:8].copy())
    return FrozenTeacher(
        models.build(name, classes=facts.classes, channels=facts.channels, size=facts.size),
        device=torch.device("cpu"),
        precision_name="bf16" if fast else "fp32",
        example=Normalise(facts, device=example.device)(example),
    )


def _some(arrays: Arrays, *, images: int) -> Arrays:
    """`images` training images (repeated where there are fewer), and a few to test on."""
    from dataclasses import replace

    import numpy as np

    taken = np.arange(images) % len(arrays.train_labels_N)
    return replace(
        arrays,
        train_images_NCHW=arrays.train_images_NCHW[taken],
        train_labels_N=arrays.train_labels_N[taken],
        test_images_NCHW=arrays.test_images_NCHW[:10],
        test_labels_N=arrays.test_labels_N[:10],
    )


def build(order: Mapping[str, Any]) -> Play:
    """The side that `order` names, ready to play its first block."""
    if order["side"] in OURS:
        from tfkd_cli.training import worker

        worker.keep_freed_memory()
    from benchmarks import images

    workload = WORKLOADS[order["workload"]]
    arrays = images.load(order["dataset"], cache=Path(order["cache"]))
    if order["side"] in OURS:
        return ours(workload, arrays, steps=order["steps"], fast=OURS[order["side"]])
    return conventional(
        workload,
        arrays,
        steps=order["steps"],
        workers=order["workers"],
        teacher_grad=order["side"] == "released",
    )


def main() -> None:
    """Read an order, then play a block for each further line."""
    talk = sys.stdout
    sys.stdout = sys.stderr
    play = build(json.loads(sys.stdin.readline()))
    print(json.dumps("ready"), file=talk, flush=True)
    for _ in sys.stdin:
        print(json.dumps([step.to_json() for step in play()]), file=talk, flush=True)


if __name__ == "__main__":
    main()
