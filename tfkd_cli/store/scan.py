"""What a run's folder says about the run: derived at each look, stored nowhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tfkd_cli.errors import RunError
from tfkd_cli.store import attempts, lease, publishing, reading
from tfkd_cli.store.lease import Clock, Lease
from tfkd_cli.store.reading import DamagedFile
from tfkd_cli.store.records import RunState, Status


def run_state(run: Path, *, clock: Clock, deep: bool = False) -> RunState:
    """The state of one run; `deep` checks the digests of its weights too, and reads all of them."""
    try:
        result = publishing.read_result(run)
        if result is None:
            return _unfinished(run, clock=clock)
        state = _done(run, result)
        if deep:
            _check_weights(run, result)
    except RunError as error:
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
    spec = reading.read_object(run / "spec.json")
    numbers = attempts.attempt_numbers(run)
    holder = lease.read(run / lease.LEASE, clock=clock) if numbers else None
    state = RunState(
        key=_spec_key(run, spec),
        name=run.name,
        status="todo",
        epochs=_epochs(spec),
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


def _epochs(spec: dict[str, Any] | None) -> int | None:
    recipe = (spec or {}).get("recipe")
    epochs = recipe.get("epochs") if isinstance(recipe, dict) else None
    return epochs if isinstance(epochs, int) else None


def _spec_key(run: Path, spec: dict[str, Any] | None) -> str:
    """The full key; a folder that got no further than its name is known by the key's first 12 digits."""
    if spec is None:
        return run.name[-12:]
    key = spec.get("key")
    if not isinstance(key, str) or not reading.is_digest(key) or not key.startswith(run.name[-12:]):
        raise DamagedFile(run / "spec.json", f"has the key {str(key)[:12]}.", expected=f"{run.name[-12:]}….")
    return key


def _key(run: Path) -> str:
    try:
        return _spec_key(run, reading.read_object(run / "spec.json"))
    except RunError:
        return run.name[-12:]


def _attempts(run: Path) -> int:
    return len(attempts.attempt_numbers(run))
