"""The local pool: order, slots, failures, Ctrl-C, and nothing left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.planning import planned
from tfkd_cli.backends import Event, Outcome, local, processes
from tfkd_cli.backends import slots as slotting
from tfkd_cli.backends.local import left_seconds, run_local
from tfkd_cli.backends.slots import slots, width
from tfkd_cli.errors import RunError
from tfkd_cli.execution import Execution
from tfkd_cli.methods import Distillation, TfReg
from tfkd_cli.plan import Estimate
from tfkd_cli.spec import Recipe, RunSpec, Teacher
from tfkd_cli.store import Store
from tfkd_cli.training import provenance, worker

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from tests.conftest import TinyData

RECIPE = Recipe(epochs=2, batch_size=8, milestones=(1,), warmup_epochs=0, augment="crop-flip")
PATIENCE = 280.0  # seconds until a test gives up; nothing here asserts a time


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "results", create=True)


@pytest.fixture
def teacher(tiny_data: TinyData) -> RunSpec:
    return RunSpec(dataset=tiny_data.name, student="resnet8", recipe=RECIPE)


def taught_by(teacher: RunSpec, *, seed: int = 0, temperature: float = 4) -> RunSpec:
    loss = Distillation(temperature=temperature)
    return replace(teacher, loss=loss, teacher=Teacher(run=teacher), seed=seed)


def do(
    specs: list[RunSpec],
    store: Store,
    data: TinyData,
    *,
    jobs: int | None = 2,
    on_event: Callable[[Event], None] = lambda event: None,
    minutes: float = 60.0,
) -> tuple[Outcome, list[Event]]:
    events: list[Event] = []

    def note(event: Event) -> None:
        events.append(event)
        on_event(event)

    execution = replace(data.execution, checkpoint_minutes=minutes)
    chosen = slots(specs, execution=execution, jobs=jobs)
    runs = planned(specs, store)
    outcome = run_local(runs, store=store, execution=execution, slots=chosen, on_event=note)
    return outcome, events


def test_parents_go_first_and_finished_runs_are_not_started_again(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    specs = [teacher, taught_by(teacher), taught_by(teacher, seed=1)]
    outcome, events = do(specs, store, tiny_data)
    assert set(outcome.done) == {spec.folder for spec in specs}
    order = [(event.kind, event.folder) for event in events]
    assert order.index(("finished", teacher.folder)) < order.index(("started", specs[1].folder))
    finished = next(event for event in events if event.kind == "finished")
    result = store.run(teacher).result()
    assert result is not None
    assert (finished.epoch, finished.accuracy) == (2, result["best"]["accuracy"])
    again, events = do(specs, store, tiny_data)
    assert (again, events) == (Outcome(), [])


def test_of_one_seed_the_run_that_holds_up_most_work_starts_first_and_other_seeds_wait(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    short, long = (replace(teacher, student=name) for name in ("plain-cnn", "resnet20"))
    second = replace(teacher, seed=1)
    specs = [second, short, taught_by(teacher), long, teacher]
    costs = {
        second.folder: 9.0,
        short.folder: 1.0,
        long.folder: 3.0,
        teacher.folder: 1.0,
        specs[2].folder: 2.0,
    }
    runs = [replace(run, cost=Estimate(costs[run.spec.folder], "estimate")) for run in planned(specs, store)]
    left = left_seconds(runs)
    assert left[teacher.folder] > left[specs[2].folder] > 0  # a teacher's students wait for it too
    assert left[long.folder] > left[short.folder]
    events: list[Event] = []
    chosen = slots(specs, execution=tiny_data.execution, jobs=1)
    run_local(runs, store=store, execution=tiny_data.execution, slots=chosen, on_event=events.append)
    started = [event.folder for event in events if event.kind == "started"]
    ready = [teacher.folder, short.folder, long.folder]
    assert started[0] == max(ready, key=left.__getitem__)
    assert started[-2:] == [short.folder, second.folder]


def test_students_of_a_failed_teacher_are_blocked_and_the_rest_goes_on(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    diverging = replace(teacher, recipe=replace(RECIPE, lr=1e30))
    student = taught_by(diverging)
    grandchild = taught_by(student)
    other = replace(teacher, loss=TfReg())
    outcome, events = do([diverging, student, grandchild, other], store, tiny_data)
    assert outcome.failed == [diverging.folder]
    assert "the loss became" in outcome.reasons[diverging.folder]
    assert set(outcome.blocked) == {student.folder, grandchild.folder}
    assert outcome.done == [other.folder]
    failed = next(event for event in events if event.kind == "failed")
    assert "the loss became" in failed.message
    assert not store.run(student).attempts()


def test_ctrl_c_stops_the_workers_which_save_and_the_same_call_goes_on(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    long = replace(teacher, recipe=replace(RECIPE, epochs=60))
    waiting = replace(long, seed=1)

    def interrupt(event: Event) -> None:
        if event.kind == "progress" and event.epoch and signal.getsignal(signal.SIGINT) != before:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    outcome, _ = do([long, waiting], store, tiny_data, jobs=1, on_event=interrupt)
    assert outcome == Outcome(interrupted=True)
    assert store.run(long).state().status == "resumable"
    assert store.run(waiting).state().status == "todo"
    outcome, _ = do([long], store, tiny_data)
    assert outcome.done == [long.folder]
    assert "continuing in epoch" in (store.run(long).attempts()[1] / "log").read_text()


def test_a_second_ctrl_c_kills_the_workers(
    store: Store, teacher: RunSpec, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = replace(teacher, recipe=replace(RECIPE, epochs=100_000))
    pids: list[int] = []

    def interrupt(event: Event) -> None:
        lease = store.run(long).lease()
        if event.kind == "progress" and event.epoch and lease is not None:
            pids.append(lease.pid)
            os.kill(lease.pid, signal.SIGSTOP)  # it will not heed the first one
            monkeypatch.setattr(local, "wait", again)
            signal.raise_signal(signal.SIGINT)

    def again(*_: object, **__: object) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)

    outcome, _ = do([long], store, tiny_data, on_event=interrupt)
    assert outcome == Outcome(interrupted=True)
    assert not Path(f"/proc/{pids[0]}").exists()


@pytest.mark.parametrize("started", [False, True])
def test_a_ctrl_c_while_a_worker_is_being_started_leaves_no_worker(
    store: Store, teacher: RunSpec, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    """Else multiprocessing would wait at the end of the command until that worker had finished its run."""
    long = replace(teacher, recipe=replace(RECIPE, epochs=100_000))
    start = processes.start

    def interrupted(process: BaseProcess) -> BaseProcess:
        if started:
            start(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "start", interrupted)
    outcome, _ = do([long], store, tiny_data)
    assert outcome == Outcome(interrupted=True)
    assert not multiprocessing.active_children()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_ctrl_c_that_a_finaliser_swallows_is_not_lost(
    store: Store, tiny_data: TinyData, teacher: RunSpec
) -> None:
    class Interrupted:
        def __del__(self) -> None:  # Python drops what is raised here
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    def swallow(event: Event) -> None:
        if event.kind == "progress":
            Interrupted()

    long = replace(teacher, recipe=replace(RECIPE, epochs=10_000))
    outcome, _ = do([long], store, tiny_data, on_event=swallow)
    assert outcome == Outcome(interrupted=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_killed_worker_is_started_again_and_gives_up_at_the_third_time(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    long = replace(teacher, recipe=replace(RECIPE, epochs=100_000))

    def kill(event: Event) -> None:
        lease = store.run(long).lease()
        if event.kind == "progress" and lease is not None:
            os.kill(lease.pid, signal.SIGKILL)

    outcome, events = do([long, taught_by(long)], store, tiny_data, on_event=kill)
    assert [event.kind for event in events if event.folder == long.folder].count("started") == 3
    assert (outcome.failed, outcome.blocked) == ([long.folder], [taught_by(long).folder])
    assert "killed by SIGKILL, 3 times" in next(e.message for e in events if e.kind == "failed")


def test_a_run_that_left_neither_result_nor_reason_failed_and_its_exit_code_is_named(
    store: Store, teacher: RunSpec, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "begin", ends_with_success)
    outcome, _ = do([teacher], store, tiny_data)
    [reason] = outcome.reasons.values()
    assert outcome.failed == [teacher.folder]
    assert "ended with exit code 0 and left neither a result nor a reason.\nlast words\nHint:" in reason


def ends_with_success(store: str, submission: str, index: str, environment: object, log: Path) -> None:
    """A worker whose run is ended by `os._exit(0)` in a student's own code."""
    log.write_text("last words\n")
    os._exit(0)


