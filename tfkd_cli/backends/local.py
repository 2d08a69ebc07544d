"""Runs on this machine: a bounded pool, one process per run, each with its fixed share of the cores or a GPU.

Slots are fixed for the whole command and so are the threads of a run, for its numbers depend on them:
on the CPU as many slots as runs could ever go at once (at most --jobs, or the cores), threads = cores ÷
slots; on GPUs one slot per GPU, or --jobs slots shared out among them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter
from typing import BinaryIO

from tfkd_cli import provenance, worker
from tfkd_cli.backends import Event, Outcome, shared_answers, submit
from tfkd_cli.errors import RunError
from tfkd_cli.execution import Execution
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import RunState, Store

POLL_SECONDS = 0.05
LOOK_SECONDS = 0.5  # between two looks at the progress of a run
ELSEWHERE_SECONDS = 3.0  # between two looks at a run another process works on
LAUNCHES = 3  # of a run that is killed again and again

OnEvent = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Slots:
    """How many runs go at once, and what each gets."""

    environments: tuple[Mapping[str, str], ...]  # one per slot
    threads: int
    device: str


def slots(specs: Sequence[RunSpec], *, execution: Execution, jobs: int | None) -> Slots:
    """The slots for these runs: pass all runs of a request, done or not, so that going on uses the same."""
    gpus = _gpus(execution.device)
    cores = provenance.cores()
    if gpus:
        number = jobs or len(gpus)
        environments = tuple({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} for slot in range(number))
        return Slots(
            environments=environments, threads=execution.threads or max(1, cores // number), device="cuda"
        )
    number = max(1, min(jobs or _default_jobs(cores, execution), width(specs)))
    threads = execution.threads or max(1, cores // number)
    return Slots(environments=({},) * number, threads=threads, device=execution.device)


def _default_jobs(cores: int, execution: Execution) -> int:
    if execution.device == "mps":
        return 1
    return max(1, cores // (execution.threads or 1))


def width(specs: Sequence[RunSpec]) -> int:
    """The most runs that can go at once: those with equally many generations of teachers before them."""
    generation: dict[str, int] = {}

    def depth(spec: RunSpec) -> int:
        if spec.key not in generation:
            generation[spec.key] = 1 + max((depth(parent) for parent in spec.parents), default=0)
        return generation[spec.key]

    for spec in specs:
        depth(spec)
    return max(Counter(generation.values()).values(), default=1)


def _gpus(device: str) -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name; found without torch."""
    if device == "cpu" or device == "mps":
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        found = [each.strip() for each in visible.split(",") if each.strip() not in ("", "-1")]
    else:
        found = [str(number) for number in range(_count_gpus())]
    kind, _, number = device.partition(":")
    return found[int(number) : int(number) + 1] if kind == "cuda" and number.isdigit() else found


def _count_gpus() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run([program, "-L"], capture_output=True, timeout=30, check=True)
        return sum(line.startswith(b"GPU ") for line in listed.stdout.splitlines())
    return 0


def run_local(
    specs: Sequence[RunSpec], *, store: Store, execution: Execution, jobs: int | None, on_event: OnEvent
) -> Outcome:
    """Do the runs of a request that are not done, parents first; Ctrl-C stops them, a second one at once."""
    pool = _Pool(specs, store=store, execution=execution, jobs=jobs, on_event=on_event)
    try:
        pool.work()
    except KeyboardInterrupt:
        pool.interrupt()
    return pool.outcome()


def unfinished(specs: Sequence[RunSpec], states: Mapping[str, RunState]) -> list[RunSpec]:
    """The runs to do: those without result, and those whose lost weights an unfinished run needs."""
    todo: dict[str, RunSpec] = {}

    def add(spec: RunSpec) -> None:
        if spec.key not in todo:
            todo[spec.key] = spec
            for parent in spec.parents:
                state = states.get(parent.key)
                if state is not None and not (state.status == "done" and state.weights):
                    add(parent)

    for spec in specs:
        if states[spec.key].status != "done":
            add(spec)
    return [spec for spec in specs if spec.key in todo]


@dataclass(kw_only=True)
class _Running:
    folder: str
    slot: int
    process: subprocess.Popen[bytes]
    log: BinaryIO
    looked_at: float = 0.0
    epoch: int = -1


