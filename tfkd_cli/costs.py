"""What a run will cost: from like runs that were measured, a calibration, or a multiply-add model. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from tfkd_cli import data, models
from tfkd_cli.data import DataSet, ResolvedData
from tfkd_cli.plan import Estimate
from tfkd_cli.spec import ForeignTeacher, RunSpec

UNKNOWN_IMAGES = 50_000
BACKWARD = 2.0  # a backward pass costs about two forward passes
WEIGHT_FILES = 3  # that every finished run has: best, last, student
RECORDS, EPOCH_LINE = 20_000, 500  # bytes of a run's records, of an epoch in each of the two metrics files


THREADS_EXPONENT = 0.55
"""n threads train n^0.55 times as fast as one (two: 1.46; measured on two cores)."""

PROCESSES_EXPONENT = 0.95
"""n processes, each with a device of its own, train n^0.95 times as fast as one (assumed)."""

MEMORY_BOUND: Mapping[str, float] = {"mobilenetv2": 1.9, "shufflenetv2": 2.3}
"""Depthwise networks move more memory: their time per multiply-add against the others', measured."""

LIBRARY = 1.2  # seconds of CPU to import another library's networks, in each run
LOADING = 12.0  # of a command: torch is loaded before the first run, the report is written after the last
DEEP_STEP = 0.04  # seconds of a step more, on a CPU, of networks with some 50 small layers
DECODING: Mapping[str, float] = {"folder": 2e-3}  # seconds of an image file
UNPACKING = 5e-5  # of an image in an official file

BF16_SPEED = 1.6  # against fp32: measured 1.4 to 1.9


@dataclass(frozen=True)
class DeviceModel:
    """Seconds of a step: from multiply-adds, from its images, and whatever the two; and of a run's start."""

    name: str
    multiply_adds_per_second: float  # of one thread where the device is a CPU
    seconds_per_image: float
    seconds_per_step: float
    start_seconds: float  # of a run, outside its epochs


# The CPU's line lies between two machines: eight networks (10 M to 555 M multiply-adds) on a core of a server
# with AVX2 take 0.9 to 1.3 times as long, six on one of 2023 with AVX-512 0.6 to 1.0 times. The others are
# assumed. Measured runs and `plan --calibrate` replace all of them.
DEVICE_MODELS: Mapping[str, DeviceModel] = {
    "cpu": DeviceModel("a CPU", 4.2e10, 5e-5, 6e-3, 0.6),
    "cuda": DeviceModel("one data-centre GPU", 3e12, 2e-5, 0.0, 10.0),
    "mps": DeviceModel("one Apple GPU", 5e11, 1e-4, 0.0, 5.0),
}


class Rate(NamedTuple):
    """What like runs take: seconds per image and epoch, and seconds outside the epochs if they are known.

    Of one thread, or of the whole device where it is no CPU; without a teacher that is run by epoch.
    """

    seconds_per_image: float
    start_seconds: float | None = None
    source: str = "measured"


Rates = Mapping[tuple[Any, ...], Rate]
"""By `rate_key`."""


@dataclass(frozen=True)
class CostModel:
    """Seconds of a run on `device` (`cpu`, `cuda`, `mps`) with so many threads in each of its processes.

    Runs without a rate are modelled.
    """

    device: str
    threads: int = 1
    processes_of: Callable[[RunSpec], int] = lambda spec: 1
    facts: Mapping[str, DataSet] = field(default_factory=dict)  # by resolved name
    rates: Rates = field(default_factory=dict)
    bf16: bool = True  # whether the device has units for it; without them a run uses fp32

    def __call__(self, spec: RunSpec) -> Estimate:
        facts = facts_of(spec.dataset, self.facts)
        rate = self.rates.get(rate_key(spec))
        if rate is None:
            source = "estimate" if self.device == "cpu" else "uncalibrated"
            rate = Rate(self._modelled(spec, facts), source=source)
        images = _trained(spec, facts)
        per_epoch = rate.seconds_per_image * images
        start = rate.start_seconds
        if start is None:
            start = DEVICE_MODELS[self.device].start_seconds + LIBRARY * (":" in spec.student)
        processes = self.processes_of(spec)
        speed_up = threads_speed_up(self.device, self.threads) * processes**PROCESSES_EXPONENT
        epochs = spec.recipe.epochs / speed_up
        seconds, teacher_seconds = per_epoch * epochs, 0.0
        if spec.teacher_by_epoch:
            measured = rate.source == "measured"
            whole = self._modelled(spec, facts) * images if measured else per_epoch
            share = self._teacher_forward(spec, facts) / self._work(spec, facts)
            teacher_seconds = whole * epochs * share
            seconds += teacher_seconds if measured else 0.0
        return Estimate(
            seconds=seconds + start,
            source=rate.source,
            disk_bytes=disk_bytes(spec),
            logits_bytes=logits_bytes(spec, facts),
            teacher_seconds=teacher_seconds,
            start_seconds=start,
            processes=processes,
            teacher_bytes=weights_bytes(spec.teacher.network) if spec.teacher else 0,
        )

    def _modelled(self, spec: RunSpec, facts: DataSet) -> float:
        device = DEVICE_MODELS[self.device]
        bf16 = spec.recipe.precision == "bf16" and self.bf16
        speed = device.multiply_adds_per_second * (BF16_SPEED if bf16 else 1)
        images = _trained(spec, facts)
        steps = math.ceil(images / spec.recipe.batch_size) * (1 + (spec.teacher is not None) / (1 + BACKWARD))
        return (
            self._work(spec, facts) / speed
            + device.seconds_per_image
            + self._step(spec.student) * steps / images
        )

    def _step(self, network: str) -> float:
        """Seconds of a step whatever its images: each layer takes some time."""
        deep = self.device == "cpu" and (":" in network or network in MEMORY_BOUND)
        return DEVICE_MODELS[self.device].seconds_per_step + DEEP_STEP * deep

    def _work(self, spec: RunSpec, facts: DataSet) -> float:
        """Multiply-adds for a training image, its share of the evaluation included."""
        held_out = (facts.train_images or 0) * spec.recipe.holdout
        share_tested = ((facts.test_images or 0) + facts.val_images + held_out) / _trained(spec, facts)
        work = self._forward(spec.student, facts) * (1 + BACKWARD + share_tested)
        return work + self._teacher_forward(spec, facts)

    def _teacher_forward(self, spec: RunSpec, facts: DataSet) -> float:
        """Of its teacher, which may see the images at a size of its own; 0 without one."""
        if spec.teacher is None:
            return 0.0
        return self._forward(spec.teacher.network, replace(facts, size=_teacher_size(spec) or facts.size))

    def _forward(self, network: str, facts: DataSet) -> float:
        """Multiply-adds of one image, those of memory-bound networks counted as more."""
        slowness = MEMORY_BOUND.get(network, 1.0)
        if self.device == "cpu":
            slowness *= models.network(network).slowness
        # Those of ResNet18 where nothing is known of the network.
        known = models.multiply_adds(network, size=facts.size) or models.multiply_adds(
            "resnet18", size=facts.size
        )
        return (known or 0) * slowness


