"""Processes that are forked from one that has torch loaded, by multiprocessing's forkserver.

Loading torch takes seconds, as long as many a small run; here it is paid once per command. The forkserver is
started by the first process and ends when this process and all that it forked have ended, even if this
process is killed. On macOS, whose frameworks do not survive a fork, each process is a fresh one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess

from tfkd_cli.errors import RunError
from tfkd_cli.training import worker

KILLED = -int(signal.SIGKILL)
PAUSES = (0.1, 0.5, 2.0)  # seconds after a start in which the forkserver died
LOST = 255  # what multiprocessing gives as the exit code of a process whose forkserver was killed

FORKS = sys.platform == "linux"
_context = multiprocessing.get_context("forkserver") if FORKS else multiprocessing.get_context("spawn")
_context.set_forkserver_preload(["tfkd_cli.training.preload"])


def make(target: Callable[..., object], *arguments: object) -> BaseProcess:
    """A process that will call `target(*arguments)`; its `pid` is None until it is started."""
    return _context.Process(target=target, args=arguments)


def start(process: BaseProcess) -> BaseProcess:
    """Start a process and return it; the first call waits until torch is loaded.

    A forkserver that was killed is started anew. A worker whose start Ctrl-C interrupts ends by itself.
    Raises RunError when no process can be started.
    """
    reason = ""
    for pause in PAUSES:
        try:
            _start(process)
            return process
        except (EOFError, ConnectionError):
            reason = "the process that loads torch was killed again and again (out of memory?)"
            time.sleep(pause)  # a process that has been killed may exist for a moment
        except OSError as error:
            reason = str(error)
            break
    raise RunError(
        f"no process can be started: {reason}.",
        expected="about 4 GB of address space, and a folder for temporary files with a short path.",
        hint="look at the limits of this shell (ulimit -a) and at TMPDIR.",
    )


def _start(process: BaseProcess) -> None:
    if FORKS:
        resource_tracker.ensure_running()  # else it is started below, and unblocks the signals again
        with _inherited():
            forkserver.ensure_running()
    process.start()


def end(process: BaseProcess) -> int:
    """The exit code of a process that has ended, negative for a signal.

    It is KILLED, too, where the forkserver was killed: its workers notice, save and end.
    """
    code = process.exitcode
    process.close()
    return KILLED if code in (None, LOST) else code


@contextlib.contextmanager
def _inherited() -> Iterator[None]:
    """What the forkserver gets from this process, and passes on to all that it forks.

    Signals that a worker listens to are blocked until it does, so that an early one is not lost; Ctrl-C is
    for this process alone. One thread for libraries that start theirs when they are loaded (a pool does
    not survive a fork); a worker sets the number of torch's threads before it computes.
    """
    given = worker.environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    before = dict(os.environ)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, worker.HEARD | {signal.SIGINT})
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
