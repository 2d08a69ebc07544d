"""The local pool: order, slots, failures, Ctrl-C, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tfkd_cli.backends import Event, Outcome, local, nursery, sharing_logits, submit, taught_with
from tfkd_cli.backends import slots as slotting
from tfkd_cli.backends.local import left_seconds, run_local, unfinished
from tfkd_cli.backends.nursery import KILLED, Nursery, Spawned
from tfkd_cli.backends.slots import slots, width
from tfkd_cli.execution import Execution
from tfkd_cli.methods import Distillation, TfReg
from tfkd_cli.spec import Recipe, RunSpec, Teacher
from tfkd_cli.store import RunFolder, Store
from tfkd_cli.training import provenance, runner, worker

if TYPE_CHECKING:
    from tests.conftest import TinyData

RECIPE = Recipe(epochs=2, batch_size=8, milestones=(1,), warmup_epochs=0, augment="crop-flip")
PATIENCE = 120.0  # seconds until a test gives up


@pytest.fixture(scope="module")
def warm() -> Iterator[Nursery]:
    opened = Nursery(threads=1)
    yield opened
    opened.close()


@pytest.fixture
def shared_nursery(warm: Nursery, monkeypatch: pytest.MonkeyPatch) -> Nursery:
    """One nursery for all pools here: loading torch for each would be most of the time."""
    monkeypatch.setattr(nursery, "launcher", lambda threads: warm)
    monkeypatch.setattr(warm, "close", lambda: None)
    return warm


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
    outcome = run_local(specs, store=store, execution=execution, jobs=jobs, on_event=note)
    return outcome, events


@pytest.mark.usefixtures("shared_nursery")
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
    assert (set(again.done), events) == (set(outcome.done), [])


@pytest.mark.usefixtures("shared_nursery")
def test_the_run_that_holds_up_most_work_starts_first(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    short, long = (replace(teacher, student=name, seed=7) for name in ("plain-cnn", "resnet20"))
    specs = [short, taught_by(teacher), long, teacher]
    left = left_seconds(specs)
    assert left[teacher.folder] > left[specs[1].folder] > 0  # a teacher's students wait for it too
    assert left[long.folder] > left[short.folder]
    _, events = do(specs, store, tiny_data, jobs=1)
    started = [event.folder for event in events if event.kind == "started"]
    ready = [teacher.folder, short.folder, long.folder]
    assert started[0] == max(ready, key=left.__getitem__)
    assert started[-1] == short.folder


@pytest.mark.usefixtures("shared_nursery")
def test_students_of_a_failed_teacher_are_blocked_and_the_rest_goes_on(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    diverging = replace(teacher, recipe=replace(RECIPE, lr=1e30))
    student = taught_by(diverging)
    grandchild = taught_by(student)
    other = replace(teacher, loss=TfReg())
    outcome, events = do([diverging, student, grandchild, other], store, tiny_data)
    assert outcome.failed == (diverging.folder,)
    assert "the loss became" in outcome.reasons[diverging.folder]
    assert set(outcome.blocked) == {student.folder, grandchild.folder}
    assert outcome.done == (other.folder,)
    failed = next(event for event in events if event.kind == "failed")
    assert "the loss became" in failed.message
    assert not store.run(student).attempts()


@pytest.mark.usefixtures("shared_nursery")
def test_ctrl_c_stops_the_workers_which_save_and_the_same_call_goes_on(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    long = replace(teacher, recipe=replace(RECIPE, epochs=60))
    waiting = replace(long, seed=1)

    def interrupt(event: Event) -> None:
        if event.kind == "progress" and event.epoch:
            raise KeyboardInterrupt

    outcome, _ = do([long, waiting], store, tiny_data, jobs=1, on_event=interrupt)
    assert outcome == Outcome(interrupted=True)
    assert store.run(long).state().status == "resumable"
    assert store.run(waiting).state().status == "todo"
    outcome, _ = do([long], store, tiny_data)
    assert outcome.done == (long.folder,)
    assert "continuing in epoch" in (store.run(long).attempts()[1] / "log").read_text()


@pytest.mark.usefixtures("shared_nursery")
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
            monkeypatch.setattr(time, "sleep", again)
            raise KeyboardInterrupt

    def again(seconds: float) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    outcome, _ = do([long], store, tiny_data, on_event=interrupt)
    assert outcome == Outcome(interrupted=True)
    assert not Path(f"/proc/{pids[0]}").exists()


@pytest.mark.usefixtures("shared_nursery")
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
    assert (outcome.failed, outcome.blocked) == ((long.folder,), (taught_by(long).folder,))
    assert "killed by SIGKILL, 3 times" in next(e.message for e in events if e.kind == "failed")


@pytest.mark.usefixtures("shared_nursery")
def test_a_run_that_could_not_leave_its_reason_is_told_of_with_a_hint(
    store: Store, teacher: RunSpec, tiny_data: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging = replace(teacher, recipe=replace(RECIPE, lr=1e30))
    monkeypatch.setattr(RunFolder, "failure", lambda run: None)  # as where the disk is full,
    monkeypatch.setattr(local, "_printed", lambda log: "")  # and its log too
    outcome, _ = do([diverging], store, tiny_data)
    assert outcome.reasons == {diverging.folder: f"exit code 1\n{local.UNSAID}"}


def test_what_a_process_printed_without_a_hint_gets_one(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    assert local._printed(log) == ""
    log.write_text("worker: killed\n")
    assert local._printed(log) == f"worker: killed\n{local.UNSAID}"
    log.write_text("no.\n  Hint: yes.\n")
    assert local._printed(log) == "no.\n  Hint: yes."


@pytest.mark.usefixtures("shared_nursery")
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
    assert outcome.done == (teacher.folder,)
    waiting = next(event for event in events if event.kind == "waiting")
    assert f"process {os.getpid()} on" in waiting.message


@pytest.mark.usefixtures("shared_nursery")
def test_students_that_share_a_teacher_in_a_fast_grid_find_its_answers(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    fast = replace(teacher, recipe=RECIPE.fast())
    specs = [fast, *(taught_by(fast, seed=seed) for seed in range(3))]
    outcome, _ = do(specs, store, tiny_data)
    assert len(outcome.done) == 4
    kept = sorted(path.name for path in store.teacher_logits_path.glob("*/*"))
    assert kept == ["epoch-001.npy", "epoch-002.npy"]


def test_answers_are_kept_for_students_that_ask_the_same_and_no_others(teacher: RunSpec) -> None:
    fast = replace(teacher, recipe=RECIPE.fast())
    same = [taught_by(fast, temperature=4), taught_by(fast, temperature=8), taught_by(fast, seed=1)]
    alone = replace(taught_by(fast), teacher=Teacher(run=fast, checkpoint=1))
    paper = [taught_by(teacher), taught_by(teacher, seed=1)]
    assert set(sharing_logits([fast, *same, alone, *paper])) == {spec.folder for spec in same}


def test_lost_weights_are_trained_again_only_for_a_student_that_needs_them(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    runner.run(teacher, store=store, execution=tiny_data.execution)
    specs = [teacher, taught_by(teacher)]
    scan = store.scan(spec.key for spec in specs)
    assert unfinished(specs, scan) == [specs[1]]
    store.run(teacher).weights("best.pt").unlink()
    scan = store.scan(spec.key for spec in specs)
    assert unfinished(specs, scan) == specs
    assert unfinished([teacher], scan) == []


def test_weights_that_clean_freed_and_no_student_needs_are_not_trained_again(
    store: Store, teacher: RunSpec, tiny_data: TinyData
) -> None:
    runner.run(teacher, store=store, execution=tiny_data.execution)
    store.run(teacher).weights("epoch-001.pt").unlink()
    early = replace(taught_by(teacher), teacher=Teacher(run=teacher, checkpoint=1))
    specs = [teacher, taught_by(teacher), early]
    scan = store.scan(spec.key for spec in specs)
    assert unfinished(specs[:2], scan) == [specs[1]]
    assert unfinished(specs, scan) == specs
    assert taught_with(specs) == {teacher.folder: ["best.pt", "epoch-001.pt"]}
    runner.check_parents(specs[1], store)
    with pytest.raises(runner.Blocked, match=r"lacks epoch-001\.pt"):
        runner.check_parents(early, store)


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


def test_each_gpu_is_a_slot_and_more_jobs_share_them(
    teacher: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr(provenance, "cores", lambda: 8)

    def visible(device: str, jobs: int | None) -> list[Mapping[str, str]]:
        found = slots([teacher], execution=Execution(cache="", device=device), jobs=jobs)
        return list(found.environments)

    two, five = {"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"}
    assert visible("auto", None) == [two, five]
    assert visible("cuda", 3) == [two, five, two]
    assert visible("cuda:1", None) == [five]
    assert visible("cpu", None) == [{}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible("auto", None) == [{}]


def test_gpus_are_counted_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: one'\necho '  MIG 1g: part'\necho 'GPU 1: two'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slotting._gpus("auto") == ["0", "1"]


def test_a_killed_nursery_counts_its_workers_as_killed_and_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(_stand_in(tmp_path)))
    opened = Nursery(threads=1)
    arguments = ("STORE", "SUBMISSION", "0")
    opened.start(1, arguments, environment={}, log=tmp_path / "log")
    assert opened._process is not None
    opened._process.kill()
    opened._process.wait()
    assert opened.ended() == {1: KILLED}
    opened.start(2, arguments, environment={}, log=tmp_path / "log")
    assert opened._process is not None
    opened.close()


def test_a_stop_that_comes_before_a_worker_listens_waits_until_it_does(
    warm: Nursery, store: Store, teacher: RunSpec, tiny_data: TinyData, tmp_path: Path
) -> None:
    store.run(teacher).declare(teacher)
    submission = submit(
        [[teacher.folder]], store=store, execution=tiny_data.execution, teacher_logits=(), backend="local"
    )
    arguments = (str(store.root), submission, "0")
    warm.start(900, arguments, environment={}, log=tmp_path / "log")
    warm.signal(900, signal.SIGTERM)  # read by the nursery right after it has forked
    deadline, ended = time.monotonic() + PATIENCE, warm.ended()
    while 900 not in ended and time.monotonic() < deadline:
        time.sleep(0.02)
        ended = warm.ended()
    assert ended == {900: worker.CANCELLED}


def _stand_in(folder: Path) -> Path:
    """A nursery that only reads its orders."""
    program = folder / "nursery"
    program.write_text("#!/bin/sh\nexec cat > /dev/null\n")
    program.chmod(0o755)
    return program


def test_where_there_is_no_safe_fork_each_worker_is_a_fresh_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        worker, "command", lambda *arguments: ["sh", "-c", "echo $GREETING; exit 75", *arguments]
    )
    spawned = Spawned()
    spawned.start(3, ("a", "b", "c"), environment={"GREETING": "hello"}, log=tmp_path / "log")
    deadline = time.monotonic() + PATIENCE
    while not (ended := spawned.ended()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == {3: worker.TRY_AGAIN}
    assert (tmp_path / "log").read_text() == "hello\n"
    monkeypatch.setattr(worker, "command", lambda *arguments: ["sleep", "1000"])
    spawned.start(4, ("a", "b", "c"), environment={}, log=tmp_path / "log")
    spawned.close()
    assert spawned.ended() == {4: -signal.SIGTERM}


def test_nothing_is_left_of_a_pool_whose_process_was_killed(
    store: Store, teacher: RunSpec, tiny_data: TinyData, tmp_path: Path
) -> None:
    long = replace(teacher, recipe=replace(RECIPE, epochs=100_000))
    store.run(long).declare(long)
    program = (
        "import sys; from pathlib import Path; from tfkd_cli.backends.local import run_local;"
        "from tfkd_cli.store import Store; from tfkd_cli.execution import Execution;"
        "store = Store.open(Path(sys.argv[1]), create=True);"
        "run_local([store.folder(sys.argv[2]).spec()], store=store, jobs=1, on_event=print,"
        " execution=Execution(cache=sys.argv[3], device='cpu', threads=1))"
    )
    arguments = [sys.executable, "-c", program, str(store.root), long.folder, tiny_data.execution.cache]
    process = subprocess.Popen(arguments, env=worker.environment(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + PATIENCE
    while not store.run(long).metrics() and time.monotonic() < deadline:
        time.sleep(0.05)
    lease = store.run(long).lease()
    assert lease is not None
    process.kill()
    process.wait()
    while Path(f"/proc/{lease.pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert store.run(long).state().status == "resumable"
