"""What a run's folder says about the run: derived at each look, stored nowhere."""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfkd_cli.errors import RunError
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import attempts, description, lease, publishing, reading
from tfkd_cli.store.lease import Clock, Lease
from tfkd_cli.store.reading import DamagedFile
from tfkd_cli.store.run_state import RunState, Status

log = logging.getLogger("tfkd")


def run_state(run: Path, *, clock: Clock, deep: bool = False) -> RunState:
    """The state of one run; `deep` checks the digests of its weights too, and reads all of them.

    Damage is logged, so that every command names the file.
    """
    try:
        result = publishing.read_result(run)
        if result is None:
            return _unfinished(run, clock=clock)
        state = _done(run, result)
        if deep:
            _check_weights(run, result)
    except RunError as error:
        log.warning("%s Hint: %s", error.what, error.hint)
        return RunState(
            key=_key(run), name=run.name, status="damaged", damage=str(error), attempts=_attempts(run)
        )
    return state


def _done(run: Path, result: dict[str, Any]) -> RunState:
    missing = publishing.missing_weights(run, result)
    return RunState(
        key=result["key"],
        name=run.name,
        status="done",
        epoch=result["epochs"],
        epochs=result["epochs"],
        result=result,
        attempts=result.get("attempts") or 1,
        weights=bool(result["weights"]) and not missing,
        missing=missing,
    )


def _check_weights(run: Path, result: dict[str, Any]) -> None:
    for name, expected in publishing.vouched_weights(run, result).items():
        path = run / publishing.WEIGHTS / name
        if path.is_symlink() or (path.exists() and reading.digest(path) != expected):
            raise DamagedFile(path, "does not hold the weights its result vouches for.")


def _unfinished(run: Path, *, clock: Clock) -> RunState:
    spec = _spec(run)
    numbers = attempts.attempt_numbers(run)
    holder = lease.read(run / lease.LEASE, clock=clock) if numbers else None
    state = RunState(
        key=spec.key if spec else run.name[-12:],  # a folder that got no further than its name
        name=run.name,
        status="todo",
        epochs=spec.recipe.epochs if spec else None,
        attempts=len(numbers),
    )
    if holder is not None and holder.live:
        return replace(
            state,
            status="running",
            epoch=_epoch(run, holder),
            heartbeat_age=max(0.0, holder.age),
            slurm=holder.slurm,
        )
    failure = attempts.read_failure(run, numbers[-1]) if numbers else None
    saved = attempts.all_states(run)
    status: Status = "failed" if failure else "resumable" if saved else "todo"
    return replace(state, status=status, failure=failure, epoch=saved[0].epoch if saved else None)


def _epoch(run: Path, holder: Lease) -> int | None:
    epoch = holder.progress.get("epoch")
    if isinstance(epoch, int):
        return epoch
    saved = attempts.all_states(run)  # an attempt that begins goes on from the furthest
    return saved[0].epoch if saved else None


def _spec(run: Path) -> RunSpec | None:
    """The run's description; None where nothing was written of it, DamagedFile where it cannot be read."""
    try:
        return description.read(run)
    except DamagedFile:
        if os.path.lexists(run / description.SPEC):
            raise
        return None


def _key(run: Path) -> str:
    with contextlib.suppress(RunError):
        return description.read(run).key
    return run.name[-12:]


def _attempts(run: Path) -> int:
    return len(attempts.attempt_numbers(run))
