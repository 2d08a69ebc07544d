"""A folder, or a zip as if it were one: names and bytes, never unpacked, never outside of it."""

from __future__ import annotations

import copy
import hashlib
import os
import zipfile
from pathlib import Path
from typing import Protocol

from tfkd_cli.data.images import MAX_BYTES
from tfkd_cli.errors import RequestError
from tfkd_cli.regular_files import open_regular


class Tree(Protocol):
    """Files by relative name, with `/` between folders."""

    def names(self) -> list[str]:
        """All files, sorted."""
        ...

    def read(self, name: str) -> bytes:
        """The bytes of one file; RequestError when they cannot be had. Called from many threads."""
        ...


class ZipTree:
    """The files below `prefix` in a zip; `ZipFile.read` locks, so threads may share it."""

    def __init__(self, path: Path) -> None:
        self.path, self.prefix = path, ""
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise RequestError(
                f"{path} cannot be read as a zip: {error}.",
                expected="a zip file that is whole.",
                hint="load or copy it again.",
            ) from error

    def below(self, prefix: str) -> ZipTree:
        """The files below `prefix`, from the same open zip."""
        tree = copy.copy(self)
        tree.prefix = prefix
        return tree

    def names(self) -> list[str]:
        inside = (n for n in self._zip.namelist() if n.startswith(self.prefix) and not n.endswith("/"))
        return sorted(name.removeprefix(self.prefix) for name in inside)

    def read(self, name: str) -> bytes:
        try:
            info = self._zip.getinfo(self.prefix + name)
            if info.file_size > MAX_BYTES:
                raise RequestError(f"{self.path}: {name!r} unpacks to {info.file_size:,} bytes.")
            return self._zip.read(info)
        except Exception as error:  # zipfile and zlib raise a dozen kinds on damaged input
            if isinstance(error, RequestError):
                raise
            raise RequestError(
                f"{self.path}: {name!r} cannot be read: {error}.", hint="load or copy it again."
            ) from error


class FolderTree:
    """The files below a folder; links are followed only where `names` met them as files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        files = (each for each in self.path.rglob("*") if each.is_file())
        return sorted(each.relative_to(self.path).as_posix() for each in files)

    def read(self, name: str) -> bytes:
        return read_file(self.path / name)


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


def has_md5(path: Path, md5: str, *, size: int) -> bool:
    """Whether a file is the one of this md5, which its publisher names; hashed only at the right size.

    No protection against an attacker: a check that it is the right file.
    """
    if path.stat().st_size != size:
        return False
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest() == md5


def stamp(path: Path) -> str:
    """Path, size and time of one file: what fingerprints are remembered by."""
    found = path.stat()
    return f"{path}:{found.st_size}:{found.st_mtime_ns}"
