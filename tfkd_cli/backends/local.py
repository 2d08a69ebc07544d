"""Runs on this machine: a bounded pool, parents before children; one process per run, or with --gpus several.

What a run has done is read from the store, like everywhere; the pool itself remembers names only. Ctrl-C
lets the workers save and end; a second one kills them. Should this process be killed, they save and end too.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

from tfkd_cli.backends import Event, EventKind, Outcome, processes
from tfkd_cli.backends.slots import Slots, of_ranks
from tfkd_cli.errors import RunError
from tfkd_cli.execution import Execution
from tfkd_cli.plan import PlannedRun
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store
from tfkd_cli.training import submission, worker

POLL_SECONDS = 0.2
LOOK_SECONDS = 0.5  # between two looks at the progress of a run
ELSEWHERE_SECONDS = 3.0  # between two looks at a run another process works on
LAUNCHES = 3  # of a run that is killed again and again
UNSAID = "Hint: is the disk full, or read-only? A student's own code that calls os._exit ends like this, too."

OnEvent = Callable[[Event], None]


def run_local(
    runs: Sequence[PlannedRun], *, store: Store, execution: Execution, slots: Slots, on_event: OnEvent
) -> Outcome:
    """Do these runs of a plan, in the slots that were chosen for all runs of the request."""
    if not runs:
        return Outcome()
    name = submission.write(
        [[run] for run in runs],
        store=store,
        execution=replace(execution, threads=slots.threads, device=slots.device),
        backend="local",
    )
    pool = _Pool(runs, store=store, submission=name, slots=slots, on_event=on_event)
    try:
        with _noting_ctrl_c(pool):
            pool.work()
    except KeyboardInterrupt:
        pool.outcome.interrupted = True
    finally:
        pool.close()
    return pool.outcome


def left_seconds(runs: Sequence[PlannedRun]) -> dict[str, float]:
    """By folder, what a run and the longest chain of its students will take, roughly.

    Of one seed's runs, that with most before it starts first: started last, a long one would end alone.
    """
    own = {run.spec.folder: run.seconds_left_alone for run in runs}
    left = dict(own)

    def add(spec: RunSpec, students: float) -> None:
        if spec.folder in own:  # else it is done
            left[spec.folder] = max(left[spec.folder], own[spec.folder] + students)
            for parent in spec.parents:
                add(parent, left[spec.folder])

    for run in runs:
        add(run.spec, 0.0)
    return left


@contextlib.contextmanager
def _noting_ctrl_c(pool: _Pool) -> Iterator[None]:
    """Each Ctrl-C is counted, and the pool looks at the count; the second raises KeyboardInterrupt, too.

    What a signal handler raises may be lost (`worker.Stop`), so the count decides. A SIGINT that is ignored
    (`nohup`) stays ignored.
    """
    before = signal.getsignal(signal.SIGINT)
    here = threading.current_thread() is threading.main_thread()
    if before is not signal.default_int_handler or not here:
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        pool.outcome.interrupted = True
        pool.ctrl_c += 1
        if pool.ctrl_c > 1:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(kw_only=True)
class _Running:
    """A run and those of its processes, by rank, that have not ended; rank 0 speaks for all."""

    processes: dict[int, BaseProcess]
    folder: str
    slot: int
    looked_at: float = 0.0
    epoch: int = -1
    codes: dict[int, int] = field(default_factory=dict)  # of ranks that have ended, in that order
    deadline: float = math.inf  # for those that are left
    overdue: set[int] = field(default_factory=set)  # ranks that were killed here

    def collect(self, ready: Sequence[object]) -> None:
        """Take the exit codes of processes that have ended; kill what is left of a run that is over."""
        for rank in [rank for rank, process in self.processes.items() if process.sentinel in ready]:
            self.codes[rank] = processes.end(self.processes.pop(rank))
            if self.codes[rank] != worker.DONE:
                self.deadline = min(self.deadline, time.monotonic() + worker.RANK_SECONDS)
        if 0 in self.codes or time.monotonic() > self.deadline:
            for rank, process in self.processes.items():
                self.overdue.add(rank)
                process.kill()

    @property
    def lost(self) -> str:
        """Which of several ranks has ended the run, where rank 0 could not say so; else ""."""
        for rank, code in self.codes.items():
            if code < 0 and rank not in self.overdue:
                return f"rank {rank} was killed by {signal.Signals(-code).name} (out of memory?)"
            if code == worker.CRASHED and 0 in self.overdue:
                return f"rank {rank} failed before all ranks had started"
        return "rank 0 did not answer and was killed" if 0 in self.overdue else ""


class _Pool:
    """The runs of one submission: waiting for parents, ready, running, elsewhere, ended."""

    def __init__(
        self, runs: Sequence[PlannedRun], *, store: Store, submission: str, slots: Slots, on_event: OnEvent
    ) -> None:
        self._store, self._submission, self._slots, self._on_event = store, submission, slots, on_event
        self.outcome = Outcome()
        self.ctrl_c = 0  # how often it was pressed
        specs = [run.spec for run in runs]
        self._index = {spec.folder: index for index, spec in enumerate(specs)}
        self._epochs = {spec.folder: spec.recipe.epochs for spec in specs}
        self._teachers = {
            spec.folder: {each.folder for each in spec.parents} & self._index.keys() for spec in specs
        }
        # Every setting has one seed before any has a second, so that a table can be read early.
        left = left_seconds(runs)
        self._place = {spec.folder: (spec.seed, -left[spec.folder], at) for at, spec in enumerate(specs)}
        self._launches: Counter[str] = Counter()
        self._waiting = set(self._index)  # to be started
        self._free = list(range(len(slots.environments)))
        self._running: list[_Running] = []
        self._elsewhere: dict[str, float] = {}  # folder → when to look again

    def work(self) -> None:
        """Until nothing runs and nothing can be started; after Ctrl-C, until all workers have saved."""
        while not self.outcome.interrupted:
            self._look_elsewhere()
            while self._free and not self.outcome.interrupted and (ready := self._ready()):
                self._start(min(ready, key=self._place.__getitem__))
            if not (self._running or self._elsewhere):
                return
            self._look()
        for process in self._processes():
            process.terminate()
        while self._running and self.ctrl_c < 2:
            self._look()

    def _ready(self) -> list[str]:
        """What waits for a place only: its teachers are done."""
        done = set(self.outcome.done)
        return [each for each in self._waiting if self._teachers[each] <= done]

    def close(self) -> None:
        """No worker is left behind; those that still run after Ctrl-C are killed."""
        left = [process for process in self._processes() if process.pid is not None]
        for process in left:
            process.kill() if self.outcome.interrupted else process.terminate()
        for process in left:
            process.join()

    def _processes(self) -> list[BaseProcess]:
        return [process for running in self._running for process in running.processes.values()]

    def _start(self, folder: str) -> None:
        environments = self._slots.environments
        in_use = [environments[each.slot] for each in self._running]
        slot = min(self._free, key=lambda slot: in_use.count(environments[slot]))  # the least shared GPU
        self._free.remove(slot)
        self._waiting.remove(folder)
        self._launches[folder] += 1
        self._tell("started", folder)
        given = (str(self._store.root.absolute()), self._submission, str(self._index[folder]))
        ranks = {
            rank: processes.make(worker.begin, *given, environment, self._log(folder))
            for rank, environment in enumerate(of_ranks(environments[slot]))
        }
        # Noted before they are started: a Ctrl-C in between must find them.
        self._running.append(_Running(processes=ranks, folder=folder, slot=slot))
        for process in list(ranks.values()):
            processes.start(process)

    def _log(self, folder: str) -> Path:
        return self._store.submission_path(self._submission) / f"{self._index[folder]}.log"

    def _look(self) -> None:
        """Wait a moment for a worker to end, and report what has happened."""
        ready = wait([process.sentinel for process in self._processes()], timeout=POLL_SECONDS)
        for running in list(self._running):
            running.collect(ready)
            if not running.processes:
                self._running.remove(running)
                self._free.append(running.slot)
                self._ended(running)
        now = time.monotonic()
        for running in self._running:
            if now - running.looked_at > LOOK_SECONDS:
                running.looked_at = now
                self._report_progress(running)

    def _report_progress(self, running: _Running) -> None:
        lease = self._store.folder(running.folder).lease()
        progress = lease.progress if lease is not None and lease.live else {}  # a killed one says nothing
        epoch = progress.get("epoch")
        if isinstance(epoch, int) and epoch != running.epoch:
            running.epoch = epoch
            accuracy, left = progress.get("accuracy"), progress.get("seconds_left")
            self._tell("progress", running.folder, epoch=epoch, accuracy=accuracy, seconds_left=left)

    def _ended(self, running: _Running) -> None:
        folder, code = running.folder, running.codes[0]
        if code == worker.DONE and (accuracy := self._best_accuracy(folder)) is not None:
            self._finish(folder, accuracy=accuracy)
        elif code == worker.TRY_AGAIN and self._is_elsewhere(folder):
            self._elsewhere[folder] = time.monotonic() + ELSEWHERE_SECONDS
        elif code == worker.UNUSABLE:
            raise RunError(self._reason(folder, code))
        elif self.outcome.interrupted and code != worker.CRASHED:
            return
        elif len(running.codes) > 1 and running.lost:
            self._fail(folder, f"{running.lost}.\n{self._printed(folder)}".strip())
        elif code not in (worker.DONE, worker.CRASHED, worker.BAD_SPEC) and self._launches[folder] < LAUNCHES:
            self._waiting.add(folder)  # killed, or another process was in the way
        else:
            self._fail(folder, self._reason(folder, code))

    def _best_accuracy(self, folder: str) -> float | None:
        with contextlib.suppress(RunError):
            result = self._store.folder(folder).result()
            return None if result is None else float(result["best"]["accuracy"])
        return None

    def _finish(self, folder: str, *, accuracy: float) -> None:
        self.outcome.done.append(folder)
        self._tell("finished", folder, epoch=self._epochs[folder], accuracy=accuracy)

    def _fail(self, folder: str, reason: str) -> None:
        self.outcome.reasons[folder] = reason
        self._tell("failed", folder, message=reason)
        self._block_children(folder, failed=folder)

    def _block_children(self, folder: str, *, failed: str) -> None:
        for child, teachers in self._teachers.items():
            if folder in teachers and child not in self.outcome.blocked:
                self.outcome.blocked.append(child)
                self._tell("blocked", child, message=f"its teacher {failed} failed")
                self._block_children(child, failed=failed)

    def _tell(self, kind: EventKind, folder: str, **more: Any) -> None:
        self._on_event(Event(kind=kind, folder=folder, epochs=self._epochs[folder], **more))

    def _reason(self, folder: str, code: int) -> str:
        """Why a run failed, in the words it left; else the end of what its process printed."""
        if code < 0:
            return f"killed by {signal.Signals(-code).name}, {LAUNCHES} times (out of memory?)"
        failure = self._store.folder(folder).failure()
        if failure is not None and code == worker.CRASHED:
            return str(failure.get("message", failure.get("kind")))
        printed = self._printed(folder)
        if "Hint:" in printed:
            return printed
        ended = f"its worker ended with exit code {code} and left neither a result nor a reason."
        return "\n".join(filter(None, (ended, printed, UNSAID)))

    def _printed(self, folder: str) -> str:
        """The end of what its processes have printed."""
        with contextlib.suppress(OSError):
            return self._log(folder).read_bytes()[-4000:].decode(errors="replace").strip()
        return ""

    def _is_elsewhere(self, folder: str) -> bool:
        lease = self._store.folder(folder).lease()
        if lease is None or not lease.live:
            return False
        if folder not in self._elsewhere:
            self._tell("waiting", folder, message=f"{lease} works on it")
        return True

    def _look_elsewhere(self) -> None:
        now = time.monotonic()
        for folder in [each for each, when in self._elsewhere.items() if when <= now]:
            state = self._store.folder(folder).state()
            if state.status == "running":
                self._elsewhere[folder] = now + ELSEWHERE_SECONDS
                continue
            del self._elsewhere[folder]
            if state.status == "done" and state.result is not None:
                self._finish(folder, accuracy=state.result["best"]["accuracy"])
            else:
                self._launches[folder] -= 1  # it was not its fault
                self._waiting.add(folder)
