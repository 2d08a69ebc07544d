"""Opening a file that somebody else named or may have replaced: regular files only, never waiting for one."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

from tfkd_cli.errors import RequestError

WEIGHTS_LIMIT = 8 << 30
"""Bytes above which a file of weights is refused: the largest network here (ResNeXt101) has 0.35 GB."""
NOT_REGULAR = "it is a folder, a pipe, a socket or a device"


def open_regular(
    path: Path, *, follow_links: bool = True, below: Path | None = None, limit: int | None = None
) -> io.BufferedReader:
    """`path` for reading; OSError when it is a pipe, a socket, a device, a folder or cannot be opened.

    `below`: nothing between this folder and `path` may be a link, nor `path` itself. `limit`: EFBIG above so
    many bytes.
    """
    if below is not None and (link := link_on_the_way(path, below=below)):
        raise OSError(errno.ELOOP, "it is a link", str(link))
    handle = _open(path, os.O_RDONLY | (0 if follow_links and below is None else os.O_NOFOLLOW))
    size = os.fstat(handle).st_size
    if limit is None or size <= limit:
        return os.fdopen(handle, "rb")
    os.close(handle)
    raise OSError(errno.EFBIG, f"it is enormous: {size:,} bytes of at most {limit:,}", str(path))


def open_to_append(path: Path) -> io.BufferedWriter:
    """`path`, made where it is missing, to write at its end; OSError for a link, or no regular file."""
    return os.fdopen(_open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW), "ab")


def _open(path: Path, flags: int) -> int:
    """A plain `open` of a pipe that nobody else has open never returns (fifo(7)); O_NONBLOCK makes it."""
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise OSError(errno.EINVAL, NOT_REGULAR, str(path)) from error
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(errno.ELOOP, "it is a link, or links lead in a circle", str(path)) from error
        raise
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, NOT_REGULAR, str(path))


def expanded(path: Path, *, hint: str) -> Path:
    """`path` with `~` and `~somebody` replaced; RequestError where that home folder is not known."""
    try:
        return path.expanduser()
    except RuntimeError as error:  # nobody of that name, or no account and no $HOME
        raise RequestError(
            f"there is no home folder to put for {path.parts[0]} in {path}.",
            expected="a path without ~, or an account with a home folder.",
            hint=hint,
        ) from error


def link_on_the_way(path: Path, *, below: Path) -> Path | None:
    """The first link between the folder `below` (which may be one) and `path`, itself included."""
    parts = path.relative_to(below).parts
    steps = (below.joinpath(*parts[:count]) for count in range(1, len(parts) + 1))
    return next((each for each in steps if each.is_symlink()), None)
