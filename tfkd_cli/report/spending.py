"""Time: used, wasted, and what was estimated for it."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfkd_cli import costs
from tfkd_cli.costs import DEVICE_MODELS, CostModel
from tfkd_cli.data import DataSet
from tfkd_cli.report.runs import RequestedRun

if TYPE_CHECKING:
    import pandas as pd


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


def by_hardware(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Device, runs that took any time there, hours used and hours wasted; the most used first."""
    used = runs[runs["spent_seconds"] > 0]
    rows = used.assign(
        hardware=used["hardware"].fillna("unknown"),
        hours=used["spent_seconds"] / 3600,
        wasted_hours=used["wasted_seconds"] / 3600,
    ).groupby("hardware", as_index=False)
    summed = rows.agg(runs=("run", "size"), hours=("hours", "sum"), wasted_hours=("wasted_hours", "sum"))
    ordered = summed.sort_values("hours", ascending=False)
    return [{str(name): value for name, value in row.items()} for row in ordered.to_dict("records")]


def estimates(runs: Iterable[RequestedRun], facts: Mapping[str, DataSet]) -> list[Estimated]:
    """Estimate beside actual, by networks, data set and device; slowest first."""
    groups: dict[tuple[Any, ...], list[RequestedRun]] = defaultdict(list)
    for run in runs:
        device = run.row["device"]
        if run.found.done and device in DEVICE_MODELS and run.row["seconds"]:
            groups[(*costs.rate_key(run.spec), device)].append(run)
    found = [_estimated(group, facts=facts) for group in groups.values()]
    return sorted(found, key=lambda each: -each.actual)


def _estimated(group: list[RequestedRun], *, facts: Mapping[str, DataSet]) -> Estimated:
    first = group[0].row
    return Estimated(
        dataset=first["dataset"],
        student=first["student"],
        teacher=first["teacher"] or "",
        device=first["device"],
        runs=len(group),
        estimated=sum(_epochs(run, facts=facts) for run in group),
        actual=sum(run.row["seconds"] for run in group),
        like_error=_like_error([run.row["seconds"] / run.row["epochs"] for run in group]),
    )


def _epochs(run: RequestedRun, *, facts: Mapping[str, DataSet]) -> float:
    """Estimated seconds in epochs, which is what a run records, in as many processes and threads."""
    numerics = run.result.get("numerics") or {}
    threads, processes = (int(numerics.get(name) or 1) for name in ("threads", "processes"))
    estimate = CostModel(run.row["device"], threads, lambda spec: processes, facts=facts)(run.spec)
    return estimate.seconds - estimate.start_seconds


def _like_error(rates: list[float]) -> float | None:
    """Each rate (seconds per epoch) estimated from the median of the others."""
    if len(rates) < 2:
        return None
    others = (rates[:index] + rates[index + 1 :] for index in range(len(rates)))
    errors = [abs(statistics.median(each) / rate - 1) for each, rate in zip(others, rates, strict=True)]
    return statistics.median(errors)
