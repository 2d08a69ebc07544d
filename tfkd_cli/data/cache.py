"""Decoded data sets: `<cache>/data/<name>/` with one uint8 .npy per part, labels, and meta.json.

Of a data set that is larger than memory an index of its image files stands there instead.

Decoded once, memory-mapped by all runs of a machine. A data set is written into a folder of its own and
renamed when complete, so what stands under its name is whole. A lock saves ten processes from decoding ten
times; where locks do not work the rename still lets exactly one win. Loading needs numpy only.

meta.json holds the size and the sha256 of every file, and its own. `damaged` compares them before a number
is calculated from the data.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from tfkd_cli import locks
from tfkd_cli.data.facts import Arrays, DataSet
from tfkd_cli.data.image_files import ImageFiles, Reading
from tfkd_cli.data.reader import Progress
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.regular_files import open_regular

if TYPE_CHECKING:
    from numpy import int64, uint8, void
    from numpy.typing import NDArray

SCHEMA = 2  # 2: a digest of every file

READING = Reading()

_checked: dict[tuple[Path, tuple[int, int, int]], bool] = {}
"""A file with its size, time and inode, hashed in this process → whether its digest matched."""


def memory() -> int:
    """The memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Draft:
    """A data set being written; its files are appended to, never mapped (a full disk is then an error)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.class_names: tuple[str, ...] = ()
        self.origin = ""  # the path it was made of
        self.found: tuple[str, ...] = ()
        self.parts: list[str] = []
        self.archives: dict[str, str] = {}  # part → the archive below `origin` that its index leads into
        self.memory = math.inf  # bytes that decoded images may take; above, an index of the files is written

    def write(
        self, part: str, images: Iterable[NDArray[uint8]], labels: Sequence[int] | NDArray[int64]
    ) -> None:
        """One part ("train", "test", "val"): chunks of NCHW uint8, and as many labels.

        Labels are read after the images, so whoever decodes these may fill in those. TypeError for chunks of
        another type than uint8, and of different shapes.
        """
        import numpy as np

        written, shape = 0, None
        with _durable(self.folder / f"{part}_images.npy") as file:
            for chunk_NCHW in images:
                if shape is None:
                    shape = chunk_NCHW.shape[1:]
                    _write_header(file, (len(labels), *shape))
                if chunk_NCHW.dtype != np.uint8 or len(shape) != 3 or chunk_NCHW.shape[1:] != shape:
                    found = f"{chunk_NCHW.dtype} of shape {chunk_NCHW.shape}"
                    raise TypeError(f"the part {part} is given a chunk of images that is {found}")
                file.write(np.ascontiguousarray(chunk_NCHW).data)
                written += len(chunk_NCHW)
        if written != len(labels):
            raise RunError(
                f"{part} has {written} images and {len(labels)} labels.", expected="a label for each image."
            )
        self._write_labels(part, labels)

    def write_index(
        self,
        part: str,
        entries_N: NDArray[void],
        labels: Sequence[int] | NDArray[int64],
        *,
        archive: str = "",
    ) -> None:
        """One part whose images stay in their files, below `origin` or in an archive there."""
        import numpy as np

        with _durable(self.folder / f"{part}_files.npy") as file:
            np.save(file, entries_N)
        self._write_labels(part, labels)
        self.archives[part] = archive

    def _write_labels(self, part: str, labels: Sequence[int] | NDArray[int64]) -> None:
        import numpy as np

        with _durable(self.folder / f"{part}_labels.npy") as file:
            np.save(file, np.asarray(labels, dtype=np.int64))
        self.parts.append(part)

    def images(self, part: str) -> NDArray[uint8]:
        """The images written so far, mapped."""
        import numpy as np

        images_NCHW: NDArray[uint8] = np.load(self.folder / f"{part}_images.npy", mmap_mode="r")
        return images_NCHW

    def labels(self, part: str) -> NDArray[int64]:
        """The labels written so far; none of a part that is not there."""
        import numpy as np

        labels_N = np.load(self.folder / f"{part}_labels.npy") if part in self.parts else []
        return np.asarray(labels_N, dtype=np.int64)

    @cached_property
    def files(self) -> dict[str, dict[str, Any]]:
        """The size and sha256 of each file, once all parts are written."""
        return {
            each.name: {"size": each.stat().st_size, "sha256": _sha256(each)}
            for each in sorted(self.folder.glob("*.npy"))
        }

    def finish(self, facts: DataSet) -> None:
        """meta.json, last: what is here, and what each file must be."""
        meta = {
            "schema": SCHEMA,
            "facts": facts.to_json(),
            "notes": list(facts.notes),  # for the reader of its numbers
            "found": list(self.found),  # of these, what only decoding found
            "class_names": list(self.class_names),
            "origin": self.origin,
            "archives": self.archives,
            "files": self.files,
        }
        write_record(self.folder / "meta.json", meta)


@contextlib.contextmanager
def _durable(path: Path) -> Iterator[BinaryIO]:
    """A new file, on the disk when the block ends."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    import numpy as np

    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def place(cache: Path, name: str) -> Path:
    """The folder of a decoded data set; RequestError for a name that could lead elsewhere."""
    if not re.fullmatch(r"[a-z0-9][a-zA-Z0-9@_.:-]{0,120}", name):
        raise RequestError(f"not the name of a data set: {name[:60]!r}.", hint="see `tfkd list datasets`.")
    return cache / "data" / name.replace(":", "-")


