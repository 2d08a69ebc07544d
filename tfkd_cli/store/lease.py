"""Who works on a run: a hint that saves time. A duplicate costs time, never correctness.

`attempts/0003/owner.json` says who made this attempt and, replaced at every heartbeat, how far it is.
"""

from __future__ import annotations

import os
import socket
import time
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

OWNER = "owner.json"
_LIMIT = 64 << 10  # bytes


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """The last sign of life of an attempt: who, and how far."""

    host: str
    pid: Count
    process_start: str
    slurm: str | None = None
    progress: Mapping[str, int | Number | None] = {}
    age: float = 0.0  # seconds, by the time of the file

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.split()[0] if self.host else '?'}"

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
    slurm = os.environ.get(JOB_VARIABLE)
    return {
        "host": this_host(), "pid": pid, "process_start": _process_start(pid), "slurm": slurm, **given
    }  # fmt: skip


def encode(owner: Mapping[str, Any], *, progress: Mapping[str, Any]) -> bytes:
    """The bytes of a lease."""
    return files.encode_json({**owner, "progress": dict(progress)})


def read(path: Path) -> Lease | None:
    """The lease in a file; a damaged one is none."""
    try:
        found: Lease | None = reading.read_as(path, Lease, limit=_LIMIT)
        return found and msgspec.structs.replace(found, age=time.time() - path.lstat().st_mtime)
    except (OSError, RunError):
        return None


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
