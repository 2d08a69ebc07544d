"""Durable writes: whole or not at all, once or not at all. Every change of the store goes through here.

A file appears under its name only when its bytes are on the disk; a file created once is never replaced.
`at_write_point` is called around every change, so a test can stop a process at each of them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tfkd_cli.errors import RunError
from tfkd_cli.regular_files import open_to_append
from tfkd_cli.store.reading import JSON_LIMIT, DamagedFile, read_bytes

T = TypeVar("T")
log = logging.getLogger("tfkd")


def at_write_point(name: str) -> None:
    """Called before and after each durable change; tests replace it, to stop or kill a process there."""


def short_digest(data: bytes) -> str:
    """What the name of a request ends with: 10 hex digits of sha256."""
    return hashlib.sha256(data).hexdigest()[:10]


def encode_json(value: Any, *, indent: int | None = 1) -> bytes:
    """JSON as the store writes it: ASCII, ended by a newline; numbers that are not finite become null."""
    return (json.dumps(_finite(value), indent=indent, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` under `path`, replacing what was there; RunError when it cannot be written."""
    with _written(path, data) as temporary:
        at_write_point(f"replace {path.name}")
        _replace(temporary, path)
        at_write_point(f"replaced {path.name}")
        sync_folder(path.parent)


def put_back(path: Path, data: bytes) -> None:
    """Like `write_atomic`, for what is damaged; a folder that stands there moves to `NAME.bad`."""
    if path.is_dir() and not path.is_symlink():
        move(path, path.with_name(f"{path.name}.bad"))
    write_atomic(path, data)


def read_or_repair(
    path: Path,
    copies: Iterable[Path],
    parse: Callable[[bytes, Path], T],
    *,
    hint: str = "",
    limit: int = JSON_LIMIT,
) -> T:
    """What `parse` makes of a file, or else of the first of its copies that is sound, which is put back.

    The repair is logged. Raises DamagedFile, with `hint`, where no copy is sound either.
    """

    def read(path: Path) -> tuple[T, bytes]:
        data = read_bytes(path, limit=limit)
        if data is None:
            raise DamagedFile(path, "is missing.", hint=hint)
        return parse(data, path), data

    try:
        return read(path)[0]
    except DamagedFile as damage:
        for copy in copies:
            with contextlib.suppress(RunError):
                value, data = read(copy)
                log.warning("%s was damaged; the copy in %s is sound and is used.", path, copy)
                with contextlib.suppress(RunError):  # in a folder that may only be read
                    put_back(path, data)
                return value
        if hint and not damage.has_own_hint:
            damage.hint = hint
        raise


def write_hint(path: Path, data: bytes) -> None:
    """Replace a file whose loss costs nothing: atomic for readers, but not forced to the disk."""
    with _written(path, data, durable=False) as temporary:
        temporary.replace(path)


def create_once(path: Path, data: bytes) -> bool:
    """Put `data` under `path` unless something is there: whether it was this call that did.

    Exactly one of many callers, on any number of machines, gets True. A hard link decides which.
    """
    if os.path.lexists(path):
        return False
    with _written(path, data) as temporary:
        at_write_point(f"link {path.name}")
        created = _link(temporary, path)
        at_write_point(f"linked {path.name}")
        sync_folder(path.parent)
    return created


def _link(temporary: Path, path: Path) -> bool:
    """A hard link fails when the name is taken. NFS may report that for a link it made: two names tell."""
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if temporary.stat().st_nlink == 2:
            return True
        if error.errno == errno.EEXIST:
            return False
        raise
    return True


