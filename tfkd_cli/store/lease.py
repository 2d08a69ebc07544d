"""Who works on a run: a hint that saves time. A duplicate costs time, never correctness.

`attempts/0003/owner.json` says who began an attempt; `lease.json` beside it all, replaced at every heartbeat,
how far the newest one is.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from tfkd_cli.errors import RunError
from tfkd_cli.schema import Count, Number
from tfkd_cli.store import files, reading

LIVE_SECONDS = 600.0
"""A heartbeat older than this means that its owner has ended, unless SLURM knows better."""

JOB_VARIABLE = "TFKD_JOB"
"""Set in a job that tfkd's SLURM backend started, to its id; being inside an allocation alone is not that."""

LEASE = "lease.json"
OWNER = "owner.json"
_LIMIT = 64 << 10  # bytes


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The last sign of life: who, in which attempt, how far; lease.json and owner.json."""

    owner: str = msgspec.field(name="uuid")
    attempt: Count
    host: str = ""
    pid: Count = 0
    process_start: str = ""
    slurm: str | None = None
    progress: Mapping[str, int | Number | None] = {}
    age: float = 0.0  # seconds, by the time of the file

    @property
    def live(self) -> bool:
        """Whether somebody seems to work: a fresh heartbeat, and a process that exists where we can see."""
        if abs(self.age) > LIVE_SECONDS:
            return False
        if self.host != this_host():
            return True
        start = _process_start(self.pid)
        return bool(start) and self.process_start in ("", start)


def new_owner(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `given` says about an owner, completed by what this process knows of itself."""
    pid = os.getpid()
    return {
        "uuid": uuid.uuid4().hex,
        "host": this_host(),
        "pid": pid,
        "process_start": _process_start(pid),
        "slurm": os.environ.get(JOB_VARIABLE),
        **{key: value for key, value in given.items() if value is not None},
    }


def encode(owner: Mapping[str, Any], *, attempt: int, progress: Mapping[str, Any]) -> bytes:
    """The bytes of a lease."""
    return files.encode_json({**owner, "attempt": attempt, "progress": dict(progress)})


def read(path: Path, *, clock: Clock) -> Lease | None:
    """The lease in a file; a damaged one is none."""
    try:
        written = path.stat().st_mtime
        found: Lease | None = reading.read_as(path, Lease, limit=_LIMIT)
    except (OSError, RunError):
        return None
    return found and msgspec.structs.replace(found, age=clock.now() - written)


@cache
def this_host() -> str:
    """This machine, and the process numbers valid on it: containers share host names but not processes."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink().name
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}".strip()


def _process_start(pid: int) -> str:
    """When process `pid` of this machine began; "" where there is none. A number alone may be used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _exists(pid)
    return "" if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> str:
    """Without /proc (macOS): "alive" or ""."""
    if pid <= 0 or Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "alive"


class Clock:
    """The file server's time, in seconds: what it stamps on files, whatever this machine's clock says."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ahead: float | None = None

    def now(self) -> float:
        """The server's time; asked once by a probe file, this machine's where none can be written."""
        if self._ahead is None:
            self._ahead = self._probe()
        return time.time() + self._ahead

    def _probe(self) -> float:
        probe = self._folder / f".clock.{uuid.uuid4().hex[:16]}.tmp"
        try:
            with probe.open("xb") as stream:
                stream.write(b"?")
                stream.flush()
                os.fsync(stream.fileno())
                stamped = os.fstat(stream.fileno()).st_mtime
        except OSError:
            return 0.0
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
        ahead = stamped - time.time()
        return ahead if abs(ahead) > 1.0 else 0.0
