"""What may be freed without losing a result, and freeing it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tfkd_cli.regular_files import link_on_the_way
from tfkd_cli.store import attempts, files, teacher_logits
from tfkd_cli.store.publishing import WEIGHTS
from tfkd_cli.store.run_folder import RunFolder

_OLD_SECONDS = 3600.0  # no write takes longer: what is still temporary then was left by a crash


@dataclass(frozen=True)
class Cleanable:
    """A file or folder that may go, its size, and why it is not needed."""

    path: Path
    bytes: int
    why: str


def cleanable(runs: Iterable[RunFolder], *, needed: Mapping[str, Collection[str]] | None) -> list[Cleanable]:
    """What may go in these runs; `needed` maps a run's key to the snapshots ("epoch-001.pt") a plan needs
    (None: that is not known, and all are kept).

    Runs somebody works on are left alone, as are results, records, logs, and the best and last weights.
    """
    found: list[Cleanable] = []
    for run in runs:
        state = run.state()
        if state.status == "done":
            found += _left_over(run)
            if needed is not None:
                found += _snapshots(run, needed.get(state.key, ()))
        elif state.status in ("resumable", "failed"):
            found += _superseded(run)
        if state.status != "running":
            found += _temporary(run.path)
    return found


def unused_logits(root: Path, *, teachers: Collection[str]) -> Iterator[Cleanable]:
    """Cached logits of all but these teachers, and temporary files beside those of these.

    `teachers`: cache prefixes of the teachers of unfinished runs.
    """
    for path, name in teacher_logits.folders(root):
        if name["teacher"] in teachers:
            yield from _temporary(path)
        else:
            size = teacher_logits.bytes_below(path)
            yield Cleanable(path, size, "cached teacher logits no unfinished run uses")


def inside(found: Iterable[Cleanable], root: Path) -> list[Cleanable]:
    """Those of them that lie in the results folder itself: what a link in it leads to belongs to others."""
    return [each for each in found if link_on_the_way(each.path, below=root) is None]


def free(found: Iterable[Cleanable], root: Path) -> int:
    """Remove these where they are `inside` the results folder; the bytes freed. What is gone is no error."""
    freed = 0
    for each in found:
        if os.path.lexists(each.path) and inside([each], root):
            files.remove(each.path)
            freed += each.bytes
    return freed


def _snapshots(run: RunFolder, needed: Collection[str]) -> Iterator[Cleanable]:
    for path in sorted((run.path / WEIGHTS).glob("epoch-*.pt")):
        if path.name not in needed:
            yield Cleanable(path, _size(path), "a snapshot no plan needs (it can be trained again)")


def _left_over(run: RunFolder) -> Iterator[Cleanable]:
    """Training states and weights in the attempts of a finished run."""
    for attempt in run.attempts():
        for path in sorted(attempt.rglob("*.pt")):
            yield Cleanable(path, _size(path), "left by an attempt; the run is finished")


def _superseded(run: RunFolder) -> Iterator[Cleanable]:
    """Training states of an unfinished run behind the two furthest sound ones."""
    sound = 0
    for state in attempts.all_states(run.path):
        if sound >= 2:
            yield Cleanable(state.path, state.size, "an older training state")
        else:
            sound += state.is_sound()


def _temporary(folder: Path) -> Iterator[Cleanable]:
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *names) if is_temporary(name)):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.lstat().st_mtime > _OLD_SECONDS:
                    yield Cleanable(path, _size(path), "left by a write that was cut short")


def is_temporary(name: str) -> bool:
    """Whether a file of this name was on its way to another one."""
    return name.startswith(".") and name.endswith(".tmp")


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:  # gone meanwhile
        return 0
