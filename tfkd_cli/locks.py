"""Locks that save work; any death frees them. Without them work is done twice, never wrongly."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(path: Path) -> Iterator[bool | None]:
    """Try to hold a lock file: True when it is ours, False when another's, None where there are no locks."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("a"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mine: bool | None = False
        except OSError:  # a file system without locks, read-only, full, or the folder is gone
            mine = None
        else:
            mine = True
        yield mine
