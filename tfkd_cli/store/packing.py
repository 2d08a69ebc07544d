"""Records in one file, to send and to read: what a table needs of each run, and no weights.

A pack is made to be published: it does not say the host, the process, and where folders are on it.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import os
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tfkd_cli.errors import RequestError
from tfkd_cli.store import files, reading
from tfkd_cli.store.attempts import ENVIRONMENT, FAILURE
from tfkd_cli.store.description import SPEC
from tfkd_cli.store.publishing import RESULT
from tfkd_cli.store.reading import LINES_LIMIT, DamagedFile
from tfkd_cli.store.run_folder import RUN_NAME, RunFolder
from tfkd_cli.store.run_state import METRICS, Environment, sealed, unsealed

log = logging.getLogger("tfkd")

_TOTAL_LIMIT = 2 << 30  # bytes unpacked: 10,000 runs are 600 MB
_MEMBERS_LIMIT = 500_000
_RUN_FILES = (SPEC, RESULT, METRICS, "numerics.json")  # the last was written by an earlier tfkd
_ATTEMPT_FILES = (ENVIRONMENT, FAILURE)
_OF_THE_HOST = ("host", "pid", "argv")  # keys of env.json
_FOLDERS = re.compile(rb"(?<![\w.~/-])/(?:[^\s\"'/:,\\]+/)+")
"""The folders of an absolute path, in a command, a name of a data set or a message: `/home/me/` of a file."""
_MEMBER = re.compile(
    rf"runs/{RUN_NAME.pattern}/(?:{'|'.join(map(re.escape, _RUN_FILES))}"
    rf"|attempts/[0-9]{{4,9}}/(?:{'|'.join(map(re.escape, _ATTEMPT_FILES))}))"
    r"|requests/[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.json"
)


def check_out(out: Path, *, store: Path, force: bool = False) -> None:
    """RequestError unless a pack may be written to `out`.

    That is a `.tar.gz` outside the folders of the store, where there is nothing yet, or an earlier pack;
    `force`: or any other file.
    """
    hint = "--out records.tar.gz"
    if not out.name.endswith(".tar.gz"):
        raise RequestError(f"--out {out} is no .tar.gz.", expected="a name that ends in .tar.gz.", hint=hint)
    place, root = out.parent.resolve(), store.resolve()
    if place != root and place.is_relative_to(root):
        raise RequestError(
            f"--out {out} lies among the records of {store}.", expected="a place of its own.", hint=hint
        )
    if not place.is_dir():
        raise RequestError(
            f"--out {out} lies in a folder that is not there.", expected="a folder.", hint=hint
        )
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_file():
        raise RequestError(f"--out {out} is a link, a folder or a device.", expected="a new file.", hint=hint)
    if not force and not _is_pack(out):
        raise RequestError(
            f"--out {out} is there, and no file that `tfkd pack` made.",
            expected="a new name, or that of an earlier pack.",
            hint="choose another name; --force replaces it.",
        )


def _is_pack(path: Path) -> bool:
    """Whether a file begins as one that `pack` made."""
    try:
        with _BoundedGzip(path) as packed, tarfile.open(fileobj=packed, mode="r:") as tar:
            first = tar.next()
            return first is None or _MEMBER.fullmatch(first.name) is not None
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError):
        return False


def pack(runs: Iterable[RunFolder], out: Path, *, requests: Path | None = None) -> int:
    """Write the records of these runs to `out` (.tar.gz, the same bytes for the same records): its size.

    `requests`, the store's folder of that name, goes in too. What is no file is left out, and that is logged.
    """
    written = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=written, mode="wb", filename="", mtime=0, compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, data in _members(runs, requests):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    files.write_atomic(out, written.getvalue())
    return len(written.getvalue())


def _members(runs: Iterable[RunFolder], requests: Path | None) -> Iterator[tuple[str, bytes]]:
    for run in runs:
        run.state()  # repairs what is damaged, or names it
        paths = [run.path / name for name in _RUN_FILES]
        paths += [attempt / name for attempt in run.attempts() for name in _ATTEMPT_FILES]
        for path in paths:
            data = _bytes_of(path)
            if data is not None:
                if path.name == ENVIRONMENT:
                    data = _environment(path, data)
                elif path.name == FAILURE:
                    data = _FOLDERS.sub(b"", data)
                yield f"runs/{run.name}/{path.relative_to(run.path).as_posix()}", data
    asked = {}  # two may differ in the folders of a path alone
    for path in sorted(requests.glob("*.json")) if requests else ():
        data = _bytes_of(path)
        if data is not None and _MEMBER.fullmatch(f"requests/{path.name}"):
            name, data = _request(path, data)
            asked[name] = data
    yield from asked.items()


def _environment(path: Path, data: bytes) -> bytes:
    """env.json without the host, the process and its command line; a damaged one as it is."""
    with contextlib.suppress(DamagedFile):
        record = unsealed(data, Environment, path=path)
        kept = {key: value for key, value in record.items() if key not in _OF_THE_HOST}
        return data if kept == record else sealed(kept)
    return data


def _request(path: Path, data: bytes) -> tuple[str, bytes]:
    """Name and bytes of a request without the folders of absolute paths; a damaged one as it is."""
    time, _, digest = path.stem.rpartition("-")
    if digest != files.short_digest(data):
        return f"requests/{path.name}", data
    data = _FOLDERS.sub(b"", data)
    return f"requests/{time}-{files.short_digest(data)}.json", data


def _bytes_of(path: Path) -> bytes | None:
    try:
        return reading.read_bytes(path, limit=LINES_LIMIT)
    except DamagedFile as damage:
        log.warning("left out of the pack: %s", damage.what)
        return None


def unpack(source: Path, folder: Path) -> None:
    """Write the records in `source` into `folder`; RequestError for anything `pack` did not make."""
    try:
        with _BoundedGzip(source) as packed, tarfile.open(fileobj=packed, mode="r:") as tar:
            for name, data in _records(tar):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.exists():
                    raise tarfile.ReadError(f"it holds {name[:80]!r} twice")
                path.write_bytes(data)
            if not any(folder.iterdir()):
                raise tarfile.ReadError("it holds no record")
            if packed.read(1 << 20).strip(b"\0"):  # tarfile takes a broken header for the end
                raise tarfile.ReadError("it is damaged")
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, RecursionError) as error:
        raise RequestError(
            f"cannot read {source}: {str(error)[:160] or type(error).__name__}.",
            expected="a file made by `tfkd pack`, or a results folder.",
        ) from error


def _records(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    total = 0
    for count, member in enumerate(tar):
        total += member.size
        if count > _MEMBERS_LIMIT or total > _TOTAL_LIMIT or member.size > LINES_LIMIT:
            raise tarfile.ReadError("it is too large")
        if not member.isreg() or member.issparse() or _MEMBER.fullmatch(member.name) is None:
            raise tarfile.ReadError(f"it holds {member.name[:80]!r}, which is no record")
        stream = tar.extractfile(member)
        if stream is not None:
            with contextlib.closing(stream):
                yield member.name, stream.read()


class _BoundedGzip(gzip.GzipFile):
    """Refuses to unpack a header of any size into memory (a record is at most `LINES_LIMIT`)."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= LINES_LIMIT + tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it is too large")
        return super().read(size)