def _teacher_size(spec: RunSpec) -> int | None:
    """The pixels of the images that a teacher from a file sees, where they are not its student's."""
    teacher = spec.teacher
    return teacher.size or teacher.resize if isinstance(teacher, ForeignTeacher) else None


def _trained(spec: RunSpec, facts: DataSet) -> int:
    """The images of an epoch."""
    return max(1, round((facts.train_images or UNKNOWN_IMAGES) * (1 - spec.recipe.holdout)))


def command_seconds(sets: Iterable[ResolvedData]) -> float:
    """What a command takes besides its runs: libraries are loaded, data sets decoded, the report written."""
    undecoded = (each.facts for each in sets if not each.ready)
    decoding = sum(
        (facts.train_images + facts.val_images + facts.test_images)
        * next((seconds for kind, seconds in DECODING.items() if facts.name.startswith(kind)), UNPACKING)
        for facts in undecoded
    )
    return LOADING + decoding


def threads_speed_up(device: str, threads: int) -> float:
    """How many times as fast so many threads are as one; 1 where the device is no CPU."""
    return float(max(1, threads) ** THREADS_EXPONENT) if device == "cpu" else 1.0


def rate_key(spec: RunSpec) -> tuple[Any, ...]:
    """What makes two runs cost the same per image: networks, data set, precision, batch, teacher's images."""
    teacher = spec.teacher.network if spec.teacher is not None else None
    return (
        spec.dataset.partition("@")[0],
        spec.student,
        teacher,
        spec.recipe.precision,
        spec.recipe.batch_size,
        *(("shared",) if spec.teacher_by_epoch else ()),
        *((size,) if (size := _teacher_size(spec)) else ()),
    )


def measured_rates(
    results: Iterable[tuple[RunSpec, Mapping[str, Any]]], *, device: str, facts: Mapping[str, DataSet]
) -> Rates:
    """The medians of the finished runs on this kind of device, by `rate_key`.

    A teacher that is run by epoch is left out: how long that took depends on what was cached. So are runs
    whose record does not tell its time apart (those of several processes run it at each step).
    """
    seen: dict[tuple[Any, ...], list[Rate]] = {}
    for spec, result in results:
        numerics = result.get("numerics", {})
        here = str(numerics.get("device", "")).partition(":")[0] == device
        processes = int(numerics.get("processes") or 1)
        unknown = spec.teacher_by_epoch and ("teacher_seconds" not in result or processes > 1)
        if here and result.get("seconds") and not unknown:
            images = _trained(spec, facts_of(spec.dataset, facts))
            threads = int(numerics.get("threads") or 1)
            seconds = result["seconds"] - (result.get("teacher_seconds") or 0.0)
            rate = seconds / (images * spec.recipe.epochs) * threads_speed_up(device, threads)
            rate *= processes**PROCESSES_EXPONENT
            start = result.get("start_seconds") if result.get("attempts") == 1 else None
            seen.setdefault(rate_key(spec), []).append(Rate(rate, start))
    found = {}
    for key, rates in seen.items():
        starts = [rate.start_seconds for rate in rates if rate.start_seconds is not None]
        start = statistics.median(starts) if starts else None
        found[key] = Rate(statistics.median(rate.seconds_per_image for rate in rates), start)
    return found


def facts_of(name: str, known: Mapping[str, DataSet]) -> DataSet:
    """The facts of a resolved data set: as resolved, of the official one, or CIFAR-100's as a guess."""
    base = name.partition("@")[0]
    return known.get(name) or data.DATASETS.get(base) or data.DATASETS["cifar100"]


def disk_bytes(spec: RunSpec) -> int:
    """What a finished run takes on disk: its weights and snapshots in fp32."""
    weights = weights_bytes(spec.student) * (WEIGHT_FILES + len(spec.snapshots))
    return weights + RECORDS + 2 * EPOCH_LINE * spec.recipe.epochs


def weights_bytes(network: str) -> int:
    """The weights of a network in fp32; 40 MB where nothing is known of it."""
    return 4 * (models.parameters(network) or 10_000_000)


def logits_bytes(spec: RunSpec, facts: DataSet) -> int:
    """What the logits of its teacher take if they are cached: an fp16 number per class, image and epoch."""
    if spec.teacher is None:
        return 0
    return 2 * facts.classes * _trained(spec, facts) * spec.recipe.epochs
