"""How fast this machine trains a run: an epoch of 25 steps, as the trainer does it, on random images."""

from __future__ import annotations

import time
from dataclasses import replace

import torch  # noqa: TID253 - it times the trainer

from tfkd_cli import models
from tfkd_cli.data import Arrays, DataSet
from tfkd_cli.spec import RunSpec
from tfkd_cli.training import precision, provenance
from tfkd_cli.training.teacher_logits import FrozenTeacher
from tfkd_cli.training.trainer import Training

STEPS = 25  # per epoch: one to warm up, one that counts; 50 in all


def seconds_per_image(spec: RunSpec, facts: DataSet, *, device: str, threads: int) -> float:
    """Seconds per training image and epoch, the share of the test images in it included."""
    torch.set_num_threads(threads)
    chosen = provenance.choose_device(device)
    precision.configure(chosen, tf32=True)
    images = STEPS * spec.recipe.batch_size
    arrays = random_arrays(facts, images)
    training = Training(
        replace(spec, recipe=replace(spec.recipe, epochs=2, milestones=(), augment_stream="seed")),
        data=arrays,
        device=chosen,
        teacher=random_teacher(spec, facts, chosen),
    )
    epochs = training.epochs()
    next(epochs)
    started = time.perf_counter()
    next(epochs)
    if chosen.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / images


def random_arrays(facts: DataSet, images: int) -> Arrays:
    """So many random training images with the facts of a data set, and test images in its proportion."""
    import numpy as np

    random = np.random.default_rng(0)
    tested = max(2, round(images * facts.test_images / max(1, facts.train_images)))
    shape = (facts.channels, facts.size, facts.size)
    return Arrays(
        facts=facts,
        class_names=tuple(map(str, range(facts.classes))),
        train_images_NCHW=random.integers(0, 256, (images, *shape), dtype=np.uint8),
        train_labels_N=random.integers(0, facts.classes, images),
        test_images_NCHW=random.integers(0, 256, (tested, *shape), dtype=np.uint8),
        test_labels_N=random.integers(0, facts.classes, tested),
    )


def random_teacher(spec: RunSpec, facts: DataSet, device: torch.device) -> FrozenTeacher | None:
    """An untrained network of the teacher's architecture, which costs as much as the trained one."""
    if spec.teacher is None:
        return None
    network = models.build(
        spec.teacher.network, classes=facts.classes, channels=facts.channels, size=facts.size
    )
    example = torch.randn(8, facts.channels, facts.size, facts.size, device=device)
    return FrozenTeacher(network, device=device, precision_name=spec.recipe.precision, example=example)
