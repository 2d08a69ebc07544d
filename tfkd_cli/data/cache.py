"""Decoded data sets: `<cache>/data/<name>/` with one uint8 .npy per part, labels, and meta.json.

Decoded once, memory-mapped by all runs of a machine. A data set is written into a folder of its own and
renamed when complete, so what stands under its name is whole. A lock saves ten processes from decoding ten
times; where locks do not work the rename still lets exactly one win. Loading needs numpy only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli import locks
from tfkd_cli.data.facts import Arrays, DataSet
from tfkd_cli.data.reader import Progress
from tfkd_cli.errors import RequestError, RunError

if TYPE_CHECKING:
    from numpy import int64, uint8
    from numpy.typing import NDArray

SCHEMA = 1
STALE_SECONDS = 24 * 3600  # a draft of another host this old has no owner any more


class Draft:
    """A data set being written; its files are appended to, never mapped (a full disk is then an error)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.class_names: tuple[str, ...] = ()
        self.origin = ""  # the path it was made of
        self.report: dict[str, Any] = {}
        self.digests: dict[str, str] = {}

    def write(
        self, part: str, images: Iterable[NDArray[uint8]], labels: Sequence[int] | NDArray[int64]
    ) -> None:
        """One part ("train", "test", "val"): chunks of NCHW uint8, and as many labels.

        Labels are read after the images, so whoever decodes these may fill in those.
        """
        import numpy as np

        digest, written = hashlib.sha256(), 0
        with (self.folder / f"{part}_images.npy").open("wb") as file:
            for chunk_NCHW in images:
                if written == 0:
                    _write_header(file, (len(labels), *chunk_NCHW.shape[1:]))
                data = np.ascontiguousarray(chunk_NCHW, dtype=np.uint8)
                file.write(data.data)
                digest.update(data.data)
                written += len(data)
            file.flush()
            os.fsync(file.fileno())
        if written != len(labels):
            raise RunError(f"{part} has {written} images and {len(labels)} labels.")
        labels_N = np.asarray(labels, dtype=np.int64)
        np.save(self.folder / f"{part}_labels.npy", labels_N)
        digest.update(labels_N.data)
        self.digests[part] = digest.hexdigest()

    def images(self, part: str) -> NDArray[uint8]:
        """The images written so far, mapped."""
        import numpy as np

        images_NCHW: NDArray[uint8] = np.load(self.folder / f"{part}_images.npy", mmap_mode="r")
        return images_NCHW

    def finish(self, facts: DataSet) -> None:
        """meta.json, last: what is here, and how large each file must be."""
        sizes = {each.name: each.stat().st_size for each in sorted(self.folder.glob("*.npy"))}
        meta = {
            "schema": SCHEMA,
            "facts": facts.to_json(),
            "class_names": list(self.class_names),
            "origin": self.origin,
            "sizes": sizes,
            "digests": self.digests,
            "report": self.report,
        }
        write_json(self.folder / "meta.json", meta)


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    import numpy as np

    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})


def place(cache: Path, name: str) -> Path:
    """The folder of a decoded data set; RequestError for a name that could lead elsewhere."""
    if not re.fullmatch(r"[a-z0-9][a-zA-Z0-9@_.:-]{0,120}", name):
        raise RequestError(f"not the name of a data set: {name[:60]!r}.", hint="see `tfkd list datasets`.")
    return cache / "data" / name.replace(":", "-")


def read_meta(cache: Path, name: str) -> Mapping[str, Any] | None:
    """meta.json of a decoded data set whose files are all there in full; None otherwise."""
    folder = place(cache, name)
    meta = read_json(folder / "meta.json")
    if not isinstance(meta, dict) or meta.get("schema") != SCHEMA:
        return None
    try:
        if any((folder / file).stat().st_size != size for file, size in meta["sizes"].items()):
            return None
        return meta if DataSet.from_json(meta["facts"]).name == name else None
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return None


def ready(cache: Path, name: str) -> DataSet | None:
    """The facts of a data set that is decoded here; None when it is not, or not whole."""
    meta = read_meta(cache, name)
    return None if meta is None else DataSet.from_json(meta["facts"])