class _Pool:
    def __init__(
        self,
        specs: Sequence[RunSpec],
        *,
        store: Store,
        execution: Execution,
        jobs: int | None,
        on_event: OnEvent,
    ) -> None:
        self._store, self._on_event = store, on_event
        self._slots = slots(specs, execution=execution, jobs=jobs)
        states = store.scan(spec.key for spec in specs)
        todo = unfinished(specs, states)
        self._done = [spec.folder for spec in specs if spec not in todo]
        self._failed: list[str] = []
        self._blocked: list[str] = []
        self.interrupted = False
        self._epochs = {spec.folder: spec.recipe.epochs for spec in todo}
        self._children: dict[str, list[str]] = {spec.folder: [] for spec in todo}
        self._graph: TopologicalSorter[str] = TopologicalSorter()
        for spec in todo:
            store.run(spec).declare(spec)
            parents = [parent.folder for parent in spec.parents if parent.folder in self._epochs]
            self._graph.add(spec.folder, *parents)
            for parent in parents:
                self._children[parent].append(spec.folder)
        self._graph.prepare()
        self._index = {spec.folder: index for index, spec in enumerate(todo)}
        self._submission = self._submit(todo, execution, answers=shared_answers(specs)) if todo else ""
        self._ready: list[str] = []
        self._free = list(range(len(self._slots.environments)))[::-1]
        self._running: list[_Running] = []
        self._elsewhere: dict[str, float] = {}  # folder → when to look again
        self._launches: Counter[str] = Counter()

    def _submit(self, todo: Sequence[RunSpec], execution: Execution, *, answers: Sequence[str]) -> str:
        fixed = replace(execution, threads=self._slots.threads, device=self._slots.device)
        packs = [[spec.folder] for spec in todo]
        return submit(packs, store=self._store, execution=fixed, answers=answers, backend="local")

    def work(self) -> None:
        """Until nothing runs and nothing can be started."""
        while True:
            self._ready += self._graph.get_ready()
            self._look_elsewhere()
            while self._ready and self._free:
                self._start(self._ready.pop(0))
            if not (self._running or self._elsewhere or self._ready):
                return
            time.sleep(POLL_SECONDS)
            for each in list(self._running):
                self._look_at(each)

    def _start(self, folder: str) -> None:
        slot = self._free.pop()
        self._launches[folder] += 1
        index = str(self._index[folder])
        path = self._store.submission_path(self._submission) / f"{index}.log"
        log = path.open("ab")
        process = subprocess.Popen(
            worker.command(str(self._store.root.absolute()), self._submission, index),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=worker.environment(**self._slots.environments[slot]),
            start_new_session=True,
        )
        self._running.append(_Running(folder=folder, slot=slot, process=process, log=log))
        self._on_event(Event(kind="started", folder=folder, epochs=self._epochs[folder]))

    def _look_at(self, running: _Running) -> None:
        code = running.process.poll()
        if code is not None:
            self._running.remove(running)
            self._free.append(running.slot)
            running.log.close()
            self._ended(running.folder, code)
        elif time.monotonic() - running.looked_at > LOOK_SECONDS:
            running.looked_at = time.monotonic()
            self._report_progress(running)

    def _report_progress(self, running: _Running) -> None:
        lease = self._store.folder(running.folder).lease()
        progress = lease.progress if lease is not None else {}
        epoch = progress.get("epoch")
        if isinstance(epoch, int) and epoch != running.epoch:
            running.epoch = epoch
            self._on_event(
                Event(
                    kind="progress",
                    folder=running.folder,
                    epoch=epoch,
                    epochs=self._epochs[running.folder],
                    accuracy=progress.get("accuracy"),
                    seconds_left=progress.get("seconds_left"),
                )
            )

    def _ended(self, folder: str, code: int) -> None:
        result = None
        with contextlib.suppress(RunError):
            result = self._store.folder(folder).result()
        if code == worker.DONE and result is not None:
            self._finish(folder, accuracy=result["best"]["accuracy"])
        elif code == worker.TRY_AGAIN and self._is_elsewhere(folder):
            self._elsewhere[folder] = time.monotonic() + ELSEWHERE_SECONDS
        elif self.interrupted:
            return
        elif (code < 0 or code in (worker.CANCELLED, worker.TRY_AGAIN)) and self._launches[folder] < LAUNCHES:
            self._ready.append(folder)
        else:
            self._fail(folder, self._reason(folder, code))

    def _finish(self, folder: str, *, accuracy: float | None) -> None:
        self._done.append(folder)
        self._graph.done(folder)
        epochs = self._epochs[folder]
        self._on_event(Event(kind="finished", folder=folder, epoch=epochs, epochs=epochs, accuracy=accuracy))

    def _fail(self, folder: str, reason: str) -> None:
        self._failed.append(folder)
        self._on_event(Event(kind="failed", folder=folder, epochs=self._epochs[folder], message=reason))
        self._block(folder, by=folder)

    def _block(self, folder: str, *, by: str) -> None:
        for child in self._children[folder]:
            if child not in self._blocked:
                self._blocked.append(child)
                self._on_event(
                    Event(
                        kind="blocked",
                        folder=child,
                        epochs=self._epochs[child],
                        message=f"its teacher {by} failed",
                    )
                )
                self._block(child, by=by)

    def _reason(self, folder: str, code: int) -> str:
        """Why a run failed, in the words it left; else the end of what its process printed."""
        if code < 0:
            return f"killed by {signal.Signals(-code).name} {LAUNCHES} times (out of memory?)"
        failure = self._store.folder(folder).failure()
        if failure is not None and code == worker.CRASHED:
            return str(failure.get("message", failure.get("kind")))
        path = self._store.submission_path(self._submission) / f"{self._index[folder]}.log"
        with contextlib.suppress(OSError):
            return path.read_bytes()[-4000:].decode(errors="replace").strip() or f"exit code {code}"
        return f"exit code {code}"

    def _is_elsewhere(self, folder: str) -> bool:
        lease = self._store.folder(folder).lease()
        if lease is None or not lease.live:
            return False
        if folder not in self._elsewhere:
            message = f"process {lease.pid} on {lease.host.split()[0] if lease.host else '?'} works on it"
            self._on_event(Event(kind="waiting", folder=folder, epochs=self._epochs[folder], message=message))
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
                self._ready.append(folder)

    def interrupt(self) -> None:
        """Stop all children and wait until they have saved; another Ctrl-C kills them."""
        self.interrupted = True
        try:
            for each in self._running:
                each.process.terminate()
            while self._running:
                for each in list(self._running):
                    self._look_at(each)
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            for each in self._running:
                each.process.kill()
            for each in self._running:
                each.process.wait()

    def outcome(self) -> Outcome:
        """What became of the runs so far."""
        return Outcome(
            done=tuple(self._done),
            failed=tuple(self._failed),
            blocked=tuple(self._blocked),
            interrupted=self.interrupted,
        )
