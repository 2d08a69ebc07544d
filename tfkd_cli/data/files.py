"""One file of a data set: read whole, or stamped."""

from __future__ import annotations

import os
from pathlib import Path

from tfkd_cli.data.images import MAX_BYTES
from tfkd_cli.errors import RequestError
from tfkd_cli.regular_files import open_regular


def read_file(path: Path) -> bytes:
    """The bytes of one regular file; RequestError when they cannot be read, or are too many."""
    expected = f"a regular file of at most {MAX_BYTES:,} bytes that you may read."
    hint = "replace it, or take it out of the folder."
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise RequestError(f"{str(path)!r} has {size:,} bytes.", expected=expected, hint=hint)
            return file.read()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(
            f"{str(path)!r} cannot be read: {reason}.", expected=expected, hint=hint
        ) from error


def stamp(path: Path) -> str:
    """Path, size and time of one file: what fingerprints are remembered by."""
    found = path.stat()
    return f"{path}:{found.st_size}:{found.st_mtime_ns}"
