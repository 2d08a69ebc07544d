"""Starting, finding and ending the daemons of one cluster, by process id, never by name.

A process is ours when its id and start time are those we wrote down and its environment names our
SLURM_CONF. Anything else is left alone, so several clusters live side by side.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from config import Layout


class Daemons:
    """The processes of one cluster: `run/NAME.pid` holds "PID START-TIME" of each."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        # Also the mark by which our processes are recognised.
        self.cache_prefix = f"SLURM_CONF={layout.slurm_conf}"

    def start(self, name: str, command: Sequence[str], *, ready: Callable[[], bool]) -> None:
        """Start a daemon in the foreground of its own session, and wait until it answers."""
        if self.pid(name) is not None:
            return
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("SLURM_")},
            "SLURM_CONF": str(self.layout.slurm_conf),
            "MYSQL_UNIX_PORT": str(self.layout.database_socket),
        }
        with self.layout.log(f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                [_program(command[0]), *command[1:]],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._pid_file(name).write_text(f"{process.pid} {start_time(process.pid)}\n")
        if (
            not wait_until(lambda: ready() or process.poll() is not None, seconds=30)
            or process.poll() is not None
        ):
            raise SystemExit(
                f"{name} did not start; see {self.layout.log(name)} and {name}.out.log beside it"
            )

    def pid(self, name: str) -> int | None:
        """The id of a daemon that we started and that still lives."""
        try:
            pid, began = self._pid_file(name).read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        alive = start_time(int(pid)) == began and self.cache_prefix in environment_of(int(pid))
        return int(pid) if alive else None

    def stop(self, name: str, *, sent: signal.Signals = signal.SIGTERM, seconds: float = 10) -> None:
        """End a daemon; SIGKILL when it is deaf for `seconds`."""
        pid = self.pid(name)
        if pid is None:
            return
        os.kill(pid, sent)
        if not wait_until(lambda: self.pid(name) is None, seconds=seconds):
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: self.pid(name) is None, seconds=5)
        self._pid_file(name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Daemons that were started and not stopped by us."""
        return sorted(path.stem for path in (self.layout.root / "run").glob("*.pid"))

    def job_processes(self) -> Iterator[int]:
        """slurmstepd of this cluster, and whatever runs inside its jobs (orphans too)."""
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == os.getpid():
                continue
            environment = environment_of(int(folder.name))
            if self.cache_prefix not in environment:
                continue
            in_a_job = any(each.startswith("SLURM_JOB_ID=") for each in environment)
            if in_a_job or program_of(int(folder.name)) == "slurmstepd":
                yield int(folder.name)

    def kill_jobs(self) -> None:
        """SIGKILL for every process of a job that is left."""
        for pid in list(self.job_processes()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _pid_file(self, name: str) -> Path:
        return self.layout.root / "run" / f"{name}.pid"


def start_time(pid: int) -> str:
    """When a process began, in ticks since boot; empty when it has ended (a zombie has)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def environment_of(pid: int) -> list[str]:
    """A process's environment as it was started; empty when it is not ours to read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def program_of(pid: int) -> str:
    """The name of the program a process runs."""
    try:
        return Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return ""


def wait_until(condition: Callable[[], bool], *, seconds: float) -> bool:
    """True as soon as `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _program(name: str) -> str:
    # Debian keeps daemons in /usr/sbin, which is not on an ordinary user's PATH.
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise SystemExit(
            f"{name} is not installed.\n  Debian: apt-get install --no-install-recommends slurm-wlm munge"
            " slurmdbd mariadb-server-core"
        )
    return found
