"""The attempts of a run: numbered folders, and what each keeps for the next one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from tfkd_cli.errors import RunError
from tfkd_cli.schema import Count, Digest, Record
from tfkd_cli.store import description, files, lease, reading
from tfkd_cli.store.lease import LEASE, OWNER, Clock
from tfkd_cli.store.reading import DamagedFile, Lines
from tfkd_cli.store.run_state import LINE, METRICS, Environment, Failure

ATTEMPTS = "attempts"
FAILURE = "failure.json"
ENVIRONMENT = "env.json"
STAGED = "publish"


class _Note(Record):
    """`state-000001.json`, which stands for the training state beside it."""

    sha256: Digest
    size: Count
    step: Count
    epoch: Count


@dataclass(frozen=True, kw_only=True)
class State:
    """A saved training state: where, how far, and what its bytes must hash to."""

    path: Path
    attempt: int
    number: int
    step: int
    epoch: int
    size: int
    sha256: str

    def is_sound(self) -> bool:
        """Whether the file still holds the bytes that were saved (reads all of it)."""
        try:
            return self.path.stat().st_size == self.size and reading.digest(self.path) == self.sha256
        except (OSError, DamagedFile):
            return False

    def drop(self) -> None:
        """Remove it; the note first, so that no note ever stands for a missing file."""
        files.remove(self.path.with_suffix(".json"))
        files.remove(self.path)


def attempt_path(run: Path, number: int) -> Path:
    """`attempts/0003`."""
    return run / ATTEMPTS / f"{number:04d}"


def attempt_numbers(run: Path) -> list[int]:
    """The attempts made so far, ascending."""
    folder = run / ATTEMPTS
    if folder.is_symlink():
        raise DamagedFile(folder, "is a link.", expected="a folder of the store.")
    try:
        with os.scandir(folder) as entries:
            names = [each.name for each in entries if each.is_dir(follow_symlinks=False)]
    except OSError:
        return []
    return sorted(int(name) for name in names if name.isascii() and name.isdigit() and len(name) < 10)


def new_attempt(run: Path, owner: Mapping[str, Any]) -> int:
    """Make the folder of the next attempt, `owner` noted in it; its number, which no other caller gets."""
    number = max(attempt_numbers(run), default=0) + 1
    while not _make(run, number, owner):
        number += 1
    return number


def claim(run: Path, owner: Mapping[str, Any], *, clock: Clock) -> int | None:
    """Like `new_attempt`, but None when somebody is at work on the newest; of many callers one gets it."""
    newest = max(attempt_numbers(run), default=0)
    if newest and is_live(run, newest, clock=clock):
        return None
    return newest + 1 if _make(run, newest + 1, owner) else None


def is_live(run: Path, number: int, *, clock: Clock) -> bool:
    """Whether the owner of this attempt seems to be at work: not released or failed, a fresh sign of life."""
    folder = attempt_path(run, number)
    if (folder / FAILURE).exists() or not (folder / OWNER).exists():
        return False
    signs = (lease.read(path, clock=clock) for path in (run / LEASE, folder / OWNER))
    return any(sign is not None and sign.attempt == number and sign.live for sign in signs)


def _make(run: Path, number: int, owner: Mapping[str, Any]) -> bool:
    """An atomic mkdir of a folder that says from its first moment whose it is, and of which run."""
    target = attempt_path(run, number)
    files.make_folder(target.parent)
    content = {OWNER: lease.encode(owner, attempt=number, progress={})}
    with contextlib.suppress(RunError):
        content[description.SPEC] = description.encode(description.read(run))
    return files.make_filled_folder(target, content)


def states(run: Path, number: int) -> list[State]:
    """The training states attempt `number` noted, newest first; their bytes are not looked at."""
    folder = attempt_path(run, number)
    try:
        names = os.listdir(folder)  # noqa: PTH208 - half the time of iterdir, in a scan
    except OSError:
        return []
    notes = sorted((n for n in names if n.startswith("state-") and n.endswith(".json")), reverse=True)
    return [state for name in notes if (state := _read_note(folder / name, number)) is not None]


def _read_note(path: Path, attempt: int) -> State | None:
    try:
        note = reading.read_as(path, _Note, limit=4096)
        sequence = int(path.stem.removeprefix("state-"))
    except (RunError, ValueError):
        return None
    if note is None:
        return None
    return State(
        path=path.with_suffix(".pt"), attempt=attempt, number=sequence, **msgspec.structs.asdict(note)
    )


def all_states(run: Path) -> list[State]:
    """The training states of all attempts, the furthest first."""
    found = [state for number in attempt_numbers(run) for state in states(run, number)]
    return sorted(found, key=lambda s: (s.step, s.attempt, s.number), reverse=True)


def newest_failure(run: Path) -> dict[str, Any] | None:
    """What the newest attempt that failed says about it; a damaged note still counts as a failure."""
    for number in reversed(attempt_numbers(run)):
        if (failure := read_failure(run, number)) is not None:
            return failure
    return None


def read_failure(run: Path, number: int) -> dict[str, Any] | None:
    """The failure of one attempt, which always has a message; None where there is none."""
    path = attempt_path(run, number) / FAILURE
    try:
        failure = reading.read_object(path)
        reading.as_kind(failure or {}, Failure, path=path)
    except RunError as error:
        return {"kind": "DamagedFile", "message": error.what, "attempt": number}
    if failure is None:
        return None
    return {"attempt": number, **failure, "message": failure.get("message") or "it left no reason"}


def environment(run: Path, number: int) -> dict[str, Any]:
    """Where and how an attempt ran (env.json); empty where it did not say. DamagedFile for anything else."""
    path = attempt_path(run, number) / ENVIRONMENT
    began = reading.read_object(path) or {}
    reading.as_kind(began, Environment, path=path)
    return began


def latest_metrics(run: Path) -> Lines:
    """The metrics of the newest attempt that has any (each begins with what it took over)."""
    for number in reversed(attempt_numbers(run)):
        lines = reading.read_lines(attempt_path(run, number) / METRICS, *LINE)
        if lines is not None:
            return lines
    return Lines([])


def encode_lines(lines: list[dict[str, Any]]) -> bytes:
    """The bytes of a `.jsonl` file."""
    return b"".join(files.encode_json(line, indent=None) for line in lines)