def test_where_torch_does_not_load_the_command_ends_with_one_error(
    store: Store, teacher: RunSpec, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "begin", finds_no_torch)
    with pytest.raises(RunError, match=r"torch cannot be loaded\n  Hint: ulimit"):
        do([teacher, replace(teacher, seed=1)], store, tiny_data)


def finds_no_torch(store: str, submission: str, index: str, environment: object, log: Path) -> None:
    log.write_text("torch cannot be loaded\n  Hint: ulimit -v\n")
    os._exit(worker.UNUSABLE)


def test_a_worker_whose_forkserver_is_killed_saves_and_its_run_goes_on(
    store: Store, teacher: RunSpec, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ELSEWHERE_SECONDS", 0.05)
    long = replace(teacher, recipe=replace(RECIPE, epochs=40))
    killed: list[int] = []

    def kill(event: Event) -> None:
        lease = store.run(long).lease()
        if event.kind == "progress" and event.epoch and lease is not None and not killed:
            stat = Path(f"/proc/{lease.pid}/stat").read_text()
            killed.append(int(stat.rpartition(")")[2].split()[1]))
            os.kill(killed[0], signal.SIGKILL)

    outcome, events = do([long], store, tiny_data, on_event=kill)
    assert (outcome.done, len(killed), outcome.reasons) == ([long.folder], 1, {})
    assert "failed" not in {event.kind for event in events}


def test_a_run_another_process_works_on_is_waited_for(
    store: Store, teacher: RunSpec, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfkd_cli.backends.local.ELSEWHERE_SECONDS", 0.05)
    store.run(teacher).declare(teacher)
    attempt = store.run(teacher).claim_attempt(owner={})
    assert attempt is not None

    def let_go(event: Event) -> None:
        if event.kind == "waiting":
            threading.Timer(0.2, attempt.release).start()

    outcome, events = do([teacher], store, tiny_data, on_event=let_go)
    assert outcome.done == [teacher.folder]
    waiting = next(event for event in events if event.kind == "waiting")
    assert f"process {os.getpid()} on" in waiting.message


def test_students_that_share_a_teacher_in_a_fast_grid_share_its_cached_logits(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    fast = replace(teacher, recipe=RECIPE.fast())
    specs = [fast, *(taught_by(fast, seed=seed) for seed in range(3))]
    outcome, _ = do(specs, store, tiny_data)
    assert len(outcome.done) == 4
    cached = sorted(path.name for path in store.teacher_logits_path.glob("*/*"))
    assert cached == ["epoch-001.npy", "epoch-002.npy"]


def test_slots_and_threads_depend_on_all_runs_of_a_request(
    teacher: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "cores", lambda: 8)
    execution = Execution(cache="", device="cpu")
    chain = [teacher, taught_by(teacher)]
    grid = [teacher, *(taught_by(teacher, seed=seed) for seed in range(20))]
    assert (width(chain), width(grid), width([taught_by(teacher)])) == (1, 20, 1)

    def chosen(specs: list[RunSpec], jobs: int | None, threads: int | None = None) -> tuple[int, int]:
        found = slots(specs, execution=replace(execution, threads=threads), jobs=jobs)
        return len(found.environments), found.threads

    assert chosen(chain, None) == (1, 8)
    assert chosen(grid, None) == (8, 1)
    assert chosen(grid, 3) == (3, 2)
    assert chosen(grid, None, threads=4) == (2, 4)
    assert chosen(grid, 16) == (16, 1)
    execution = replace(execution, processes=2)
    assert chosen(chain, None) == (1, 4)
    assert chosen(grid, None) == (4, 1)
    assert chosen(grid, None, threads=2) == (2, 2)


def test_each_gpu_is_a_slot_and_more_jobs_share_the_gpus(
    teacher: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(provenance, "cores", lambda: 8)

    def visible(device: str, jobs: int | None, gpus: int = 1) -> list[tuple[str, ...]]:
        execution = Execution(cache="", device=device, processes=gpus)
        found = slots([teacher], execution=execution, jobs=jobs)
        return [tuple(each.get("CUDA_VISIBLE_DEVICES", "") for each in run) for run in found.environments]

    assert visible("auto", None) == [("2",), ("5",)]
    assert visible("cuda", 3) == [("2",), ("5",), ("2",)]
    assert visible("cuda:1", None) == [("5",)]
    assert visible("cpu", None) == [("",)]
    assert visible("cuda", None, gpus=2) == [("2", "5")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert visible("cuda", None, gpus=2) == [("0", "1"), ("2", "3")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible("auto", None) == [("",)]


def test_gpus_are_counted_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: one'\necho '  MIG 1g: part'\necho 'GPU 1: two'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slotting._gpus("auto") == ["0", "1"]


PROGRAM = """
import sys
from pathlib import Path
from tests.planning import planned
from tfkd_cli.backends.local import run_local
from tfkd_cli.backends.slots import slots
from tfkd_cli.execution import Execution
from tfkd_cli.store import Store
store = Store.open(Path(sys.argv[1]), create=True)
execution = Execution(cache=sys.argv[3], device="cpu", threads=1)
specs = [store.folder(sys.argv[2]).spec()]
chosen = slots(specs, execution=execution, jobs=1)
run_local(planned(specs, store), store=store, execution=execution, slots=chosen, on_event=print)
"""


def test_nothing_is_left_of_a_pool_whose_process_was_killed(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    long = replace(teacher, recipe=replace(RECIPE, epochs=100_000))
    store.run(long).declare(long)
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(store.root), long.folder, tiny_data.execution.cache],
        env=worker.environment(TFKD_TEST_MARK=mark),
        stdout=subprocess.DEVNULL,
    )
    until(lambda: store.run(long).metrics())
    assert len(marked(mark)) == 4  # the command, its forkserver, multiprocessing's resource tracker, a worker
    process.kill()
    process.wait()
    until(lambda: not marked(mark))
    assert store.run(long).state().status == "resumable"


def marked(mark: str) -> list[str]:
    """The processes that have this mark in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append(path.parent.name)
    return found


def until(found: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
