"""What may be freed without losing a result, and freeing it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tfkd_cli.store import attempts, files, scan
from tfkd_cli.store.attempts import ATTEMPTS
from tfkd_cli.store.lease import Clock
from tfkd_cli.store.publishing import WEIGHTS
from tfkd_cli.store.run_folder import RunFolder

_OLD_SECONDS = 3600.0  # no write takes longer: what is still temporary then was left by a crash
_SNAPSHOT = "epoch-"
ANSWERS = "answers"
_ANSWERS_NAME = re.compile(r"([0-9a-f]{12}|foreign)-[0-9a-f]{8}-[0-9a-f]{8}")  # of a teacher in a context


@dataclass(frozen=True, order=True)
class Cleanable:
    """A file or folder that may go, its size, and why it is not needed."""

    path: Path
    bytes: int
    why: str

    def __post_init__(self) -> None:
        if not _may_go(self.path):
            raise ValueError(f"{self.path} is never freed")


def cleanable(
    runs: Iterable[RunFolder], *, needed: Mapping[str, Collection[str]], clock: Clock
) -> list[Cleanable]:
    """What may go in these runs; `needed` maps a run's key to the snapshots ("epoch-001.pt") a plan needs.

    Runs somebody works on are left alone, as are results, records, logs, and the best and last weights.
    """
    found = []
    for run in runs:
        state = scan.run_state(run.path, clock=clock)
        if state.status == "done":
            found += [*_snapshots(run, needed.get(state.key, ())), *_left_over(run)]
        elif state.status in ("resumable", "failed"):
            found += _superseded(run)
        if state.status != "running":
            found += _temporary(run.path, clock=clock)
    return found


def unasked(answers: Path, *, asking: Collection[str]) -> list[Cleanable]:
    """Kept answers that nobody will ask for; `asking`: marks of the teachers that unfinished runs have."""
    found = []
    for path in sorted(answers.iterdir()) if answers.is_dir() else ():
        match = _ANSWERS_NAME.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink() and match[1] not in asking:
            size = sum(_size(each) for each in path.rglob("*") if not each.is_dir())
            found.append(Cleanable(path, size, "a teacher's answers no unfinished run asks for"))
    return found


def free(found: Iterable[Cleanable]) -> int:
    """Remove these; the bytes freed. What is gone already is no error."""
    freed = 0
    for each in found:
        if os.path.lexists(each.path):
            files.remove(each.path)
            freed += each.bytes
    return freed


def _may_go(path: Path) -> bool:
    if is_temporary(path.name) or ATTEMPTS in path.parts:
        return path.suffix in (".tmp", ".pt")
    if path.parent.name == ANSWERS:
        return _ANSWERS_NAME.fullmatch(path.name) is not None
    return path.parent.name == WEIGHTS and path.name.startswith(_SNAPSHOT)


def _snapshots(run: RunFolder, needed: Collection[str]) -> Iterator[Cleanable]:
    for path in sorted((run.path / WEIGHTS).glob(f"{_SNAPSHOT}*.pt")):
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


def _temporary(folder: Path, *, clock: Clock) -> Iterator[Cleanable]:
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *names) if is_temporary(name)):
            if clock.now() - path.lstat().st_mtime > _OLD_SECONDS:
                yield Cleanable(path, _size(path), "left by a write that was cut short")


def is_temporary(name: str) -> bool:
    """Whether a file of this name was on its way to another one."""
    return name.startswith(".") and name.endswith(".tmp")


def _size(path: Path) -> int:
    found = path.lstat()  # a snapshot taken over by a later attempt has several names
    return found.st_size // max(1, found.st_nlink)
