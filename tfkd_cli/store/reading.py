"""Reading what may be broken: size, depth and type are checked before anything is believed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import msgspec

from tfkd_cli import schema
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.regular_files import WEIGHTS_LIMIT, open_regular

JSON_LIMIT = 4 << 20  # bytes; the largest file of ours, a spec with its diff, is a few hundred kB
LINES_LIMIT = 64 << 20  # bytes of a metrics file: 200 epochs are 60 kB
DEPTH_LIMIT = 64  # a spec nests teacher in student: four levels each


packs: dict[Path, Path] = {}
"""Temporary folder → the pack that was unpacked into it, which is named in its place."""


class DamagedFile(RunError):  # noqa: N818 - what it is, not that it is an error
    """A file of the store that cannot be believed."""

    def __init__(self, path: Path, problem: str, *, expected: str = "", hint: str = "") -> None:
        folder = next((each for each in path.parents if each in packs), None)
        shown = f"{packs[folder]} ({path.relative_to(folder)})" if folder else str(path)
        self.has_own_hint = bool(hint or folder)
        if folder:
            hint = "copy the pack again, or make it again with `tfkd pack`."
        again = f"move it away (mv '{path}' '{path}.bad'), then give the same command again."
        super().__init__(f"{shown}: {problem}", expected=expected, hint=hint or again)


def is_safe_name(name: object) -> bool:
    """Whether `name` may become one component of a path: no separators, no `..`, no NUL, not hidden."""
    return isinstance(name, str) and re.match(schema.FILE_NAME, name) is not None


def read_bytes(path: Path, *, limit: int = JSON_LIMIT) -> bytes | None:
    """The bytes of a regular file, None where there is none; links are not followed.

    Raises DamagedFile for a link, a pipe, a folder or a file above `limit` bytes, RunError when not readable.
    """
    for last_try in (False, True):
        try:
            with open_regular(path, follow_links=False, limit=limit) as stream:
                return stream.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno != errno.ESTALE or last_try:  # NFS: replaced by another machine while we looked
                refuse(path, error)
    return None


def refuse(path: Path, error: OSError) -> NoReturn:
    """DamagedFile for what is no file of the store, RunError for one that cannot be read."""
    if error.errno in (errno.ELOOP, errno.EINVAL, errno.EFBIG):
        raise DamagedFile(path, f"{error.strerror}.", expected="a file of the store.") from error
    raise RunError(f"cannot read {path}: {error.strerror}.", hint="check its permissions.") from error


def read_object(path: Path, *, limit: int = JSON_LIMIT) -> Any:
    """The JSON object in `path`, None where there is no file."""
    return read_as(path, dict[str, Any], limit=limit)


def read_as(path: Path, kind: Any, *, limit: int = JSON_LIMIT) -> Any:
    """The JSON value in `path` as a `kind` (see `tfkd_cli.schema`), None where there is no file."""
    data = read_bytes(path, limit=limit)
    return None if data is None else as_kind(parse_json(data, path=path), kind, path=path)


def as_kind(value: Any, kind: Any, *, path: Path) -> Any:
    """`value`, which was found in `path`, as a `kind`; DamagedFile when it is none."""
    with found_in(path):
        return schema.convert(value, kind)


@contextlib.contextmanager
def found_in(path: Path) -> Iterator[None]:
    """A RequestError about a value that was found in `path` becomes a DamagedFile, which names it."""
    try:
        yield
    except RequestError as error:
        raise DamagedFile(path, error.what, expected=error.expected, hint=error.hint) from error


def parse_json(data: bytes, *, path: Path) -> Any:
    """The JSON value in `data`; `path` is named in the DamagedFile raised for anything else."""
    try:
        value = _DECODER.decode(data.decode("utf-8"))
        if _depth_exceeds(value):
            raise RecursionError
    except RecursionError as error:
        raise DamagedFile(path, f"is nested more than {DEPTH_LIMIT} levels deep.") from error
    except ValueError as error:
        raise DamagedFile(path, f"is no JSON ({str(error)[:120]}).", expected="a file tfkd wrote.") from error
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(each for each in names if names.count(each) > 1)[:60]!r} stands there twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates)


def _depth_exceeds(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH_LIMIT):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True


class Lines(NamedTuple):
    """The readable lines of a `.jsonl` file and, in words, what had to be left out."""

    lines: list[dict[str, Any]]
    damage: str = ""


def read_lines(path: Path, *kinds: Any) -> Lines | None:
    """The lines of a `.jsonl` file, as `parse_lines` gives them; None where there is no file."""
    data = read_bytes(path, limit=LINES_LIMIT)
    return None if data is None else parse_lines(data, *kinds, path=path)


def parse_lines(data: bytes, *kinds: Any, path: Path) -> Lines:
    """The JSON objects in `data`, one a line; others are left out, and named.

    All of `kinds` must fit; a line is given as the first of them.
    """
    decoders = [msgspec.json.Decoder(kind) for kind in kinds or (dict[str, Any],)]
    lines, bad = [], []
    for number, text in enumerate(data.split(b"\n"), start=1):
        try:
            if text.strip():
                line, *_ = [each.decode(text) for each in decoders]
                lines.append(line)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            bad.append(number)
    named = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
    return Lines(lines, f"{path}: line {named} is cut off or damaged and is left out." if bad else "")


def digest(path: Path) -> str:
    """The sha256 of a file, in hex; FileNotFoundError where there is none.

    DamagedFile for a pipe, or a file larger than any of weights.
    """
    try:
        with open_regular(path, limit=WEIGHTS_LIMIT) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EINVAL, errno.EFBIG):
            refuse(path, error)
        raise
