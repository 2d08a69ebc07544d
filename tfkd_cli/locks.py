"""Lock files that prevent duplicate work. Correctness never depends on them."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tfkd_cli.regular_files import open_to_append

WAIT_SECONDS = 0.05  # between two attempts to lock


@contextlib.contextmanager
def held(path: Path, *, while_waiting: Callable[[], None]) -> Iterator[bool]:
    """Hold a lock file; yields False where it cannot be locked.

    While another process holds it, `while_waiting` is called every WAIT_SECONDS; an exception raised there
    ends the waiting. The kernel releases the lock when its holder ends, however it ends.
    """
    try:
        file = open_to_append(path)
    except OSError:  # read-only, full, no such folder, or a link
        yield False
        return
    with file:
        while (locked := _lock(file)) is None:
            while_waiting()
            time.sleep(WAIT_SECONDS)
        try:
            yield locked
        finally:
            # A process that was forked meanwhile has the file open, too, and would keep the lock.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)


def _lock(file: IO[Any]) -> bool | None:
    """Lock until the file is closed: True; None if another process holds the lock, False without locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError:  # some network file systems have no locks
        return False
    return True
