"""Opening a file that somebody else named: regular files only, and never waiting for one."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path


def open_regular(path: Path, *, follow_links: bool = True) -> io.BufferedReader:
    """`path` for reading; OSError when it is a pipe, a socket, a device, a folder or cannot be opened.

    A plain `open` of a pipe without a writer never returns (fifo(7)); O_NONBLOCK makes it return at once.
    """
    links = 0 if follow_links else os.O_NOFOLLOW
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | links)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _not_regular(path) from error
        raise
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise _not_regular(path)


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "it is a folder, a pipe, a socket or a device", str(path))
