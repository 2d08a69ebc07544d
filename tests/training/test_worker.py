"""What a backend starts: real processes, signals and exit codes.

Workers are started as the local backend starts them; one is started as SLURM starts it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest
import torch

from tests.planning import planned
from tfkd_cli.backends import processes
from tfkd_cli.methods import Distillation
from tfkd_cli.spec import Recipe, RunSpec, Teacher
from tfkd_cli.store import Store
from tfkd_cli.training import checkpoints, provenance, runner, submission, worker

if TYPE_CHECKING:
    from tests.conftest import TinyData

RECIPE = Recipe(epochs=12, batch_size=6, milestones=(8,), warmup_epochs=1, augment="crop-flip")
T = TypeVar("T")
PATIENCE = 280.0  # seconds until a test gives up on a process; nothing here asserts a time


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "results", create=True)


@pytest.fixture
def spec(tiny_data: TinyData) -> RunSpec:
    return RunSpec(dataset=tiny_data.name, student="resnet8", recipe=RECIPE)


class Worker:
    """One worker, on a submission of its own."""

    def __init__(self, store: Store, name: str, index: str = "0") -> None:
        self.log = store.submission_path(name) / f"{index}.log"
        arguments = (str(store.root), name, index)
        self.process = processes.start(processes.make(worker.begin, *arguments, {}, self.log))

    def signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self) -> int | None:
        self.process.join(PATIENCE)
        return self.process.exitcode


def until(found: Callable[[], T | None]) -> T:
    """What `found` gives once it gives something."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = found()
        if value is not None:
            return value
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def submitted(store: Store, data: TinyData, *specs: RunSpec, minutes: float = 0.0) -> str:
    """A submission of one pack."""
    execution = replace(data.execution, checkpoint_minutes=minutes)
    runs = [run for run in planned(specs, store) if run.spec in specs]
    return submission.write([runs], store=store, execution=execution, backend="local")


def epochs_done(store: Store, spec: RunSpec, at_least: int) -> bool | None:
    return len(store.run(spec).metrics()) >= at_least or None


def test_a_worker_killed_twice_ends_bit_for_bit_as_one_never_killed(
    tmp_path: Path, store: Store, spec: RunSpec, tiny_data: TinyData
) -> None:
    whole = Store.open(tmp_path / "whole", create=True)
    runner.run(spec, store=whole, execution=tiny_data.execution)
    name = submitted(store, tiny_data, spec)
    for epoch in (2, 6):
        process = Worker(store, name)
        until(lambda: epochs_done(store, spec, epoch))  # noqa: B023 - called at once
        process.signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert store.run(spec).result() is None
    assert Worker(store, name).wait() == worker.DONE
    log = (store.run(spec).attempts()[2] / "log").read_text()
    assert "continuing in epoch" in log
    for name in ("best.pt", "last.pt", "epoch-005.pt"):
        one, other = (checkpoints.read_weights(each.run(spec).weights(name)) for each in (whole, store))
        assert all(torch.equal(one[key], other[key]) for key in one)
    lines = [
        [(line["train_loss"], line["test_accuracy"]) for line in each.run(spec).metrics()]
        for each in (whole, store)
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, worker.CANCELLED), (signal.SIGUSR2, worker.TRY_AGAIN)]
)
def test_a_signal_saves_at_the_next_step_and_ends(
    store: Store, spec: RunSpec, tiny_data: TinyData, number: signal.Signals, code: int
) -> None:
    name = submitted(store, tiny_data, spec, minutes=60)
    process = Worker(store, name)
    until(lambda: epochs_done(store, spec, 1))
    process.signal(number)
    assert process.wait() == code
    state = store.run(spec).state()
    assert (state.status, len(store.run(spec).newest_states())) == ("resumable", 1)