def make_filled_folder(path: Path, content: Mapping[str, bytes]) -> bool:
    """Make a folder that has its files from the first moment: whether it was this call that made it.

    Renaming a folder onto one that is not empty fails on every file system, so there is one maker.
    """
    mine = _temporary(path)
    with _reported(path):
        try:
            mine.mkdir()
            for name, data in content.items():
                (mine / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomic(mine / name, data)
            at_write_point(f"place {path.name}")
            made = _place(mine, path)
            at_write_point(f"placed {path.name}")
            sync_folder(path.parent)
        finally:
            shutil.rmtree(mine, ignore_errors=True)
    return made


def _place(mine: Path, path: Path) -> bool:
    inode = mine.stat().st_ino
    try:
        mine.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            if path.stat().st_ino == inode:  # NFS: done, and reported as failed
                return True
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            return False
        raise
    return True


def append(path: Path, data: bytes) -> None:
    """Add `data` at the end of a file that one process writes; on return it is on the disk."""
    with _reported(path), open_to_append(path) as stream:
        at_write_point(f"append {path.name}")
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
        at_write_point(f"appended {path.name}")


def link_or_copy(source: Path, target: Path) -> None:
    """`target` becomes the same file as `source`, or a copy where links may not leave a folder (BeeGFS)."""
    try:
        target.hardlink_to(source)
    except OSError:
        write_atomic(target, source.read_bytes())


def move(source: Path, target: Path) -> bool:
    """Rename `source` to `target`; False when there is no `source` (any more)."""
    with _reported(target):
        at_write_point(f"move {target.name}")
        try:
            source.replace(target)
        except FileNotFoundError:
            return False
        at_write_point(f"moved {target.name}")
    return True


def make_folder(path: Path) -> None:
    """Make one folder (and its parents), durably, unless it is there."""
    with _reported(path):
        if path.is_dir():
            return
        make_folder(path.parent)
        at_write_point(f"mkdir {path.name}")
        path.mkdir(exist_ok=True)
        at_write_point(f"made {path.name}")
        sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; nothing happens where there is none."""
    with _reported(path):
        at_write_point(f"remove {path.name}")
        while path.is_dir() and not path.is_symlink():
            with contextlib.suppress(FileNotFoundError):  # others may be removing it too, or filling it
                shutil.rmtree(path)
        path.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Force a folder's names to the disk, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def _written(path: Path, data: bytes, *, durable: bool = True) -> Iterator[Path]:
    """A complete temporary file beside `path`, under a name nobody else uses; gone afterwards."""
    temporary = _temporary(path)
    with _reported(path):
        try:
            at_write_point(f"open {path.name}")
            with temporary.open("xb") as stream:
                stream.write(data)
                stream.flush()
                at_write_point(f"written {path.name}")
                if durable:
                    os.fsync(stream.fileno())
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name[:120]}.{uuid.uuid4().hex[:16]}.tmp")


def _replace(temporary: Path, path: Path) -> None:
    """Rename; an error is none if the file is there under its new name (rename(2), BUGS: NFS)."""
    inode = temporary.stat().st_ino
    try:
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            if not temporary.exists() and path.stat().st_ino == inode:
                return
        raise


_OTHER = "choose another folder with --results."
_CURES = {
    errno.ENOSPC: "free space (tfkd clean shows what can go), then give the same command again.",
    errno.EDQUOT: "your quota is used up: free space (tfkd clean), then give the same command again.",
    errno.EFBIG: "a limit on file size is set (ulimit -f): raise it, then give the same command again.",
    errno.EROFS: f"the file system is read-only: {_OTHER}",
    errno.EACCES: "check who owns the folder, or choose another with --results.",
    errno.EPERM: f"check who owns the folder; if its file system has no hard links, {_OTHER}",
    errno.ENOTSUP: f"the file system has no hard links: {_OTHER}",
    errno.ENOSYS: f"the file system has no hard links: {_OTHER}",
    errno.ENOTDIR: f"a file stands where a folder is needed: {_OTHER}",
}


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}.",
            expected="a folder that can be written, with room; what is finished stays.",
            hint=_CURES.get(error.errno or 0, "mend the cause, then give the same command again."),
        ) from error
