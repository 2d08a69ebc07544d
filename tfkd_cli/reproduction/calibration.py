"""`plan --calibrate`: 50 steps of each kind of run on this device, kept in the cache folder."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfkd_cli.costs import Rate, Rates, facts_of, rate_key, threads_speed_up
from tfkd_cli.errors import RunError
from tfkd_cli.execution import Execution
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.schema import NotNegative, Record
from tfkd_cli.store import files, reading


class _Kept(Record):
    """The file: keys of `costs.rate_key`, seconds."""

    rates: list[tuple[tuple[str | int | None, ...], NotNegative]]


def calibrate(request: Request, *, execution: Execution, device: str, say: Callable[[str], None]) -> None:
    """Time every kind of run of the request that was not timed here before; says what it does.

    Runs on ImageNet are not timed on a CPU: 50 of their steps would take hours.
    """
    known = _known(execution, device)
    facts = {each.name: each.facts for each in request.data.values()}
    kinds = {
        rate_key(spec): spec
        for spec in (each for spec in request.specs for each in spec.lineage)
        if device != "cpu" or spec.dataset.partition("@")[0] != "imagenet"
    }
    missing = {key: spec for key, spec in kinds.items() if key not in known}
    for number, (key, spec) in enumerate(missing.items(), 1):
        say(f"Timing {number} of {len(missing)}: {spec.student} ({spec.method}) on {spec.dataset}")
        from tfkd_cli.training import timing

        threads = execution.threads or 1
        seconds = timing.seconds_per_image(
            spec, facts_of(spec.dataset, facts), device=execution.device, threads=threads
        )
        known[key] = seconds * threads_speed_up(device, threads)
        _write(_path(execution, device), known)  # after each: an interrupted calibration keeps what it has


def rates(execution: Execution, *, device: str) -> Rates:
    """What was timed on this machine before; empty when nothing was, or the file cannot be read."""
    return {key: Rate(seconds, source="calibrated") for key, seconds in _known(execution, device).items()}


def _known(execution: Execution, device: str) -> dict[tuple[Any, ...], float]:
    try:
        kept = reading.read_as(_path(execution, device), _Kept)
    except RunError:
        return {}
    return {key: rate for key, rate in kept.rates if rate} if kept else {}


def _write(path: Path, known: Mapping[tuple[Any, ...], float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomic(path, files.encode_json({"rates": [[list(key), rate] for key, rate in known.items()]}))


def _path(execution: Execution, device: str) -> Path:
    """One file per machine and kind of device: another node's times are no help."""
    return execution.cache_path / "calibration" / f"{platform.node() or 'here'}-{device}.json"
