"""Records in one file, to send and to read: what a table needs of each run, and no weights."""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from tfkd_cli.errors import RequestError
from tfkd_cli.store import files, reading
from tfkd_cli.store.attempts import FAILURE
from tfkd_cli.store.description import SPEC
from tfkd_cli.store.publishing import RESULT
from tfkd_cli.store.reading import LINES_LIMIT, DamagedFile
from tfkd_cli.store.records import METRICS
from tfkd_cli.store.run_folder import NUMERICS, RUN_NAME, RunFolder

log = logging.getLogger("tfkd")

_TOTAL_LIMIT = 2 << 30  # bytes unpacked: 10,000 runs are 600 MB
_MEMBERS_LIMIT = 500_000
_RUN_FILES = (SPEC, RESULT, METRICS, NUMERICS)
_ATTEMPT_FILES = ("env.json", FAILURE)
_MEMBER = re.compile(
    rf"runs/{RUN_NAME.pattern}/(?:{'|'.join(map(re.escape, _RUN_FILES))}"
    rf"|attempts/[0-9]{{4,9}}/(?:{'|'.join(map(re.escape, _ATTEMPT_FILES))}))"
    r"|requests/[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.json"
)


def pack(runs: Iterable[RunFolder], out: Path, *, requests: Path | None = None) -> int:
    """Write the records of these runs to `out` (.tar.gz, the same bytes for the same records): its size.

    `requests`, the store's folder of that name, goes in too. What is no file is left out, and that is logged.
    """

    def write(stream: IO[bytes]) -> None:
        with (
            gzip.GzipFile(fileobj=stream, mode="wb", filename="", mtime=0, compresslevel=6) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for name, data in _members(runs, requests):
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(data), 0o644
                tar.addfile(member, io.BytesIO(data))

    files.write_stream(out, write)
    return out.stat().st_size


def _members(runs: Iterable[RunFolder], requests: Path | None) -> Iterator[tuple[str, bytes]]:
    for run in runs:
        paths = [run.path / name for name in _RUN_FILES]
        paths += [attempt / name for attempt in run.attempts() for name in _ATTEMPT_FILES]
        for path in paths:
            data = _bytes_of(path)
            if data is not None:
                yield f"runs/{run.name}/{path.relative_to(run.path).as_posix()}", data
    for path in sorted(requests.glob("*.json")) if requests else ():
        data = _bytes_of(path)
        if data is not None and _MEMBER.fullmatch(f"requests/{path.name}"):
            yield f"requests/{path.name}", data


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
                with path.open("xb") as stream:  # a name that comes twice is refused
                    stream.write(data)
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