def load(cache: Path, name: str) -> Arrays | None:
    """The decoded data set, memory-mapped; None when it is not there."""
    import numpy as np

    meta = read_meta(cache, name)
    if meta is None:
        return None
    folder, mapped = place(cache, name), {}
    for file in meta["sizes"]:
        kind = "images_NCHW" if file.endswith("_images.npy") else "labels_N"
        array = np.load(folder / file, mmap_mode="r" if kind == "images_NCHW" else None, allow_pickle=False)
        mapped[f"{file.split('_')[0]}_{kind}"] = array
    return Arrays(facts=DataSet.from_json(meta["facts"]), class_names=tuple(meta["class_names"]), **mapped)


def build(cache: Path, name: str, fill: Callable[[Draft], DataSet], *, progress: Progress) -> None:
    """Have the data set `name` in the cache: decoded by `fill`, unless somebody has done it already."""
    folder = place(cache, name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f".lock-{folder.name}", progress=progress) as alone:
            if ready(cache, name) is None:
                _build(folder, fill, sweep=alone)
    except OSError as error:
        raise RunError(
            f"{name} could not be decoded into {folder.parent}: {error.strerror or error}.",
            expected="a cache folder that can be written, with room for the decoded images.",
            hint="choose another with --cache-dir; the same command then goes on.",
        ) from error


def _build(folder: Path, fill: Callable[[Draft], DataSet], *, sweep: bool) -> None:
    import shutil

    if sweep:
        _sweep(folder)
    unique = f".draft-{folder.name}-{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}"
    draft = Draft(folder.parent / unique)
    draft.folder.mkdir()
    try:
        draft.finish(fill(draft))
        if folder.exists():  # not whole, or `ready` would have said so
            folder.rename(draft.folder / "damaged")
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            _rename(draft.folder, folder)
    finally:
        shutil.rmtree(draft.folder, ignore_errors=True)
    shutil.rmtree(folder / "damaged", ignore_errors=True)


def _rename(draft: Path, folder: Path) -> None:
    """Under its name; an OSError that means "somebody was faster" is a FileExistsError."""
    try:
        draft.rename(folder)
    except OSError:
        if (folder / "meta.json").exists():
            raise FileExistsError(folder) from None
        raise


def _sweep(folder: Path) -> None:
    """Remove drafts of processes that were killed: dead ones of this host, old ones of others."""
    import shutil

    for draft in folder.parent.glob(f".draft-{folder.name}-*"):
        host, pid, _ = draft.name.removeprefix(f".draft-{folder.name}-").rsplit("-", 2)
        with contextlib.suppress(OSError, ValueError):
            old = time.time() - draft.stat().st_mtime > STALE_SECONDS
            if old or (host == os.uname().nodename and not _alive(int(pid))):
                shutil.rmtree(draft, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def locked(path: Path, *, progress: Progress) -> contextlib.AbstractContextManager[bool]:
    """Hold the lock file, which the kernel frees on any death; yields False where there are no locks."""
    return locks.held(path, while_waiting=lambda: progress("another process is at it, waiting", 0.0))


def remembered(cache: Path, path: Path, stamp: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `compute` gave for this path when its stamp (names, sizes, times) was the same."""
    record = cache / "fingerprints" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.json"
    known = read_json(record)
    if isinstance(known, dict) and known.get("stamp") == stamp and isinstance(known.get("value"), dict):
        value: dict[str, Any] = known["value"]
        return value
    value = compute()
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time, nothing else
        record.parent.mkdir(parents=True, exist_ok=True)
        write_json(record, {"path": str(path), "stamp": stamp, "value": value})
    return value


def point(cache: Path, name: str, *, to: str) -> None:
    """Remember which content a built-in name was last prepared with (a sample of it, say)."""
    write_json(place(cache, name).with_suffix(".json"), {"name": to})


def pointed(cache: Path, name: str) -> str | None:
    """The name that `point` wrote."""
    value = read_json(place(cache, name).with_suffix(".json"))
    return str(value["name"]) if isinstance(value, dict) and "name" in value else None


def read_json(path: Path) -> Any:
    """The JSON at `path`; None when there is none, or nothing that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def write_json(path: Path, value: Any) -> None:
    """JSON under `path`, whole or not at all."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=True)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