def test_a_student_without_its_teacher_is_blocked_and_says_by_whom(
    store: Store, spec: RunSpec, tiny_data: TinyData
) -> None:
    student = replace(spec, loss=Distillation(), teacher=Teacher(run=spec))
    process = Worker(store, submitted(store, tiny_data, student))
    assert process.wait() == worker.TRY_AGAIN
    assert f"{student.folder} cannot start: its teacher {spec.folder} is todo" in process.log.read_text()


def test_a_failed_run_says_so_where_it_is_seen(store: Store, spec: RunSpec, tiny_data: TinyData) -> None:
    diverging = replace(spec, recipe=replace(RECIPE, lr=1e30))
    process = Worker(store, submitted(store, tiny_data, diverging))
    assert process.wait() == worker.CRASHED
    printed = process.log.read_text()
    assert "the loss became" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("index", ["7", "-x", "0.9"])
def test_an_index_that_means_nothing_is_a_bad_request(
    store: Store, spec: RunSpec, tiny_data: TinyData, index: str
) -> None:
    name = submitted(store, tiny_data, spec)
    assert Worker(store, name, index).wait() == worker.BAD_SPEC


def test_a_damaged_spec_json_is_written_again_from_the_job(
    store: Store, spec: RunSpec, tiny_data: TinyData
) -> None:
    name = submitted(store, tiny_data, spec)
    store.run(spec).declare(spec)
    (store.run(spec).path / "spec.json").write_bytes(b'{"schema": 1')
    assert Worker(store, name).wait() == worker.DONE
    assert store.run(spec).spec() == spec


def test_a_worker_saves_and_ends_when_its_forkserver_is_killed(
    store: Store, spec: RunSpec, tiny_data: TinyData
) -> None:
    long = replace(spec, recipe=replace(RECIPE, epochs=4000))
    process = Worker(store, submitted(store, tiny_data, long, minutes=60))
    until(lambda: epochs_done(store, long, 1))
    os.kill(parent_of(process.process.pid), signal.SIGKILL)
    process.process.join(PATIENCE)
    assert processes.end(process.process) == processes.KILLED
    until(lambda: store.run(long).state().status == "resumable" or None)


def parent_of(pid: int | None) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_stop_that_comes_before_a_worker_listens_waits_until_it_does(
    store: Store, spec: RunSpec, tiny_data: TinyData
) -> None:
    process = Worker(store, submitted(store, tiny_data, spec))
    process.signal(signal.SIGTERM)
    assert process.wait() == worker.CANCELLED
    assert not store.run(spec).newest_states()


LAST_WORDS = {
    "sys.exit(0)": "SystemExit: 0",
    "os._exit(0)": None,
    "raise GeneratorExit('odd')": "GeneratorExit: odd",
    "raise KeyboardInterrupt": "raised KeyboardInterrupt",
}
NETWORK = """
import os, sys
from torch import nn
class Ending(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = nn.Linear(3 * 32 * 32, num_classes)
    def forward(self, images):
        if self.training:
            {end}
        return self.head(images.flatten(1))
"""


