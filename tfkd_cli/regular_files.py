"""Opening a file that somebody else named: regular files only, and never waiting for one."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

WEIGHTS_LIMIT = 8 << 30
"""Bytes above which a file of weights is refused: the largest network here (ResNeXt101) has 0.35 GB."""


def open_regular(
    path: Path, *, follow_links: bool = True, below: Path | None = None, limit: int | None = None
) -> io.BufferedReader:
    """`path` for reading; OSError when it is a pipe, a socket, a device, a folder or cannot be opened.

    `below`: nothing between this folder and `path` may be a link, nor `path` itself; `limit`: at most so many
    bytes. A plain `open` of a pipe without a writer never returns (fifo(7)); with O_NONBLOCK it does at once.
    """
    if below is not None and (link := link_on_the_way(path, below=below)):
        raise OSError(errno.ELOOP, "it is a link", str(link))
    links = 0 if follow_links and below is None else os.O_NOFOLLOW
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | links)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _refused(path, "it is a socket or a device") from error
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(errno.ELOOP, "it is a link, or links lead in a circle", str(path)) from error
        raise
    found = os.fstat(handle)
    if stat.S_ISREG(found.st_mode) and (limit is None or found.st_size <= limit):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISREG(found.st_mode):
        raise OSError(errno.EFBIG, f"it is enormous: {found.st_size / 1e9:.1f} GB", str(path))
    raise _refused(path, "it is a folder, a pipe, a socket or a device")


def link_on_the_way(path: Path, *, below: Path) -> Path | None:
    """The first link between the folder `below` (which may be one) and `path`, itself included."""
    parts = path.relative_to(below).parts
    steps = (below.joinpath(*parts[:count]) for count in range(1, len(parts) + 1))
    return next((each for each in steps if each.is_symlink()), None)


def _refused(path: Path, why: str) -> OSError:
    return OSError(errno.EINVAL, why, str(path))
