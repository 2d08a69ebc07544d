"""Data-parallel runs from the command line: the numbers of one process, and what happens to lost ranks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from tfkd_cli import data
from tfkd_cli.execution import Execution
from tfkd_cli.store import RunFolder, Store
from tfkd_cli.training import checkpoints

PATIENCE = 280.0  # seconds until a test gives up; nothing here asserts a shorter time
METHODS = "baseline,kd,tf-self,tf-reg,lsr"
# Two epochs of twelve steps, the last of 29 images, which neither two nor four processes share out evenly.
# At this rate a change of 1e-7 in the weights changes no loss by more than 5e-7; at 0.1 by up to 3e-4.
STEPS = ["--epochs", "2", "--batch-size", "128", "--lr", "0.02", "--set", "recipe.warmup_epochs=0"]
T = TypeVar("T")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The decoded digits."""
    folder = tmp_path_factory.mktemp("data")
    data.prepare("digits", execution=Execution(cache=str(folder)))
    return str(folder)


@pytest.fixture(scope="module")
def tfkd(cache: str) -> Callable[..., subprocess.Popen[str]]:
    """Starts `tfkd run` on digits, on the processor, with the networks of this folder."""

    def start(results: Path, *arguments: str) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "tfkd_cli", "run", "--dataset", "digits", "--device", "cpu"]
        return subprocess.Popen(
            [*command, "--threads", "1", "--cache-dir", cache, "--results", str(results), *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code, and what it said."""
    said, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, said


def done(process: subprocess.Popen[str]) -> None:
    code, said = ended(process)
    assert code == 0, said


def folders(results: Path) -> dict[str, RunFolder]:
    """Method and student → its run."""
    store = Store.open(results, create=False)
    found = [store.folder(path.name) for path in sorted((results / "runs").iterdir())]
    return {f"{folder.spec().method} {folder.spec().student}": folder for folder in found}


def only(results: Path) -> RunFolder:
    [folder] = folders(results).values()
    return folder


def losses(folder: RunFolder) -> list[dict[str, float]]:
    """All losses and accuracies of each epoch."""
    kept = ("train_accuracy", "test_accuracy", "test_top5")
    return [{k: v for k, v in line.items() if "loss" in k or k in kept} for line in folder.metrics()]


def assert_alike(one: RunFolder, other: RunFolder) -> None:
    assert len(losses(one)) == 2
    for left, right in zip(losses(one), losses(other), strict=True):
        assert left == pytest.approx(right, rel=1e-5, abs=1e-8)  # a small divergence is a difference


def until(found: Callable[[], T | None]) -> T:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError("waited in vain")


def ranks_at_work(results: Path) -> list[int]:
    """The process ids of the ranks, once they have done an epoch."""

    def found() -> list[int] | None:
        logs = sorted(results.glob("runs/*/attempts/*/log"))
        if not logs or not any(results.glob("runs/*/attempts/*/metrics.jsonl")):
            return None
        text = logs[-1].read_text()
        return (
            [int(pid) for pid in re.findall(r"rank \d \(process (\d+)", text)] if "epoch 1" in text else None
        )

    return until(found)


@pytest.fixture(scope="module")
def alone(tfkd: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The methods in one process each."""
    results: Path = tmp_path_factory.mktemp("alone")
    network = ["--student", "python:rank_networks:plain", "--teacher", "python:rank_networks:plain"]
    done(tfkd(results, *network, "--method", METHODS, *STEPS))
    return results


@pytest.mark.parametrize("processes", ["2", "4"])
def test_several_processes_train_to_the_losses_of_one(
    tfkd: Any, alone: Path, tmp_path: Path, processes: str
) -> None:
    network = ["--student", "python:rank_networks:plain", "--teacher", "python:rank_networks:plain"]
    done(tfkd(tmp_path, *network, "--method", METHODS, *STEPS, "--gpus", processes))
    expected = folders(alone)
    found = folders(tmp_path)
    assert found.keys() == expected.keys()
    for name, folder in found.items():
        result = folder.result()
        assert result is not None
        assert result["numerics"]["processes"] == int(processes)
        assert_alike(folder, expected[name])
        weights, reference = (
            checkpoints.read_weights(each.weights("last.pt")) for each in (folder, expected[name])
        )
        assert weights.keys() == reference.keys()
        assert all(torch.allclose(weights[key], reference[key], atol=1e-5) for key in weights)


def test_synchronised_batch_norm_gives_the_losses_of_one_process(tfkd: Any, tmp_path: Path) -> None:
    arguments = ["--student", "resnet8", "--method", "baseline", *STEPS, "--lr", "0.002"]
    done(tfkd(tmp_path / "one", *arguments))
    done(tfkd(tmp_path / "two", *arguments, "--gpus", "2", "--sync-batch-norm"))
    result = only(tmp_path / "two").result()
    assert result is not None
    assert result["numerics"]["sync_batch_norm"] is True
    assert_alike(only(tmp_path / "two"), only(tmp_path / "one"))


def test_without_it_batch_norm_is_that_of_each_rank_and_the_checkpoint_is_rank_0s(
    tfkd: Any, tmp_path: Path
) -> None:
    done(tfkd(tmp_path, "--student", "resnet8", "--method", "baseline", *STEPS, "--gpus", "2"))
    result = only(tmp_path).result()
    assert result is not None
    assert (result["numerics"]["processes"], "sync_batch_norm" in result["numerics"]) == (2, False)
    weights = checkpoints.read_weights(only(tmp_path).weights("best.pt"))
    assert not any(name.startswith("module.") for name in weights)


@pytest.mark.parametrize(("first", "then"), [("2", "1"), ("1", "2")])
def test_a_run_goes_on_in_another_number_of_processes(
    tfkd: Any, alone: Path, tmp_path: Path, first: str, then: str
) -> None:
    arguments = ["--student", "python:rank_networks:slow", "--method", "baseline", *STEPS]
    running = tfkd(tmp_path, *arguments, "--gpus", first)
    until(lambda: any(tmp_path.glob("runs/*/attempts/*/metrics.jsonl")) and len(only(tmp_path).metrics()))
    running.send_signal(signal.SIGINT)
    code, said = ended(running)
    assert code == 130, said
    done(tfkd(tmp_path, *arguments, "--gpus", then))
    log = (only(tmp_path).attempts()[-1] / "log").read_text()
    assert "continuing in epoch" in log
    assert "'processes': 2" in log
    assert_alike(only(tmp_path), folders(alone)["baseline python:rank_networks:plain"])
    result = only(tmp_path).result()
    assert result is not None
    assert result["numerics"]["mixed"] is True


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_run_which_says_so_and_can_go_on(
    tfkd: Any, tmp_path: Path, rank: int
) -> None:
    arguments = ["--student", "python:rank_networks:slow", "--method", "baseline", *STEPS, "--gpus", "2"]
    running = tfkd(tmp_path, *arguments)
    os.kill(ranks_at_work(tmp_path)[rank], signal.SIGKILL)
    code, said = ended(running)
    assert code == 1
    assert f"rank {rank} was killed by SIGKILL" in said
    if rank == 1:
        assert "rank 1 (process" in (only(tmp_path).attempts()[-1] / "log").read_text()
    done(tfkd(tmp_path, *arguments))


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.drill), 1])
def test_a_rank_that_is_stopped_ends_the_run_and_is_not_left_behind(
    tfkd: Any, tmp_path: Path, rank: int
) -> None:
    arguments = ["--student", "python:rank_networks:slow", "--method", "baseline", *STEPS, "--gpus", "2"]
    running = tfkd(tmp_path, *arguments)
    stopped = ranks_at_work(tmp_path)[rank]
    os.kill(stopped, signal.SIGSTOP)
    code, said = ended(running)
    assert code == 1
    assert f"rank {rank}" in said
    assert "not answer" in said
    until(lambda: not Path(f"/proc/{stopped}").exists() or "Z" in Path(f"/proc/{stopped}/stat").read_text())


