"""`python -m benchmarks.gpu --minutes 10`: all that needs a GPU, in one run and one JSON file.

In this order, each part until its share of the time is over: the tests marked `cuda`; four networks in bf16,
TF32, fp32 and compiled, with the host's time per step and the share of a step that its input takes; several
runs at once on the GPU; every workload of the speed benchmark beside the conventional loop on the same GPU;
and, in the minutes that are left, paper-scale runs, cheapest first (`--data-dir` names the official files).
The file is written after every measurement, so that one that is stopped leaves what it has.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from operator import truediv
from pathlib import Path
from statistics import median
from subprocess import PIPE
from typing import Any

import torch

from benchmarks import conventional
from benchmarks.arguments import count, file_to_write
from benchmarks.workloads import BATCH, LR, WORKLOADS, Workload
from tfkd_cli import data
from tfkd_cli.data import Arrays
from tfkd_cli.spec import Recipe, RunSpec
from tfkd_cli.training import precision, timing
from tfkd_cli.training.epoch_data import EpochData
from tfkd_cli.training.parts import part_of
from tfkd_cli.training.trainer import Epoch, Training

NETWORKS = ("plain-cnn", "resnet18", "mobilenetv2", "shufflenetv2")
ARITHMETIC = ("bf16", "tf32", "fp32", "bf16 compiled")
AT_ONCE = (1, 2, 4, 8)
IMAGES = 50_000
BLOCK_SECONDS = 3.0
WARM_UP_STEPS = 3  # of the conventional loop
SEVERAL_SECONDS = 5.0
GRAPHED_EPOCHS = 20  # long enough for a CUDA graph to pay, at 50,000 images
COMPILED_EPOCHS = 200  # and for torch.compile
# The share of the time after which each part ends.
ENDS = {"cuda_tests": 0.3, "networks": 0.5, "several": 0.65, "workloads": 0.85, "cells": 1.0}
ROOT = Path(__file__).parent.parent

Found = Iterator[tuple[str, Any]]
"""The measurements of a part, one after the other, each with its name."""

BARS = {  # set before the first measurement, for an H100 or H200; images per second
    "resnet18 in bf16": 20_000,
    "resnet18 in tf32": 8_000,
    "plain-cnn in bf16, 4 runs at once": 100_000,
    "every workload, tfkd ÷ conventional": 3,
    "host seconds per step": 0.0003,
    "input's share of a step": 0.05,
}

CELLS = (  # of Tables 2, 5 and 9, cheapest first
    ("plain-cnn", "baseline", "cifar10"),
    ("mobilenetv2", "baseline,lsr,tf-reg,tf-self", "cifar100"),
    ("shufflenetv2", "baseline,lsr,tf-reg,tf-self", "cifar100"),
    ("resnet18", "baseline,lsr,tf-reg,tf-self", "cifar100"),
)


class Rate:
    """One network in training on a device: its images per second, and what a step costs beside kernels."""

    def __init__(self, spec: RunSpec, arrays: Arrays, *, device: torch.device, tf32: bool) -> None:
        self._device, self._batch = device, spec.recipe.batch_size
        precision.configure(device, tf32=tf32)
        self._marks: list[float] = []
        self._arrays, self._spec = arrays, spec
        self._training = Training(
            spec,
            data=arrays,
            device=device,
            teacher=timing.random_teacher(spec, arrays.facts, device) if spec.teacher else None,
            at_step=lambda: self._marks.append(time.perf_counter()),
        )
        started = time.perf_counter()
        self._epoch()  # the first one chooses kernels, compiles and records
        self.first_epoch_seconds = time.perf_counter() - started

    def _epoch(self) -> Epoch:
        if self._training.epoch > self._training.spec.recipe.epochs:
            self._training.epoch = 2  # a fast GPU does more epochs in a block than the run has
        return next(self._training.epochs())

    def block(self, seconds: float | None = None) -> float:
        """Images per second over at least so long: the median over whole epochs, without evaluation."""
        rates: list[float] = []
        ends = time.perf_counter() + (BLOCK_SECONDS if seconds is None else seconds)
        while not rates or time.perf_counter() < ends:
            self._marks.clear()
            rates.append(self._epoch().images_per_second)
        return median(rates)

    def host_seconds(self) -> float:
        """The host's time per step while the GPU's queue is short: the first steps after an epoch began."""
        first = self._marks[1:9]
        return median(b - a for a, b in itertools.pairwise(first)) if len(first) > 1 else 0.0

    def input_share(self, images_per_second: float) -> float:
        """The share of a step that preparing its images takes, in training at this rate."""
        train = part_of(self._arrays.train_images_NCHW, self._arrays.train_labels_N, self._device)
        epoch_data = EpochData(train, self._arrays.facts, self._spec.recipe, seed=0)
        seconds = []
        for epoch in (1, 2):
            synchronize(self._device)
            started = time.perf_counter()
            for _ in epoch_data.batches(epoch):
                pass
            synchronize(self._device)
            seconds.append(time.perf_counter() - started)
        return min(seconds) * images_per_second / len(train.labels_N)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def use_torch_defaults() -> None:
    """torch's own numerics, for the conventional loop."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = True, False