def read_meta(cache: Path, name: str) -> Mapping[str, Any] | None:
    """meta.json of a decoded data set whose files are all there, none known to be damaged; None otherwise."""
    folder, meta = place(cache, name), described(cache, name)
    if meta is None or any(not _sound(folder / file, known) for file, known in meta["files"].items()):
        return None
    return meta


def described(cache: Path, name: str) -> Mapping[str, Any] | None:
    """meta.json of a decoded data set, whatever became of its files; None when it cannot be trusted."""
    meta = read_record(place(cache, name) / "meta.json")
    try:
        trusted = meta is not None and meta["schema"] == SCHEMA and meta["facts"]["name"] == name
    except (KeyError, TypeError):
        return None
    return meta if trusted else None


def damaged(cache: Path, name: str) -> Path | None:
    """The first file of a decoded data set that is not what was written; None: all are, or it is not here.

    Every file is hashed, once in a process and again when its size, time or inode has changed.
    """
    folder, meta = place(cache, name), described(cache, name)
    if meta is None:
        return folder / "meta.json" if folder.exists() else None
    paths = ((folder / file, known) for file, known in meta["files"].items())
    return next((path for path, known in paths if not _sound(path, known, hashed=True)), None)


def _sound(path: Path, known: Mapping[str, Any], *, hashed: bool = False) -> bool:
    """Whether a file is there in full and was not found to be damaged; `hashed`: its digest is compared."""
    try:
        found = path.stat()
        key = path, (found.st_size, found.st_mtime_ns, found.st_ino)
        if hashed and key not in _checked:
            _checked[key] = _sha256(path) == known["sha256"]
    except OSError:
        return False
    return found.st_size == known["size"] and _checked.get(key, True)


def load(cache: Path, name: str, *, places: Sequence[Path] = (), reading: Reading = READING) -> Arrays | None:
    """The data set; None when it is not there. Decoded images are memory-mapped.

    Where the cache holds an index only, the image files are looked for at `places` and where they were.
    """
    import numpy as np

    meta = read_meta(cache, name)
    if meta is None:
        return None
    folder, facts, parts = place(cache, name), DataSet.from_json(meta["facts"]), {}
    for file in meta["files"]:
        part, kind = Path(file).stem.split("_")
        if kind == "labels":
            parts[f"{part}_labels_N"] = np.load(folder / file, allow_pickle=False)
        elif kind == "images":
            parts[f"{part}_images_NCHW"] = np.load(folder / file, mmap_mode="r", allow_pickle=False)
        else:
            roots = [each / meta["archives"][part] for each in (*places, Path(meta["origin"]))]
            parts[f"{part}_images_NCHW"] = _found(
                ImageFiles(index=folder / file, place=roots[-1], facts=facts, reading=reading), roots
            )
    return Arrays(facts=facts, class_names=tuple(meta["class_names"]), **parts)