@pytest.mark.parametrize("end", LAST_WORDS)
def test_a_students_own_code_that_ends_the_process_does_not_make_a_run_a_success(
    tmp_path: Path,
    store: Store,
    spec: RunSpec,
    tiny_data: TinyData,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    name = f"ending_{len(end)}"
    (tmp_path / f"{name}.py").write_text(NETWORK.format(end=end))
    monkeypatch.syspath_prepend(tmp_path)
    own = replace(spec, student=f"python:{name}:Ending")
    process = Worker(store, submitted(store, tiny_data, own))
    code, said = process.wait(), LAST_WORDS[end]
    assert store.run(own).result() is None
    assert "Traceback" not in process.log.read_text()
    assert (code == worker.CRASHED and said in process.log.read_text()) if said else code == 0


def test_where_torch_does_not_load_a_worker_says_so_and_is_not_tried_again(
    tmp_path: Path, store: Store, spec: RunSpec, tiny_data: TinyData
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('failed to map segment from shared object')")
    ended = subprocess.run(
        worker.command(str(store.root), submitted(store, tiny_data, spec), "0"),
        env=worker.environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{Path.cwd()}"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == worker.UNUSABLE
    assert "torch cannot be loaded: ImportError: failed to map segment" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_cancelled_is_final_and_a_time_limit_is_not() -> None:
    stop = worker.Stop()
    stop._note(signal.SIGUSR2, None)
    assert (stop(), worker.exit_code(stop() or "")) == (worker.ASKED, worker.TRY_AGAIN)
    stop._note(signal.SIGTERM, None)
    stop._note(signal.SIGUSR2, None)
    assert (stop(), worker.exit_code(stop() or "")) == (worker.TERMINATED, worker.CANCELLED)


def test_a_signal_ends_a_run_while_its_data_are_prepared(
    store: Store, spec: RunSpec, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = worker.Stop()

    def loading(*_: object, progress: Callable[[str, float], None], **more: object) -> None:
        stop._note(signal.SIGTERM, None)
        progress("decoding", 0.5)
        pytest.fail("it went on reading data until SLURM would have killed it")

    monkeypatch.setattr("tfkd_cli.data.load", loading)
    monkeypatch.setattr(worker, "_prepare_process", lambda job: None)
    monkeypatch.setattr(worker.Stop, "listen", lambda stop: None)
    name = submitted(store, tiny_data, spec)
    code = worker.main(str(store.root), name, "0", stop=stop, on_stop={worker.TERMINATED: 75}.__getitem__)
    assert code == 75
    assert store.run(spec).state().status == "todo"


def test_a_signal_from_before_a_run_ends_it_before_it_begins(
    store: Store, spec: RunSpec, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_prepare_process", lambda job: None)
    monkeypatch.setattr(worker.Stop, "listen", lambda stop: None)
    name = submitted(store, tiny_data, spec)
    stop = worker.Stop()
    stop._note(signal.SIGUSR2, None)
    assert worker.main(str(store.root), name, "0", stop=stop) == worker.TRY_AGAIN
    assert not store.run(spec).attempts()


def test_a_worker_as_slurm_starts_it_does_a_pack_and_loads_only_what_it_needs(
    store: Store, spec: RunSpec, tiny_data: TinyData
) -> None:
    short = replace(RECIPE, epochs=1)
    pack = [replace(spec, recipe=short, seed=seed) for seed in (0, 1)]
    name = submitted(store, tiny_data, *pack)
    done = subprocess.run(
        worker.command(str(store.root), name, "0"),
        env=worker.environment(PYTHONPROFILEIMPORTTIME="1"),
        capture_output=True,
        timeout=PATIENCE,
    )
    assert done.returncode == worker.DONE
    imported = {line.split("|")[-1].strip() for line in done.stderr.decode().splitlines()}
    assert "torch" in imported
    assert not imported & {"torchvision", "pandas", "sklearn", "scipy", "matplotlib", "submitit"}
    assert all(store.run(each).state().status == "done" for each in pack)


def test_the_runs_of_a_pack_share_the_cores(
    store: Store, spec: RunSpec, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "cores", lambda: 8)
    open_threads = replace(tiny_data, execution=replace(tiny_data.execution, threads=None))
    pack = [replace(spec, seed=seed) for seed in range(3)]
    name = submitted(store, open_threads, *pack)
    member = submission.read_job(str(store.root), name, "0.2")
    assert (member.folders, member.execution.threads) == ((pack[2].folder,), 2)


def test_the_environment_lets_a_worker_find_this_very_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    path = worker.environment(CUDA_VISIBLE_DEVICES="3")["PYTHONPATH"].split(os.pathsep)
    assert path == [str(Path(worker.__file__).parents[2]), "/elsewhere"]
    assert worker.environment(CUDA_VISIBLE_DEVICES="3")["CUDA_VISIBLE_DEVICES"] == "3"