def conventional_rate(workload: Workload, arrays: Arrays, *, device: torch.device, workers: int) -> float:
    """Images per second of the conventional loop on the same device, its first steps left out."""
    use_torch_defaults()
    network = conventional.build(workload.student, arrays.facts).to(device)
    teacher = None
    if workload.teacher:
        teacher = conventional.build(workload.teacher, arrays.facts).eval().to(device)
    batches = conventional.loader(
        conventional.train_set(arrays), batch_size=BATCH, workers=workers, train=True
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=5e-4)
    loss = workload.spec(dataset="any", fast=False).loss
    epochs = iter(
        lambda: conventional.train(network, batches, optimizer, loss=loss, teacher=teacher, device=device),
        None,
    )
    steps = itertools.chain.from_iterable(epochs)
    for _ in itertools.islice(steps, WARM_UP_STEPS):
        pass
    started, done = time.perf_counter(), 0
    for _ in steps:
        done += 1
        if time.perf_counter() - started > BLOCK_SECONDS:
            break
    return done * BATCH / (time.perf_counter() - started)


def spec_of(network: str, arithmetic: str) -> RunSpec:
    """A baseline of the paper's CIFAR recipe in this arithmetic."""
    epochs = COMPILED_EPOCHS if "compiled" in arithmetic else GRAPHED_EPOCHS
    recipe = Recipe(epochs=epochs, batch_size=BATCH, lr=LR, milestones=())
    if arithmetic.startswith("bf16"):
        recipe = replace(recipe, precision="bf16")
    return RunSpec(dataset="cifar10", student=network, recipe=recipe)


def networks(options: argparse.Namespace, arrays: Arrays) -> Found:
    """Each network alone, in each arithmetic."""
    on_gpu = options.device.type == "cuda"
    for arithmetic, network in itertools.product(ARITHMETIC, options.network):
        if not on_gpu and arithmetic in ("tf32", "bf16 compiled"):
            continue
        spec, tf32 = spec_of(network, arithmetic), arithmetic == "tf32"
        rate = Rate(spec, arrays, device=options.device, tf32=tf32)
        with utilization(options.device) as used:
            images_per_second = rate.block()
        yield (
            f"{network} in {arithmetic}",
            {
                "images_per_second": round(images_per_second),
                "first_epoch_seconds": round(rate.first_epoch_seconds, 2),
                "host_seconds_per_step": rate.host_seconds(),
                "input_share": round(rate.input_share(images_per_second), 4),
                "gpu_utilization": used(),
            },
        )


def workloads(options: argparse.Namespace, arrays: Arrays) -> Found:
    """Every workload of the speed benchmark: conventional, fast and fp32, two alternating rounds."""
    for name in options.workload:
        workload = WORKLOADS[name]
        sides = {
            side: Rate(_timed_spec(workload, fast=side == "fast"), arrays, device=options.device, tf32=True)
            for side in ("fast", "fp32")
        }
        rates: dict[str, list[float]] = {"conventional": [], "fast": [], "fp32": []}
        for _ in range(2):
            rates["conventional"].append(
                conventional_rate(workload, arrays, device=options.device, workers=options.workers)
            )
            for side, rate in sides.items():
                precision.configure(options.device, tf32=True)
                rates[side].append(rate.block())
        yield (
            name,
            {
                "images_per_second": {side: list(map(round, values)) for side, values in rates.items()},
                "ratio": round(median(map(truediv, rates["fast"], rates["conventional"])), 2),
            },
        )


def _timed_spec(workload: Workload, *, fast: bool) -> RunSpec:
    """The workload's run with its teacher run at each step, of graph length."""
    spec = workload.spec(dataset="cifar10", fast=fast)
    return replace(spec, recipe=replace(spec.recipe, epochs=GRAPHED_EPOCHS, augment_stream="seed"))


def several(options: argparse.Namespace) -> Found:
    """The sum of the images per second of 1, 2, 4 and 8 processes that train at the same time."""
    for network, number in itertools.product(options.network[:2], options.at_once):
        command = [
            *(sys.executable, "-m", "benchmarks.gpu", "--one", network),
            *("--device", str(options.device), "--images", str(options.images)),
        ]
        with contextlib.ExitStack() as stack:
            processes = [
                stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True))
                for _ in range(number)
            ]
            rates = _measured_together(processes)
        yield f"{network}, {number} at once", round(sum(rates))


def _measured_together(processes: list[subprocess.Popen[str]]) -> list[float]:
    """What processes print that measure from the moment on at which all of them are ready (`one`)."""
    for process in processes:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise RuntimeError("a process that should train beside others ended early")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [float(process.communicate()[0]) for process in processes]


def one(options: argparse.Namespace, arrays: Arrays) -> None:
    """Get ready, wait for the word, measure and print images per second."""
    on_gpu = options.device.type == "cuda"
    rate = Rate(spec_of(options.one, "bf16"), arrays, device=options.device, tf32=True)
    print("ready", flush=True)
    sys.stdin.readline()
    print(rate.block(SEVERAL_SECONDS if on_gpu else 0.0))


