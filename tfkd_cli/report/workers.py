"""More processes: two for work that comes in hundreds (parsing, drawing), one that writes meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from tfkd_cli.errors import RunError

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkProcess

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")

PROCESSES = 2
FEW = 6  # tasks that one of them does as soon as two would
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl(2)


class Workers:
    """Processes that are started when there is enough to do, and that never outlive this one."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._apart: list[ForkProcess] = []

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._apart:
            process.kill()
            process.join()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def start(
        self, function: Callable[[Task], Outcome], tasks: Sequence[Task], *, many: int
    ) -> Iterator[Outcome]:
        """The outcomes in order; few tasks are done when asked for, many (or any, once started) begin now."""
        if self._pool is None:
            if len(tasks) < many or PROCESSES < 2 or sys.platform != "linux":
                return map(function, tasks)
            self._pool = _pool(1 if len(tasks) < FEW else PROCESSES)  # each imports matplotlib
        return self._pool.map(function, tasks, chunksize=max(1, len(tasks) // 64))

    def apart(self, work: Callable[[], None]) -> Callable[[], None]:
        """Do `work`, whose only effects are files, in a process of its own; call what comes back to wait.

        That raises what `work` raised, and RunError where its process was ended.
        """
        if sys.platform != "linux":
            work()
            return lambda: None
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_do, args=(work, there))
        with _quietly():
            process.start()
        there.close()
        self._apart.append(process)

        def wait() -> None:
            try:
                error = here.recv()
            except EOFError:
                error = RunError(
                    "a process that wrote a part of the report was ended.",
                    expected="some hundred MB of free memory.",
                    hint="the old report stands; try again.",
                )
            if error is not None:
                raise error

        return wait


def _do(work: Callable[[], None], there: Connection) -> None:
    _begin()
    try:
        work()
    except Exception as error:  # raised again in the parent
        there.send(error)
    else:
        there.send(None)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: forked beside the idle threads of BLAS
        yield


def _pool(processes: int) -> ProcessPoolExecutor:
    from concurrent.futures import ProcessPoolExecutor

    with _quietly():
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), initializer=_begin)
        for _ in range(processes):
            pool.submit(int)  # all are forked now
    return pool


def _begin() -> None:
    """Ctrl-C is the parent's to handle; a killed parent takes its workers along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
