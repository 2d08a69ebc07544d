"""Time: used, wasted, and what was estimated for it."""

from __future__ import annotations

import contextlib
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tfkd_cli import costs
from tfkd_cli.costs import DEVICE_MODELS, CostModel
from tfkd_cli.data import DataSet
from tfkd_cli.errors import RunError
from tfkd_cli.report.runs import Run
from tfkd_cli.store import Store, reading
from tfkd_cli.store.records import METRICS


@dataclass(frozen=True)
class Spent:
    """Seconds of training and testing in one run: all of them, and those whose epochs were thrown away."""

    seconds: float = 0.0
    wasted: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """Like runs on one kind of device: seconds estimated from multiply-adds, and what they took.

    `like_error` is the median relative error of the estimate from the other runs of the group.
    """

    dataset: str
    student: str
    teacher: str
    device: str
    runs: int
    estimated: float
    actual: float
    like_error: float | None


def spent(run: Run, store: Store) -> Spent:
    """What one run took, from the epochs its attempts noted; a pack holds those of the result only."""
    if run.epochs is not None and (run.result.get("attempts") or 1) == 1:
        return Spent(run.epochs.seconds)
    noted: dict[tuple[int, int], float] = {}
    for attempt in store.folder(run.name).attempts() if run.state.attempts else ():
        with contextlib.suppress(RunError, ValueError):
            lines = reading.read_lines(attempt / METRICS)
            noted.update(_seconds(lines.lines if lines else (), attempt=int(attempt.name)))
    total = sum(noted.values())
    if run.epochs is not None:
        return Spent(max(total, run.epochs.seconds), max(0.0, total - run.epochs.seconds))
    kept = run.state.epoch or 0
    if run.status == "running":
        return Spent(total)
    last = {epoch: seconds for (_, epoch), seconds in sorted(noted.items()) if epoch <= kept}
    return Spent(total, total - sum(last.values()))


def _seconds(lines: Iterable[Mapping[str, Any]], *, attempt: int) -> Iterator[tuple[tuple[int, int], float]]:
    """(attempt, epoch) → seconds, of the epochs this attempt trained itself."""
    for line in lines:
        epoch, seconds = line.get("epoch"), line.get("seconds")
        if line.get("attempt") == attempt and isinstance(epoch, int) and isinstance(seconds, int | float):
            yield (attempt, epoch), float(seconds)


def by_hardware(runs: Iterable[Run], found: Mapping[str, Spent]) -> list[dict[str, Any]]:
    """Device, runs that took any time there, hours used and hours wasted; the most used first."""
    groups: dict[str, list[Spent]] = defaultdict(list)
    for run in runs:
        if found[run.name].seconds:
            groups[run.hardware or "unknown"].append(found[run.name])
    rows = [
        {
            "hardware": hardware,
            "runs": len(group),
            "hours": sum(each.seconds for each in group) / 3600,
            "wasted_hours": sum(each.wasted for each in group) / 3600,
        }
        for hardware, group in groups.items()
    ]
    return sorted(rows, key=lambda row: -float(str(row["hours"])))


def estimates(runs: Iterable[Run], facts: Mapping[str, DataSet]) -> list[Estimated]:
    """Estimate beside actual, by networks, data set and device; slowest first."""
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        device = str(run.numerics.get("device", "")).partition(":")[0]
        if run.done and device in DEVICE_MODELS and run.result.get("seconds"):
            groups[(*costs.rate_key(run.spec), device)].append(run)
    found = [_estimated(group, device=key[-1], facts=facts) for key, group in groups.items()]
    return sorted(found, key=lambda each: -each.actual)


def _estimated(group: list[Run], *, device: str, facts: Mapping[str, DataSet]) -> Estimated:
    spec = group[0].spec
    return Estimated(
        dataset=spec.dataset,
        student=spec.student,
        teacher=spec.teacher.network if spec.teacher else "",
        device=device,
        runs=len(group),
        estimated=sum(_estimate(run, device=device, facts=facts) for run in group),
        actual=sum(run.result["seconds"] for run in group),
        like_error=_like_error(group),
    )


def _estimate(run: Run, *, device: str, facts: Mapping[str, DataSet]) -> float:
    """Seconds, by the multiply-add model, with the threads it had."""
    return CostModel(device, int(run.numerics.get("threads") or 1), facts=facts)(run.spec).seconds


def _like_error(group: list[Run]) -> float | None:
    """Each run estimated from the median of the others' seconds per epoch."""
    if len(group) < 2:
        return None
    rates: list[float] = [run.result["seconds"] / run.spec.recipe.epochs for run in group]
    errors = [
        abs(statistics.median(rates[:index] + rates[index + 1 :]) / rate - 1)
        for index, rate in enumerate(rates)
    ]
    return statistics.median(errors)
