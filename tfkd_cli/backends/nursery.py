"""Workers that start at once: one process that has torch loaded, and forks for each run.

Loading torch takes seconds of a core, as long as many a small run; here it is paid once a command. The
nursery runs no tensor operation itself (a pool of threads does not survive a fork). It reads orders from
its standard input, a JSON object a line, and says on its standard output what becomes of them:

    {"start": 7, "arguments": [STORE, SUBMISSION, INDEX], "environment": {…}, "log": PATH}
    {"signal": 15, "to": 7}                                                      → {"ended": 7, "code": 0}
                                                        (torch does not load) → {"broken": "ImportError: …"}

When its input ends, because the command is done or dead, it terminates what still runs (which saves its
training state), waits for it, and ends. Where there is no safe fork, `Spawned` starts plain processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Protocol

from tfkd_cli.errors import RunError
from tfkd_cli.training import provenance, worker

KILLED = -int(signal.SIGKILL)


class Launcher(Protocol):
    """Starts workers and tells when they have ended; workers go by a number of the caller's."""

    def start(
        self, number: int, arguments: tuple[str, str, str], *, environment: Mapping[str, str], log: Path
    ) -> None:
        """Start a worker that writes what it prints to the end of `log`."""

    def ended(self) -> dict[int, int]:
        """Number → exit code (negative: the signal that killed it) of the workers ended since last asked."""

    def signal(self, number: int, signal_number: int) -> None:
        """Send a signal to a worker, if it still runs."""

    def close(self) -> None:
        """Let go; workers that still run save their state and end."""


def launcher(threads: int) -> Launcher:
    """The one for this platform: macOS and its frameworks do not survive a fork."""
    return Nursery(threads) if sys.platform == "linux" else Spawned()


class Spawned:
    """A fresh process for each worker."""

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def start(
        self, number: int, arguments: tuple[str, str, str], *, environment: Mapping[str, str], log: Path
    ) -> None:
        """See `Launcher`."""
        with log.open("ab") as stream:
            self._running[number] = subprocess.Popen(
                worker.command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=worker.environment(**environment),
                start_new_session=True,
            )

    def ended(self) -> dict[int, int]:
        """See `Launcher`."""
        codes = {number: process.poll() for number, process in self._running.items()}
        ended = {number: code for number, code in codes.items() if code is not None}
        for number in ended:
            del self._running[number]
        return ended

    def signal(self, number: int, signal_number: int) -> None:
        """See `Launcher`."""
        if number in self._running:
            self._running[number].send_signal(signal_number)

    def close(self) -> None:
        """See `Launcher`."""
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait()


class Nursery:
    """The nursery as the command sees it; if it is killed, so are its workers, and it is started anew."""

    def __init__(self, threads: int) -> None:
        self._threads = str(threads)
        self._process: subprocess.Popen[bytes] | None = None
        self._heard = b""
        self._running: set[int] = set()

    def start(
        self, number: int, arguments: tuple[str, str, str], *, environment: Mapping[str, str], log: Path
    ) -> None:
        """See `Launcher`."""
        if self._process is None:
            self._process = self._open()
        self._running.add(number)
        order = {"start": number, "arguments": arguments, "environment": dict(environment), "log": str(log)}
        self._tell(order)

    def ended(self) -> dict[int, int]:
        """See `Launcher`."""
        if self._process is None or self._process.stdout is None:
            return {}
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._process.stdout.fileno(), 1 << 16):
                self._heard += part
            return self._lost()
        return self._said()

    def signal(self, number: int, signal_number: int) -> None:
        """See `Launcher`."""
        if number in self._running:
            self._tell({"signal": signal_number, "to": number})

    def close(self) -> None:
        """See `Launcher`."""
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process.wait()
            self._process = None

    def _open(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tfkd_cli.backends.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker.environment(OMP_NUM_THREADS=self._threads, MKL_NUM_THREADS=self._threads),
            start_new_session=True,
            bufsize=0,
        )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def _tell(self, order: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `ended` will find out
            self._process.stdin.write(json.dumps(order).encode() + b"\n")

    def _lost(self) -> dict[int, int]:
        """The nursery is gone. Its workers notice, save and end."""
        ended = self._said()
        ended |= dict.fromkeys(self._running, KILLED)
        self.close()
        self._heard, self._running = b"", set()
        return ended

    def _said(self) -> dict[int, int]:
        *lines, self._heard = self._heard.split(b"\n")
        said = [json.loads(line) for line in lines]
        if broken := next((each["broken"] for each in said if "broken" in each), None):
            raise RunError(
                f"the process that trains cannot start: {broken}.",
                expected="torch loads, which takes about 4 GB of address space.",
                hint="a limit on memory (ulimit -v)? `tfkd doctor` looks at the installation.",
            )
        ended = {each["ended"]: each["code"] for each in said}
        self._running -= ended.keys()
        return ended


def serve() -> int:
    """The nursery itself: `python -m tfkd_cli.backends.nursery`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _load()
    except (ImportError, MemoryError, OSError) as error:
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
        os.write(1, json.dumps({"broken": f"{type(error).__name__}: {reason}"[:400]}).encode() + b"\n")
        return 1
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(wake, selectors.EVENT_READ)
    children: dict[int, int] = {}  # process → number
    heard = b""
    open_input = True
    while open_input or children:
        for key, _ in selector.select():
            part = os.read(key.fd, 1 << 16)
            if key.fd == wake:
                continue
            if not part:
                open_input = False
                selector.unregister(0)
                _signal_all(children, signal.SIGTERM)
            *lines, heard = (heard + part).split(b"\n")
            for line in lines:
                _obey(json.loads(line), children)
        _report(children)
    return 0


def _load() -> None:
    """What every worker would do: import torch and what its optimisers import, ask git for the commit."""
    import torch._dynamo  # noqa: F401

    from tfkd_cli.training import runner  # noqa: F401

    for cached in (provenance.code, provenance.versions, provenance.cpu_name):
        cached()


def _obey(order: Mapping[str, Any], children: dict[int, int]) -> None:
    if "start" in order:
        # A stop that comes before the worker listens waits until it does.
        signal.pthread_sigmask(signal.SIG_BLOCK, worker.HEARD)
        process = os.fork()
        if process == 0:
            _become_worker(order)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, worker.HEARD)
        children[process] = order["start"]
        return
    for process, number in children.items():
        if number == order["to"]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, order["signal"])


def _become_worker(order: Mapping[str, Any]) -> NoReturn:
    """In the forked process: a session, output and environment of its own, then the worker; never returns."""
    code = worker.CRASHED
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.closerange(3, 256)
        os.environ.update(order["environment"])
        sys.argv = ["tfkd_cli.training.worker", *order["arguments"]]
        code = worker.main(*order["arguments"])
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _report(children: dict[int, int]) -> None:
    """Reap the children that have ended and say so."""
    while children:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not process:
            return
        number = children.pop(process, None)
        line = json.dumps({"ended": number, "code": os.waitstatus_to_exitcode(status)}).encode() + b"\n"
        with contextlib.suppress(OSError):
            os.write(1, line)


def _signal_all(children: Mapping[int, int], number: int) -> None:
    for process in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


if __name__ == "__main__":
    sys.exit(serve())
