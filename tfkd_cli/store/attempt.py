"""One attempt at a run. Only its owner writes in its folder; publishing is the one way out of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tfkd_cli.errors import RunError
from tfkd_cli.store import attempts, files, lease, publishing
from tfkd_cli.store.attempts import FAILURE, STAGED, State, encode_lines
from tfkd_cli.store.lease import Clock
from tfkd_cli.store.run_state import METRICS, SCHEMA


class Attempt:
    """`attempts/0003`, made by its owner with a number nobody else has."""

    def __init__(self, run: Path, *, number: int, owner: Mapping[str, Any], clock: Clock) -> None:
        self._run = run
        self._owner = dict(owner)
        self._clock = clock
        self._saved = 0
        self.number = number
        self.path = attempts.attempt_path(run, self.number)
        self.log_path = self.path / "log"
        self.heartbeat({})

    def heartbeat(self, progress: Mapping[str, Any]) -> bool:
        """Say that this attempt is alive and how far it is; False when a later attempt has taken over."""
        with contextlib.suppress(RunError):  # a hint: a full disk shows itself where it matters
            if self._overtaken():
                return False
            data = lease.encode(self._owner, attempt=self.number, progress=progress)
            files.write_hint(self._run / lease.LEASE, data)
        return True

    def _overtaken(self) -> bool:
        holder = lease.read(self._run / lease.LEASE, clock=self._clock)
        return holder is not None and holder.attempt > self.number

    def release(self) -> None:
        """Say that nobody works on this attempt any more, so that nobody waits for its lease to expire."""
        with contextlib.suppress(RunError):
            files.move(self.path / lease.OWNER, self.path / "released.json")
            holder = lease.read(self._run / lease.LEASE, clock=self._clock)
            if holder is not None and holder.owner == self._owner["uuid"]:
                files.remove(self._run / lease.LEASE)

    def write_env(self, env: Mapping[str, Any]) -> None:
        """Keep where this attempt ran: env.json."""
        files.write_atomic(self.path / attempts.ENVIRONMENT, files.encode_json(dict(env)))

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one epoch; numbers that are not finite are kept as null."""
        files.append(self.path / METRICS, encode_lines([dict(line)]))

    def begin_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Begin with the epochs that were done before, of the state from which training goes on."""
        files.write_atomic(self.path / METRICS, encode_lines(lines))

    def save_state(self, write: Callable[[BinaryIO], object], *, step: int, epoch: int) -> Path:
        """Save a training state and keep the one before; older ones go.

        `step` is counted over the whole run, `epoch` are the epochs done. It counts once its digest is noted.
        """
        self._saved += 1
        path = self.path / f"state-{self._saved:06d}.pt"
        files.write_stream(path, write)
        note = {
            "sha256": files.digest(path),
            "size": path.stat().st_size,
            "step": step,
            "epoch": epoch,
        }
        files.write_atomic(path.with_suffix(".json"), files.encode_json(note))
        for state in self._superseded(step):
            state.drop()
        return path

    def _superseded(self, step: int) -> list[State]:
        """Own states but the newest two; with two of them also those of earlier attempts not beyond."""
        own = attempts.states(self._run, self.number)
        if len(own) < 2:
            return []
        earlier = [s for s in attempts.all_states(self._run) if s.attempt < self.number and s.step <= step]
        return own[2:] + earlier

    def fail(self, failure: Mapping[str, Any]) -> bool:
        """Keep why this attempt ended, and release the run; False when even that cannot be written.

        Where there is no room for the traceback, there may be some for the message.
        """
        short = {name: value for name, value in failure.items() if name != "traceback"}
        try:
            return self._keep(failure) or self._keep(short)
        finally:
            self.release()

    def _keep(self, failure: Mapping[str, Any]) -> bool:
        try:
            files.write_atomic(self.path / FAILURE, files.encode_json(dict(failure)))
        except RunError:
            return False
        return True

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
        self._tidy(weights.values())
        return won

    def _tidy(self, sources: Iterable[Path]) -> None:
        """A finished run needs no training states and no second names of its weights.

        What a crash leaves of them, `tfkd clean` shows.
        """
        with contextlib.suppress(RunError):
            files.remove(self.path / STAGED)
            for source in sources:
                if source.is_relative_to(self.path):
                    files.remove(source)
            for state in attempts.all_states(self._run):
                state.drop()
        self.release()
