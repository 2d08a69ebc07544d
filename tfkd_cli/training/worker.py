"""What a backend starts: `python -m tfkd_cli.training.worker STORE SUBMISSION INDEX`.

Three strings say everything; the rest is JSON in the store (`submission`). On SIGUSR2 or SIGTERM the
training state is saved at the next step boundary and the worker ends. INDEX is that of a job of the
submission; where it has several runs, each gets a worker of its own, `INDEX.MEMBER`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from tfkd_cli.errors import RunError, TfkdError
from tfkd_cli.regular_files import open_to_append
from tfkd_cli.training import provenance
from tfkd_cli.training.submission import Job, JobRun, read_job

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

DONE, CRASHED, BAD_SPEC, UNUSABLE, TRY_AGAIN, CANCELLED = 0, 1, 65, 69, 75, 143
URGENCY = (DONE, CANCELLED, TRY_AGAIN, BAD_SPEC, UNUSABLE, CRASHED)  # of the runs of a pack, the last counts

ASKED = "USR2"
TERMINATED = "TERM"
ORPHANED = "the process that started this one is gone"

HEARD = frozenset({signal.SIGUSR2, signal.SIGTERM})
RANK_SECONDS = 15  # for the other ranks of a run to end by themselves once one has failed

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h of glibc
LARGEST_INT = (1 << 31) - 1

log = logging.getLogger("tfkd")


class Stop:
    """The reason to stop, once there is one; signal handlers only note it.

    Python drops what a handler raises in a finaliser or in a callback of the import system.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._parent = os.getppid()
        self.children: list[subprocess.Popen[bytes]] = []

    def __call__(self) -> str | None:
        """The reason, None while there is none; asked while data are prepared, and at step boundaries."""
        if self.reason is None and os.getppid() != self._parent:
            self.reason = ORPHANED
        return self.reason

    def listen(self) -> None:
        """Take over SIGUSR2 and SIGTERM; Ctrl-C is for whoever started this process."""
        signal.signal(signal.SIGUSR2, self._note)
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)  # blocked until here by `backends.processes`
        if (parent := multiprocessing.parent_process()) is not None:
            threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Cancelled is final: a time limit that passes while we save does not bring a run back.
        if self.reason != TERMINATED:
            self.reason = ASKED if number == signal.SIGUSR2 else TERMINATED
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)


def _end_with(parent: BaseProcess) -> None:
    """Terminate this process once the one that started it has ended, even by SIGKILL, or lets go of it."""
    parent.join()
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def rank() -> int:
    """Which of the processes of a data-parallel run this is; 0, which alone writes, in every other run."""
    return int(os.environ.get("RANK") or 0)


def exit_code(reason: str) -> int:
    """What a stopped worker says where no scheduler has a policy: only USR2 is worth another try."""
    return TRY_AGAIN if reason == ASKED else CANCELLED


def main(
    store: str,
    submission: str,
    index: str,
    *,
    stop: Stop | None = None,
    on_stop: Callable[[str], int] = exit_code,
) -> int:
    """Do the runs at `index`; the exit code: 0 done, 75 try again, 143 cancelled, 65 bad spec, 1 failed.

    `on_stop` is a scheduler's policy: it gets the reason of a stop (the state is saved) and gives the code.
    `stop` is given by a scheduler that listens already.
    """
    stop = stop or Stop()
    stop.listen()
    try:
        return do(read_job(store, submission, index), stop=stop, on_stop=on_stop)
    except TfkdError as error:
        print(error, file=sys.stderr)
        return BAD_SPEC


def do(job: Job, *, stop: Stop, on_stop: Callable[[str], int]) -> int:
    """Do the runs of a job that was read already; the exit code. TfkdError for a folder of another run."""
    if len(job.runs) > 1:
        return _do_pack(job, stop=stop, on_stop=on_stop)
    [run] = job.runs
    if not rank():
        job.store.run(run.spec).declare(run.spec)
    return _do_run(job, run, stop=stop, on_stop=on_stop)


def begin(store: str, submission: str, index: str, environment: Mapping[str, str], log: Path) -> NoReturn:
    """`main` in a process of its own session that prints to the end of `log`; its exit code ends it."""
    os.setsid()
    with open_to_append(log) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.environ.update(environment)
    sys.exit(main(store, submission, index))


def _do_run(job: Job, run: JobRun, *, stop: Stop, on_stop: Callable[[str], int]) -> int:
    _prepare_process(job)
    from tfkd_cli.training import preload  # torch: only now, with its threads set

    if preload.failure is not None:
        print(preload.failure, file=sys.stderr)
        return UNUSABLE
    from tfkd_cli.training import runner
    from tfkd_cli.training.ranks import Ranks

    if reason := stop():  # while torch was imported
        return on_stop(reason)
    try:
        runner.run(
            run.spec, store=job.store, execution=job.execution, stop=stop,
            cache_logits=run.caches_logits, weights=run.weights,
            ranks=Ranks.of_environment(sync_batch_norm=job.execution.sync_batch_norm),
        )  # fmt: skip
        return DONE
    except runner.Interrupted as stopped:
        return on_stop(str(stopped))
    except runner.Blocked as blocked:
        print(blocked, file=sys.stderr)
        return TRY_AGAIN
    except TfkdError as error:
        print(error, file=sys.stderr)
    except KeyboardInterrupt:
        why = RunError("the student's own code raised KeyboardInterrupt.", hint="look into its module.")
        print(why, file=sys.stderr)
    return CRASHED


def _prepare_process(job: Job) -> None:
    """Threads and memory of this process, before torch is there to look at them."""
    numerics = job.store.folder(job.folders[0]).numerics() or {}
    threads = numerics.get("threads") or job.execution.threads
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ["MKL_NUM_THREADS"] = str(threads)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep the memory of freed activations: else each step asks the kernel for zeroed pages."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, LARGEST_INT)


def _do_pack(job: Job, *, stop: Stop, on_stop: Callable[[str], int]) -> int:
    """A worker for each run of the pack, at once; the most urgent of their exit codes."""
    for member in range(len(job.folders)):
        arguments = (str(job.store.root), job.submission, f"{job.index}.{member}")
        stop.children.append(subprocess.Popen(command(*arguments), env=environment()))
        if stop.reason is not None:
            break
    codes = [child.wait() for child in stop.children]
    done = all(job.store.folder(name).result() is not None for name in job.folders)
    if stop.reason is not None and not done:
        return on_stop(stop.reason)
    if not done:  # even if all ended with 0, as a student's own os._exit(0) does
        codes = [code if code in URGENCY else CRASHED for code in codes]
        return max(codes, key=URGENCY.index) or CRASHED
    return DONE


def command(store: str, submission: str, index: str) -> list[str]:
    """The command line of a worker."""
    return [sys.executable, "-P", "-m", "tfkd_cli.training.worker", store, submission, index]


def environment(**more: str) -> dict[str, str]:
    """The environment of a worker: it must find the very package that starts it."""
    path = os.pathsep.join(filter(None, [str(provenance.PACKAGE.parent), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def run_command_line(arguments: Sequence[str]) -> int:
    """The entry of `python -m tfkd_cli.training.worker`."""
    if len(arguments) != 3:
        print("usage: python -m tfkd_cli.training.worker STORE SUBMISSION INDEX", file=sys.stderr)
        return 2
    return main(*arguments)


if __name__ == "__main__":
    sys.exit(run_command_line(sys.argv[1:]))
