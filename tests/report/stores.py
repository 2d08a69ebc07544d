"""Stores filled through the public Store API with made-up, deterministic results; no training."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.execution import Execution
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.overrides import Overrides
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import RunFolder, Store

__all__ = ["Overrides"]
COMMIT = "5f2a9c01d3e4b5a6978877665544332211009988"
VERSIONS = {"python": "3.11.9", "tfkd": "0.1.0", "torch": "2.14.1"}
GAIN = {"baseline": 0.0, "lsr": 0.6, "kd": 1.4, "de-kd": 0.8, "tf-self": 1.2, "tf-reg": 0.9, "scaled-ce": 0.1}


def campaign(root: Path, names: Sequence[str], **manner: Any) -> Campaign:
    """A campaign of the paper's tables over a new or old store at `root`, its request kept there."""
    execution = Execution(cache=str(root / "cache"))
    asked = requests.for_names(names, Request(**{"seeds": (0, 1, 2), **manner}), execution=execution)
    command = "tfkd reproduce " + " ".join(names)
    made = Campaign(asked, Store.open(root, create=True), execution, commands=(command,))
    made.record(command)
    return made


def grid(root: Path, *, seeds: Iterable[int], **axes: Any) -> Campaign:
    """A campaign of `tfkd run` over a store at `root`."""
    execution = Execution(cache=str(root / "cache"))
    made_axes = requests.axes_of(**axes)
    asked = requests.for_axes(made_axes, Request(seeds=tuple(seeds)), execution=execution)
    made = Campaign(asked, Store.open(root, create=True), execution)
    made.record("tfkd run")
    return made


def wanted(made: Campaign) -> list[RunSpec]:
    """Its runs, teachers first, each once."""
    return [item.spec for item in made.plan({}).runs.values()]


@contextlib.contextmanager
def in_memory() -> Iterator[None]:
    """Nothing is forced to the disk: what a crash would leave is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


def finish_all(made: Campaign, *, skip: Sequence[int] = ()) -> list[RunSpec]:
    """Finish all runs but those at these places; the finished ones."""
    done = [spec for index, spec in enumerate(wanted(made)) if index not in skip]
    with in_memory():
        for spec in done:
            finish(made.store, spec)
    return done


def finish(store: Store, spec: RunSpec, **changes: Any) -> RunFolder:
    """A finished run; `changes` go into its result."""
    folder = store.run(spec)
    folder.declare(spec)
    attempt = folder.start_attempt(owner={})
    attempt.log_path.write_text(f"2026-11-22 09:00:00 INFO attempt 1 of {spec.folder}\n")
    lines = metrics(spec)
    attempt.publish(metrics=lines, weights={}, result={**result(spec, lines), **changes})
    return folder


def level_of(spec: RunSpec) -> float:
    """What accuracy a network comes to here, in percent."""
    chance = random.Random(spec.student + spec.dataset)
    return 66 + 12 * chance.random() + GAIN[spec.method]


def metrics(spec: RunSpec, *, seconds: float = 9.0) -> list[dict[str, Any]]:
    """A plausible metrics file; the same spec gives the same numbers."""
    chance = random.Random(spec.key)
    level, epochs = level_of(spec) + chance.gauss(0, 0.25), spec.recipe.epochs
    lines = []
    for epoch in range(1, epochs + 1):
        dropped = sum(epoch > each for each in spec.recipe.milestones) / max(1, len(spec.recipe.milestones))
        reached = level * (1 - 0.35 * (1 - dropped) - 0.4 * 0.8**epoch)
        accuracy = round(min(99.9, max(1.0, reached + chance.gauss(0, 0.3))), 2)
        lines.append(
            {
                "epoch": epoch,
                "attempt": 1,
                "lr": spec.recipe.peak_lr * 0.2 ** (3 * dropped),
                "train_loss": 2.0 / epoch + chance.random() / 100,
                "train_accuracy": min(99.99, accuracy + 4 * dropped),
                "test_loss": 1.5 - accuracy / 100,
                "test_accuracy": accuracy,
                "test_top5": min(100.0, accuracy + 12),
                "loss_ce": 1.9 / epoch,
                "loss_kl": 0.3 / epoch if spec.teacher else None,
                "seconds": seconds * (0.95 + 0.1 * chance.random()),
                "images_per_second": 5000 + chance.random(),
            }
        )
    return lines


def result(spec: RunSpec, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The result that goes with these lines."""
    best = max(lines, key=lambda line: (line["test_accuracy"], -line["epoch"]))
    last = lines[-1]
    return {
        "key": spec.key,
        "best": {"epoch": best["epoch"], "accuracy": best["test_accuracy"]},
        "last": {
            "epoch": last["epoch"],
            "accuracy": last["test_accuracy"],
            "loss": last["test_loss"],
            "top5": last["test_top5"],
        },
        "epochs": spec.recipe.epochs,
        "seconds": sum(line["seconds"] for line in lines),
        "attempts": 1,
        "numerics": {
            "device": "cuda",
            "device_name": "NVIDIA A100",
            "threads": 4,
            "torch": "2.14.1",
            "mixed": False,
        },
        "hardware": "NVIDIA A100",
        "commit": COMMIT,
        "diff": "",
        "versions": VERSIONS,
        "finished_at": "2026-11-22T09:30:00+00:00",
    }


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder and its digest."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