def _found(files: ImageFiles, places: Sequence[Path]) -> ImageFiles:
    """The files at the first place that has them."""
    for each in places:
        if files.found_at(each):
            return replace(files, place=each)
    raise RequestError(
        f"the image files of {files.facts.name} are not at {' or '.join(map(str, dict.fromkeys(places)))}.",
        expected="the files as they were indexed: they are read where they are.",
        hint=f"`tfkd data {files.facts.name.partition('@')[0]} --from DIR` finds them elsewhere; a copy "
        "on this node is found by TFKD_DATA=DIR.",
    )


def build(
    cache: Path, name: str, fill: Callable[[Draft], DataSet], *, progress: Progress, anew: bool = False
) -> DataSet | None:
    """Have the data set `name` in the cache: decoded by `fill`, unless somebody has done it already.

    `anew`: it is decoded in any case. Gives the facts that `fill` gave; they may have another name, that of
    the content, under which it then is in the cache.
    """
    folder = place(cache, name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f".lock-{folder.name}", progress=progress) as alone:
            if anew or damaged(cache, name) is not None or read_meta(cache, name) is None:
                return _build(cache, name, fill, alone=alone)
    except OSError as error:
        raise RunError(
            f"{name} could not be decoded into {folder.parent}: {error.strerror or error}.",
            expected="a cache folder that can be written, with room for the decoded images.",
            hint="choose another with --cache-dir; the same command then goes on.",
        ) from error
    return None


def _build(cache: Path, name: str, fill: Callable[[Draft], DataSet], *, alone: bool) -> DataSet:
    """`alone`: the lock is held, so a draft of this host is that of a process that was killed."""
    import shutil

    unique = "" if alone else f"-{secrets.token_hex(4)}"
    asked = place(cache, name)
    draft = Draft(asked.parent / f".draft-{asked.name}-{os.uname().nodename}{unique}")
    shutil.rmtree(draft.folder, ignore_errors=True)
    draft.folder.mkdir()
    try:
        facts = fill(draft)
        folder = place(cache, facts.name)
        if folder != asked and folder.exists() and damaged(cache, facts.name) is None:
            return facts  # the same content was decoded before
        draft.finish(facts)
        if folder.exists():  # damaged, or nothing would be decoded
            folder.rename(draft.folder / "damaged")
        try:
            draft.folder.rename(folder)
        except OSError:
            if not (folder / "meta.json").exists():  # else somebody was faster
                raise
    finally:
        shutil.rmtree(draft.folder, ignore_errors=True)
    shutil.rmtree(folder / "damaged", ignore_errors=True)
    return facts


def locked(path: Path, *, progress: Progress) -> contextlib.AbstractContextManager[bool]:
    """Hold the lock file, which the kernel frees on any death; yields False where there are no locks."""
    return locks.held(
        path, while_waiting=lambda: progress("waiting for a process that prepares it, too", 0.0)
    )


def remembered(cache: Path, path: Path, stamp: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `compute` gave for this path when its stamp (names, sizes, times) was the same."""
    record = cache / "fingerprints" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.json"
    known = read_record(record)
    if known is not None and known["stamp"] == stamp:
        remembered_value: dict[str, Any] = known["value"]
        return remembered_value
    value = compute()
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        record.parent.mkdir(parents=True, exist_ok=True)
        write_record(record, {"path": str(path), "stamp": stamp, "value": value})
    return value


def point(cache: Path, name: str, *, to: str) -> None:
    """Remember which content a built-in name was last prepared with (a sample of it, say)."""
    write_record(place(cache, name).with_suffix(".json"), {"name": to})


def pointed(cache: Path, name: str) -> str | None:
    """The name that `point` wrote."""
    record = read_record(place(cache, name).with_suffix(".json"))
    return None if record is None else str(record["name"])


def read_record(path: Path) -> dict[str, Any] | None:
    """The JSON object that `write_record` left at `path`; None when there is none, or it was changed."""
    try:
        with open_regular(path) as file:
            record = json.load(file)
        return record if record.pop("sha256") == _digest(record) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """A JSON object with its own digest under `path`, whole or not at all."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    with _durable(temporary) as file:
        file.write(json.dumps({**record, "sha256": _digest(record)}).encode())
    temporary.replace(path)


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