def test_the_error_of_a_rank_is_the_error_of_the_run(tfkd: Any, tmp_path: Path) -> None:
    arguments = ["--student", "python:rank_networks:failing", "--method", "baseline", *STEPS, "--gpus", "2"]
    code, said = ended(tfkd(tmp_path, *arguments))
    assert code == 1
    assert "rank 1 of 2 failed: ValueError: the test's own failure" in said
    log = (only(tmp_path).attempts()[-1] / "log").read_text()
    assert "rank_networks.py" in log  # the traceback of that rank


@pytest.mark.parametrize("rank", [0, 1])
def test_a_warning_to_any_rank_saves_once_and_stops_all(tfkd: Any, tmp_path: Path, rank: int) -> None:
    arguments = ["--student", "python:rank_networks:slow", "--method", "baseline", *STEPS, "--gpus", "2"]
    running = tfkd(tmp_path, *arguments)
    os.kill(ranks_at_work(tmp_path)[rank], signal.SIGUSR2)
    done(running)  # the pool starts the run again
    logs = [(attempt / "log").read_text() for attempt in only(tmp_path).attempts()]
    assert len(logs) == 2
    assert "stopped: USR2" in logs[0]
    assert "continuing in epoch" in logs[1]


def test_a_plan_counts_the_hours_of_every_process(tfkd: Any, tmp_path: Path) -> None:
    arguments = ["--student", "resnet8", "--method", "baseline", *STEPS, "--dry-run", "--json"]
    one, four = (json.loads(ended(tfkd(tmp_path, *arguments, *more))[1]) for more in ((), ("--gpus", "4")))
    assert four["gpu_hours"] == pytest.approx(one["gpu_hours"] * 4**0.05, rel=0.05, abs=2e-4)
