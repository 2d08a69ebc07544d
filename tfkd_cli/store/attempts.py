"""The attempts of a run: numbered folders, and what each keeps for the next one.

Only the owner of an attempt writes in its folder; publishing is the one way out of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tfkd_cli.errors import RunError
from tfkd_cli.schema import Count, Digest, Record
from tfkd_cli.store import description, files, lease, publishing, reading
from tfkd_cli.store.lease import OWNER
from tfkd_cli.store.publishing import ATTEMPTS, STAGED, attempt_path, encode_lines
from tfkd_cli.store.reading import DamagedFile
from tfkd_cli.store.run_state import METRICS, SCHEMA, Environment, Failure, sealed, unsealed

FAILURE = "failure.json"
ENVIRONMENT = "env.json"


class State(Record):
    """`state-000001.json`, which stands for the training state beside it."""

    sha256: Digest
    size: Count
    step: Count
    epoch: Count
    note: str = ""  # the path of this file, set when it is read

    @property
    def path(self) -> Path:
        """The training state."""
        return Path(self.note).with_suffix(".pt")

    @property
    def attempt(self) -> int:
        """The attempt that saved it."""
        return int(self.path.parent.name)

    def is_sound(self) -> bool:
        """Whether the file still holds the bytes that were saved (reads all of it)."""
        try:
            return self.path.stat().st_size == self.size and reading.digest(self.path) == self.sha256
        except (OSError, DamagedFile):
            return False

    def drop(self) -> None:
        """Remove it; the note first, so that no note ever stands for a missing file."""
        files.remove(Path(self.note))
        files.remove(self.path)


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


def states(run: Path, number: int) -> list[State]:
    """The training states attempt `number` noted, newest first; their bytes are not looked at."""
    found = []
    for note in sorted(attempt_path(run, number).glob("state-*.json"), reverse=True):
        with contextlib.suppress(RunError):
            state: State | None = reading.read_as(note, State, limit=4096)
            if state is not None:
                found.append(msgspec.structs.replace(state, note=str(note)))
    return found


def all_states(run: Path) -> list[State]:
    """The training states of all attempts, the furthest first."""
    found = [state for number in attempt_numbers(run) for state in states(run, number)]
    return sorted(found, key=lambda s: (s.step, s.attempt, s.note), reverse=True)


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
    data = reading.read_bytes(path)
    return {} if data is None else unsealed(data, Environment, path=path)


def begin(run: Path, *, given: Mapping[str, Any], alone: bool) -> Attempt | None:
    """The next attempt, with a number that no other caller gets; `given` says what is known of its owner.

    Its folder is placed whole: it says from its first moment whose it is, and of which run.
    `alone`: None while somebody else is at work on the newest one, or where another caller was faster.
    """
    publishing.finish(run)
    owner, newest = lease.new_owner(given), max(attempt_numbers(run), default=0)
    holder = lease.read(attempt_path(run, newest) / OWNER)
    failed = (attempt_path(run, newest) / FAILURE).exists()
    if alone and holder is not None and holder.live and not failed:
        return None
    files.make_folder(run / ATTEMPTS)
    content = {OWNER: lease.encode(owner, progress={})}
    with contextlib.suppress(RunError):
        content[description.SPEC] = description.encode(description.read(run))
    for number in itertools.count(newest + 1):
        if files.make_filled_folder(attempt_path(run, number), content):
            return Attempt(run, number=number, owner=owner)
        if alone:
            break
    return None


class Attempt:
    """`attempts/0003`, made by its owner with a number nobody else has."""

    def __init__(self, run: Path, *, number: int, owner: Mapping[str, Any]) -> None:
        self._run, self._owner = run, owner
        self._saved = 0
        self.number = number
        self.path = attempt_path(run, number)
        self.log_path = self.path / "log"

    def heartbeat(self, progress: Mapping[str, Any]) -> bool:
        """Say that this attempt is alive and how far it is; False when a later attempt has taken over."""
        with contextlib.suppress(RunError):  # a hint: a full disk shows itself where it matters
            if max(attempt_numbers(self._run), default=0) > self.number:
                return False
            files.write_hint(self.path / OWNER, lease.encode(self._owner, progress=progress))
        return True

    def release(self) -> None:
        """Say that nobody works on this attempt any more, so that nobody waits for its lease to expire."""
        with contextlib.suppress(RunError):
            files.move(self.path / OWNER, self.path / "released.json")

    def write_env(self, env: Mapping[str, Any]) -> None:
        """Keep where this attempt ran: env.json."""
        files.write_atomic(self.path / ENVIRONMENT, sealed(env))

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one epoch; numbers that are not finite are kept as null."""
        files.append(self.path / METRICS, encode_lines([dict(line)]))

    def begin_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Begin with the epochs that were done before, of the state from which training goes on."""
        files.write_atomic(self.path / METRICS, encode_lines(lines))

    def save_state(self, data: bytes, *, step: int, epoch: int) -> Path:
        """Save a training state and keep the one before; older ones go.

        `step` is counted over the whole run, `epoch` are the epochs done. It counts once its digest is noted.
        """
        self._saved += 1
        path = self.path / f"state-{self._saved:06d}.pt"
        files.write_atomic(path, data)
        digest = hashlib.sha256(data).hexdigest()
        note = {"sha256": digest, "size": len(data), "step": step, "epoch": epoch}
        files.write_atomic(path.with_suffix(".json"), files.encode_json(note))
        for state in self._superseded(step):
            state.drop()
        return path

    def _superseded(self, step: int) -> list[State]:
        """Own states but the newest two; with two of them also those of earlier attempts not beyond."""
        own = states(self._run, self.number)
        if len(own) < 2:
            return []
        earlier = [s for s in all_states(self._run) if s.attempt < self.number and s.step <= step]
        return own[2:] + earlier

    def fail(self, failure: Mapping[str, Any]) -> None:
        """Keep why this attempt ended, where that can be written, and release the run."""
        with contextlib.suppress(RunError):
            files.write_atomic(self.path / FAILURE, files.encode_json(dict(failure)))
        self.release()

    def publish(
        self, *, metrics: list[dict[str, Any]], weights: Mapping[str, Path], result: Mapping[str, Any]
    ) -> bool:
        """Make metrics, weights (file name → file) and result the run's, result.json last; see `publishing`.

        `schema`, `attempt`, `folder` and the digests under `records` and `weights` are filled in here; `key`
        must be the full one. False when another attempt's result is the one that stands.
        """
        publishing.finish(self._run)
        records, digests = publishing.stage(self.path, metrics=metrics, weights=weights)
        standing = publishing.read_result(self._run)
        if standing is None:
            own = {"schema": SCHEMA, "attempt": self.number, "folder": self._run.name}
            publishing.decide(self._run, {**result, **own, "records": records, "weights": digests})
            won = (publishing.read_result(self._run) or {}).get("attempt") == self.number
        else:
            won = publishing.give_back(self._run, standing, attempt=self.number, staged=digests)
        # A finished run needs no training states and no second names of its weights.
        with contextlib.suppress(RunError):  # what a crash leaves of them, `tfkd clean` shows
            files.remove(self.path / STAGED)
            for source in weights.values():
                if source.is_relative_to(self.path):
                    files.remove(source)
            for state in all_states(self._run):
                state.drop()
        self.release()
        return won
