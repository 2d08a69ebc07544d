"""Two more processes for work that comes in hundreds: parsing a large store, drawing many pictures."""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import ProcessPoolExecutor

Task = TypeVar("Task")
Outcome = TypeVar("Outcome")

PROCESSES = 2
FEW = 6  # tasks that one of them does as soon as two would
PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl(2)


class Workers:
    """Processes that are started when there is enough to do, and that never outlive this one."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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


def _pool(processes: int) -> ProcessPoolExecutor:
    import multiprocessing
    import warnings
    from concurrent.futures import ProcessPoolExecutor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: forked beside the idle threads of BLAS
        pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), initializer=_begin)
        for _ in range(processes):
            pool.submit(int)  # all are forked now
    return pool


def _begin() -> None:
    """Ctrl-C is the parent's to handle; a killed parent takes its workers along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGKILL)
