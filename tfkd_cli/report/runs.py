"""The runs that a report's tables and figures ask for, and what became of each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from paper_tables.spec import Setting
from tfkd_cli import results
from tfkd_cli.errors import RunError
from tfkd_cli.report.items import Item
from tfkd_cli.reproduction.overview import STOPPED
from tfkd_cli.results import columns
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import RunState, Store, reading
from tfkd_cli.store.run_state import METRICS

if TYPE_CHECKING:
    import pandas as pd

SCALES = ("paper", "quick", "demo", "custom")

COLUMNS: columns.Columns = {
    "scale": (
        "paper, quick, demo, custom",
        "the recipe: the paper's; `--scale quick`; the demo's; or changed by `--set` and its shorthands",
    ),
    "wanted_by": ("text", "the tables and figures that need this run, a teacher's students included"),
    "spent_seconds": ("seconds", "time in all epochs of all attempts, of all processes of the run together"),
    "wasted_seconds": (
        "seconds",
        "of these, in epochs that a later attempt trained again, or that were lost",
    ),
}
"""What runs.csv adds to the columns of `tfkd_cli.results`."""


class RunUse(NamedTuple):
    """A run, and the items and settings that need it; a teacher's are those of its students."""

    spec: RunSpec
    needed_by: list[tuple[Item, Setting]]


@dataclass(frozen=True, kw_only=True)
class RequestedRun(results.Run):
    """One run that was asked for, teachers included. `row`: its values in runs.csv, None for empty ones."""

    spec: RunSpec
    row: Mapping[str, Any]
    items: Sequence[str]  # slugs
    blocked_by: str = ""  # the teacher that failed

    @property
    def status(self) -> str:
        """`done`, `running`, `resumable`, `blocked`, `failed`, `damaged`, `todo`."""
        return str(self.row["status"])

    @property
    def source(self) -> Mapping[str, Any]:
        """What tells where it ran: its result, or what its newest attempt noted at its start."""
        return self.result or self.began


def run_uses(items: Iterable[Item]) -> dict[str, RunUse]:
    """Folder → where that run is used: the runs of these items, and the teachers they need."""
    found: dict[str, RunUse] = {}
    for item in items:
        for setting, specs in item.campaign.request.runs_by_setting(item.what).items():
            for spec in specs:
                for each in spec.lineage:
                    found.setdefault(each.folder, RunUse(each, [])).needed_by.append((item, setting))
    return found


def requested_runs(
    wanted: Mapping[str, RunUse], found: Mapping[str, results.Run], store: Store
) -> tuple[dict[str, RequestedRun], pd.DataFrame]:
    """Folder → run, teachers first, and the frame that becomes runs.csv; `found`: all runs of the store."""
    import pandas as pd

    runs = {name: _run(name, use, found) for name, use in wanted.items()}
    blocked = _blocked(runs)
    frame = results.runs_frame(runs.values())
    rows = [_added(use, runs[name], store) for name, use in wanted.items()]
    added = pd.DataFrame(rows, columns=["method", "form", *COLUMNS])
    frame["status"] = frame["status"].where(~frame["run"].isin(list(blocked)), "blocked")
    frame["form"] = added.pop("form").fillna(frame["form"])
    frame = frame.assign(**added)
    return {
        name: RequestedRun(
            **vars(run),
            row=row,
            items=row["wanted_by"].split(),
            blocked_by=blocked.get(name, ""),
        )
        for (name, run), row in zip(runs.items(), results.records(frame), strict=True)
    }, frame


def _run(name: str, use: RunUse, found: Mapping[str, results.Run]) -> results.Run:
    if name in found:
        return replace(found[name], spec=use.spec)  # that of a damaged run is not in its folder
    return results.Run(name=name, spec=use.spec, state=RunState(key=use.spec.key, name=name, status="todo"))


def _blocked(runs: Mapping[str, results.Run]) -> dict[str, str]:
    """Folder → the teacher without which this run cannot go on."""
    blocked: dict[str, str] = {}
    for name, run in runs.items():
        for parent in run.spec.parents if run.spec else ():
            stopped = parent.folder in blocked or runs[parent.folder].state.status in STOPPED
            if stopped and run.state.status in ("todo", "resumable"):
                blocked[name] = parent.folder
    return blocked


def _added(use: RunUse, run: results.Run, store: Store) -> dict[str, Any]:
    """What runs.csv says of a run besides its own columns, and the names it was asked for by."""
    processes = ((run.result or run.began).get("numerics") or {}).get("processes") or 1
    spent, wasted = (processes * seconds for seconds in _spent(run, store))
    methods = [setting.method for _, setting in use.needed_by]
    forms = {setting.form or item.campaign.request.form for item, setting in use.needed_by}
    scales = {item.scale for item, _ in use.needed_by}
    renamed = use.spec.method == "kd" and "kd" not in methods  # it was asked for as re-kd or de-kd only
    return {
        "method": methods[0] if renamed else use.spec.method,
        "form": forms.pop() if len(forms) == 1 else None,
        "scale": next(scale for scale in SCALES if scale in scales),
        "wanted_by": " ".join(sorted({item.slug for item, _ in use.needed_by})),
        "spent_seconds": spent,
        "wasted_seconds": wasted,
    }


def _spent(run: results.Run, store: Store) -> tuple[float, float]:
    """Seconds in the epochs of all attempts, and of them in epochs that no longer count.

    They are what the attempts noted; a pack holds none of that.
    """
    own = sum(line.get("seconds") or 0.0 for line in run.lines)
    if run.state.attempts <= 1 and run.state.status in ("done", "running"):
        return own, 0.0
    noted: dict[tuple[int, int], float] = {}
    for attempt in store.folder(run.name).attempts() if run.state.attempts else ():
        with contextlib.suppress(RunError, ValueError):
            lines = reading.read_lines(attempt / METRICS)
            noted.update(_own_epochs(lines.lines if lines else (), attempt=int(attempt.name)))
    total = sum(noted.values())
    if run.state.status == "running":
        return total, 0.0
    if not run.done:
        saved = run.state.epoch or 0
        own = sum(
            {epoch: seconds for (_, epoch), seconds in sorted(noted.items()) if epoch <= saved}.values()
        )
    return max(total, own), max(0.0, total - own)


def _own_epochs(
    lines: Iterable[Mapping[str, Any]], *, attempt: int
) -> Iterator[tuple[tuple[int, int], float]]:
    """(attempt, epoch) → seconds, of the epochs this attempt trained itself."""
    for line in lines:
        epoch, seconds = line.get("epoch"), line.get("seconds")
        if line.get("attempt") == attempt and isinstance(epoch, int) and isinstance(seconds, int | float):
            yield (attempt, epoch), float(seconds)
