"""Data-parallel runs: the numbers of one process, and what happens when a rank is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest
import torch

from tests.planning import planned
from tfkd_cli import data
from tfkd_cli.__main__ import main
from tfkd_cli.backends import Event, Outcome
from tfkd_cli.backends.local import run_local
from tfkd_cli.backends.slots import slots
from tfkd_cli.commands.readiness import check_device
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.spec import Recipe, RunSpec
from tfkd_cli.store import RunFolder, Store
from tfkd_cli.training import checkpoints

if TYPE_CHECKING:
    from tests.conftest import TinyData

PATIENCE = 280.0  # seconds until a test gives up; nothing here asserts a shorter time

# Two epochs of twelve steps, the last of 29 images, which neither two nor four processes share out evenly.
# At this rate a change of 1e-7 in the weights changes no loss by more than 5e-7; at 0.1 by up to 3e-4.
RECIPE = Recipe(epochs=2, batch_size=128, lr=0.02, milestones=(), warmup_epochs=0, augment="none")
PLAIN = RunSpec(dataset="digits", student="python:rank_networks:plain", recipe=RECIPE)
LONG = replace(PLAIN, recipe=replace(RECIPE, epochs=4))
SLOW = {"STEP_SECONDS": "0.3"}  # enough time to disturb a `LONG` run


@pytest.fixture(scope="module")
def execution(tmp_path_factory: pytest.TempPathFactory) -> Execution:
    """The decoded digits."""
    made = Execution(cache=str(tmp_path_factory.mktemp("data")), device="cpu", threads=1)
    data.prepare("digits", execution=made)
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "results", create=True)


@pytest.fixture
def train(execution: Execution, store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`train(spec, processes=2)` does a run in the pool; `then` is called once it has done an epoch.

    `more`: environment variables of its processes.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def do(
        spec: RunSpec,
        *,
        processes: int,
        then: Callable[[], None] = lambda: None,
        to: Store = store,
        sync_batch_norm: bool = False,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> Outcome:
        left = [then]

        def on_event(event: Event) -> None:
            if event.kind == "progress" and event.epoch and left:
                left.pop()()

        asked = replace(execution, processes=processes, sync_batch_norm=sync_batch_norm)
        chosen = slots([spec], execution=asked, jobs=1)
        environments = tuple(tuple({**each, **more} for each in run) for run in chosen.environments)
        chosen = replace(chosen, environments=environments)
        return run_local(planned([spec], to), store=to, execution=asked, slots=chosen, on_event=on_event)

    return do


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def log_of(folder: RunFolder, attempt: int = -1) -> str:
    return (folder.attempts()[attempt] / "log").read_text()


def process_of(folder: RunFolder, rank: int) -> int:
    found = re.search(rf"rank {rank} \(process (\d+)", log_of(folder))
    assert found is not None
    return int(found[1])


def assert_alike(one: RunFolder, other: RunFolder, *, images: int = 360) -> None:
    """The losses of all epochs are; of so many images, one may be right here and, by a hair, wrong there."""
    assert len(one.metrics()) >= 2
    for left, right in zip(one.metrics(), other.metrics(), strict=True):
        for name in (name for name in left if "loss" in name):  # a small divergence is a difference
            assert left[name] == pytest.approx(right[name], rel=1e-5, abs=1e-8), name
        for name in ("train_accuracy", "test_accuracy", "test_top5"):
            assert left[name] == pytest.approx(right[name], abs=101 / images), name


def test_two_and_four_processes_train_to_the_losses_of_one(execution: Execution, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tfkd_cli", "run", "--dataset", "digits", "--device", "cpu"]
    command += [
        "--threads",
        "1",
        "--cache-dir",
        execution.cache,
        "--method",
        "baseline,kd,tf-self,tf-reg,lsr",
    ]
    command += ["--epochs", "2", "--batch-size", "128", "--lr", "0.02", "--set", "recipe.warmup_epochs=0"]
    command += ["--student", PLAIN.student, "--teacher", PLAIN.student]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    found: list[list[RunFolder]] = []
    for processes in (1, 2, 4):
        results = tmp_path / str(processes)
        done = subprocess.run(
            [*command, "--gpus", str(processes), "--results", str(results)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        opened = Store.open(results, create=False)
        found.append([opened.folder(path.name) for path in sorted((results / "runs").iterdir())])
        assert len(found[-1]) == 5
        for folder, one in zip(found[-1], found[0], strict=True):
            result = folder.result() or {}
            assert result["numerics"].get("processes", 1) == processes
            assert_alike(folder, one)
            weights, expected = (checkpoints.read_weights(each.weights("last.pt")) for each in (folder, one))
            assert weights.keys() == expected.keys()  # of the plain network
            assert all(torch.allclose(weights[name], expected[name], atol=1e-5) for name in weights)


def test_batch_norm_is_each_ranks_own_or_synchronised_that_of_one_process(
    train: Callable[..., Outcome], tmp_path: Path
) -> None:
    spec = replace(PLAIN, student="python:rank_networks:normed", recipe=replace(RECIPE, lr=0.002))
    one, own, synchronised = (
        Store.open(tmp_path / name, create=True) for name in ("one", "own", "synchronised")
    )
    train(spec, processes=1, to=one)
    train(spec, processes=2, to=own)
    train(spec, processes=2, to=synchronised, sync_batch_norm=True)
    assert_alike(synchronised.run(spec), one.run(spec))
    with pytest.raises(AssertionError):
        assert_alike(own.run(spec), one.run(spec))
    numerics = [(each.run(spec).result() or {})["numerics"] for each in (one, own, synchronised)]
    assert [each.get("processes", 1) for each in numerics] == [1, 2, 2]
    assert [each.get("sync_batch_norm", False) for each in numerics] == [False, False, True]
    for each in (own, synchronised):
        saved = torch.load(each.run(spec).weights("student.pt"), weights_only=True)["weights"]
        assert saved.keys() == checkpoints.read_weights(one.run(spec).weights("last.pt")).keys()


def test_each_process_decodes_its_own_part_of_the_images(tiny_data: TinyData, tmp_path: Path) -> None:
    [source] = Path(tiny_data.execution.cache).parent.glob("tiny[0-9]")
    streamed = replace(tiny_data.execution, cache=str(tmp_path / "cache"), memory_gb=0.0, data_workers=1)
    name = data.prepare(f"folder:{source}", execution=streamed).name
    spec = RunSpec(dataset=name, student="resnet8", recipe=replace(RECIPE, batch_size=6, lr=0.0002))
    done = []
    for processes in (1, 2):
        execution = replace(streamed, processes=processes, sync_batch_norm=True)
        to = Store.open(tmp_path / str(processes), create=True)
        chosen = slots([spec], execution=execution, jobs=1)
        outcome = run_local(
            planned([spec], to), store=to, execution=execution, slots=chosen, on_event=lambda event: None
        )
        assert outcome.done == [spec.folder], outcome
        done.append(to.run(spec))
    assert_alike(*done, images=4)


@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2)])
def test_a_run_goes_on_in_another_number_of_processes(
    train: Callable[..., Outcome], store: Store, tmp_path: Path, first: int, second: int
) -> None:
    assert train(LONG, processes=first, then=interrupt, more=SLOW).interrupted
    assert train(LONG, processes=second).done == [LONG.folder]
    log = log_of(store.run(LONG))
    assert "continuing in epoch" in log
    assert "the saved states were made with" in log
    assert "'processes': 2" in log
    result = store.run(LONG).result() or {}
    assert (result["numerics"].get("processes", 1), result["numerics"]["mixed"]) == (second, True)
    undisturbed = Store.open(tmp_path / "undisturbed", create=True)
    train(LONG, processes=1, to=undisturbed)
    assert_alike(store.run(LONG), undisturbed.run(LONG))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_run_which_says_so_and_can_go_on(
    train: Callable[..., Outcome], store: Store, rank: int
) -> None:
    folder = store.run(LONG)
    outcome = train(
        LONG, processes=2, then=lambda: os.kill(process_of(folder, rank), signal.SIGKILL), more=SLOW
    )
    assert f"rank {rank} was killed by SIGKILL" in outcome.reasons[LONG.folder]
    assert len(folder.attempts()) == 1
    if rank:  # rank 0 has written it down
        assert "rank 1 (process" in (folder.failure() or {})["message"]
    assert train(LONG, processes=2).done == [LONG.folder]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.drill), 1])
def test_a_rank_that_is_stopped_ends_the_run_within_a_minute_and_is_not_left_behind(
    train: Callable[..., Outcome], store: Store, rank: int
) -> None:
    folder, stopped = store.run(LONG), 0

    def stop() -> None:
        nonlocal stopped
        stopped = process_of(folder, rank)
        os.kill(stopped, signal.SIGSTOP)

    began = time.monotonic()
    outcome = train(LONG, processes=2, then=stop, more={**SLOW, "SILENT_BEATS": "3"})
    assert time.monotonic() - began < PATIENCE
    reason = outcome.reasons[LONG.folder]
    assert f"rank {rank}" in reason
    assert "not answer" in reason
    assert not Path(f"/proc/{stopped}").exists() or " Z " in Path(f"/proc/{stopped}/stat").read_text()


def test_the_error_of_a_rank_is_the_error_of_the_run(train: Callable[..., Outcome], store: Store) -> None:
    spec = replace(PLAIN, student="python:rank_networks:failing")
    outcome = train(spec, processes=2)
    assert "rank 1 of 2 failed: ValueError: the test's own failure" in outcome.reasons[spec.folder]
    assert "rank_networks.py" in log_of(store.run(spec))  # the traceback of that rank


@pytest.mark.parametrize("rank", [0, 1])
def test_a_warning_to_any_rank_saves_once_and_stops_all(
    train: Callable[..., Outcome], store: Store, rank: int
) -> None:
    folder = store.run(LONG)
    outcome = train(
        LONG, processes=2, then=lambda: os.kill(process_of(folder, rank), signal.SIGUSR2), more=SLOW
    )
    assert outcome.done == [LONG.folder]  # the pool has started it again
    assert len(folder.attempts()) == 2
    assert "stopped: USR2" in log_of(folder, 0)
    assert "continuing in epoch" in log_of(folder, 1)


def test_a_command_that_torchrun_has_started_several_times_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="has started this command 2 times") as error:
        check_device("cpu")
    assert "--gpus 2" in error.value.hint


@pytest.mark.parametrize(
    "command",
    [
        ("plan", "table1"),
        ("compare", "--dataset", "digits", "--student", "plain-cnn", "--epochs", "2", "--dry-run"),
    ],
)
def test_a_plan_counts_the_hours_of_every_process(
    command: tuple[str, ...], execution: Execution, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--json", "--device", "cpu", "--threads", "1", "--results", str(tmp_path)]
    found = []
    for more in ([], ["--gpus", "4"]):
        assert main([*command, *options, "--cache-dir", execution.cache, *more]) == 0
        found.append(json.loads(capfd.readouterr().out))
    one, four = found
    if command[0] == "plan":  # the runs of the other are so short that their starts count
        assert four["gpu_hours"] == pytest.approx(one["gpu_hours"] * 4**0.05, rel=1e-3)
        assert four["critical_path_hours"] == pytest.approx(one["critical_path_hours"] / 4**0.95, rel=1e-3)
    assert four["gpu_hours"] > one["gpu_hours"]
    assert four["critical_path_hours"] < one["critical_path_hours"]