@contextlib.contextmanager
def utilization(device: torch.device) -> Iterator[Callable[[], float | None]]:
    """Gives the mean GPU utilisation in percent while the block ran; None where nvidia-smi does not say."""
    values: list[float] = []
    if device.type != "cuda":
        yield lambda: None
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200"]
    command = [*query, "-i", str(device.index or 0)]
    with subprocess.Popen(command, stdout=PIPE, text=True) as process:
        try:
            yield lambda: round(sum(values) / len(values), 1) if values else None
        finally:  # it would never end by itself
            process.terminate()
            output = process.communicate()[0]
            values += [float(line) for line in output.split() if line.replace(".", "").isdigit()]


def cuda_tests(options: argparse.Namespace) -> Found:
    """The tests marked `cuda`."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-n", "4", "-rfE", "tests/training"]
    limit = 60 * options.minutes * ENDS["cuda_tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
    yield "pytest", {"exit_code": done.returncode, "output": done.stdout[-3000:]}


def cells(options: argparse.Namespace, *, until: float) -> Found:
    """Paper-scale runs with one seed, cheapest first, until the time is over; their records, packed."""
    results = options.json.absolute().with_suffix(".results")
    for student, methods, dataset in CELLS:
        left = until - time.monotonic()
        if left < 30:
            break
        command = [
            *(sys.executable, "-m", "tfkd_cli", "run", "--student", student, "--method", methods),
            *("--dataset", dataset, "--data-dir", str(options.data_dir), "--jobs", "4", "--yes"),
            *("--results", str(results), "--cache-dir", str(results.with_suffix(".cache"))),
        ]
        with subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr) as process:
            try:
                process.wait(timeout=left)
            except subprocess.TimeoutExpired:
                process.send_signal(2)  # as Ctrl-C: the runs save their state
                process.wait()
        yield f"{student} {methods}, exit code", process.returncode
    packed = options.json.absolute().with_suffix(".records.tar.gz")
    pack = [sys.executable, "-m", "tfkd_cli", "pack", "--results", str(results), "--out", str(packed)]
    subprocess.run(pack, cwd=ROOT, check=False, stdout=sys.stderr)
    yield "records", packed.name


def machine(device: torch.device) -> dict[str, Any]:
    """What was measured on."""
    found: dict[str, Any] = {"torch": str(torch.__version__), "device": str(device)}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "name": properties.name,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "capability": list(torch.cuda.get_device_capability(device)),
            "cuda": torch.version.cuda,
        }
    return found


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options; argparse ends with code 2 where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", type=file_to_write, default=Path("gpu.json"))
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=os.environ.get("TFKD_DATA"),
        help="official CIFAR files (default: TFKD_DATA); without them no paper-scale run",
    )
    parser.add_argument("--images", type=count, default=IMAGES, help="random training images")
    parser.add_argument("--workers", type=int, default=8, help="of the conventional loop's DataLoader")
    parser.add_argument("--workload", action="append", choices=WORKLOADS, metavar="NAME")
    parser.add_argument("--network", action="append", choices=NETWORKS, metavar="NAME")
    parser.add_argument("--at-once", action="append", type=count, metavar="N")
    parser.add_argument("--no-tests", action="store_true")
    parser.add_argument("--one", choices=NETWORKS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.workload = options.workload or list(WORKLOADS)
    options.network = options.network or list(NETWORKS)
    options.at_once = options.at_once or list(AT_ONCE)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write after each measurement; 1 where the cuda tests ran and did not pass, else 0."""
    started = time.monotonic()
    options = parse(arguments)
    arrays = timing.random_arrays(data.dataset("cifar10"), options.images)
    if options.one:
        one(options, arrays)
        return 0
    seconds = 60 * options.minutes
    parts = {"networks": networks(options, arrays), "several": several(options)}
    parts["workloads"] = workloads(options, arrays)
    if not options.no_tests:
        parts = {"cuda_tests": cuda_tests(options), **parts}
    if options.data_dir:
        parts["cells"] = cells(options, until=started + seconds - 20)
    found: dict[str, Any] = {"machine": machine(options.device), "bars": BARS}
    for name, part in parts.items():
        print(f"{time.monotonic() - started:5.0f} s  {name}", file=sys.stderr)
        found[name] = {}
        until = started + seconds * (1.0 if name == "cells" else ENDS[name])
        for _ in measured(part, into=found[name], until=until):
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    return int(not options.no_tests and found["cuda_tests"].get("pytest", {}).get("exit_code") != 0)


def measured(part: Found, *, into: dict[str, Any], until: float) -> Iterator[None]:
    """Take in the measurements of a part until its time is over; yields after each."""
    try:
        while time.monotonic() < until:
            measurement = next(part, None)
            if measurement is None:
                return
            into[measurement[0]] = measurement[1]
            yield
        into["stopped"] = "its share of the time was over"
    except Exception as error:  # the other parts are worth having
        into["failed"] = f"{type(error).__name__}: {error}"[:2000]
    yield


if __name__ == "__main__":
    sys.exit(main())
