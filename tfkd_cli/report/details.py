"""What the page's script shows on demand: the runs behind every number, in some hundred bytes each."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paper_tables import printed
from paper_tables.compare import CellComparison, Comparison
from paper_tables.spec import Setting
from tfkd_cli.report import curves
from tfkd_cli.report.asked import Item
from tfkd_cli.report.runs import Run
from tfkd_cli.report.sound import log_tail
from tfkd_cli.spec import Teacher

if TYPE_CHECKING:
    from tfkd_cli.report.contents import Contents

LOG_BUDGET = 400_000  # characters of logs in the page
LOG_LEAST, LOG_MOST, LOG_FAILED = 200, 4000, 4000  # of one run
CURVE_BUDGET = 450_000  # epochs drawn in the page, two characters for each of two curves
TRACEBACK = 3000


class Index:
    """Equal values are kept once: value → its place in a list."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[Hashable, int] = {}

    def place(self, value: Any) -> int:
        """Where `value` (JSON types) stands."""
        mark = json.dumps(value, sort_keys=True)
        if mark not in self._places:
            self._places[mark] = len(self.values)
            self.values.append(value)
        return self._places[mark]


def page_data(contents: Contents) -> dict[str, Any]:
    """The page's JSON: `runs` (a list each, fields as in RUN), `specs`, `places`, `cells`, `pictures`."""
    specs, places = Index(), Index()
    numbers = {name: number for number, name in enumerate(contents.runs)}
    step = _step(contents.runs)
    runs = [
        [
            *_what(run, specs, places, numbers),
            *_outcome(run, contents),
            *_curves(run, step),
            *_logs(run, contents),
        ]
        for run in contents.runs.values()
    ]
    return {
        "fields": list(RUN),
        "runs": runs,
        "specs": specs.values,
        "places": places.values,
        "items": {item.slug: item.title for item in contents.items},
        "cells": dict(_cells(contents, numbers)),
        "pictures": [_picture(each, numbers) for each in contents.pictures],
        "step": step,
    }


RUN = (
    *("name", "status", "spec", "place", "seed", "items"),
    *("best", "bestEpoch", "last", "hours", "wasted", "attempts", "finished", "why", "scores"),
    *("epochs", "test", "train", "logPath", "log"),
)


def _what(run: Run, specs: Index, places: Index, numbers: Mapping[str, int]) -> list[Any]:
    items = sorted(run.wish.items)
    return [
        run.name,
        run.status,
        specs.place(spec_of(run, numbers)),
        places.place(place_of(run)),
        run.spec.seed,
        items,
    ]


def spec_of(run: Run, numbers: Mapping[str, int]) -> dict[str, Any]:
    """What the run is, seed apart; `teacherRun` is the teacher's place among the runs."""
    spec = run.described
    teacher = run.spec.teacher
    return {
        "label": curves.label(run),
        "dataset": run.spec.dataset,
        "student": run.spec.student,
        "method": run.method,
        "form": run.form,
        "scale": run.scale,
        "fast": run.fast,
        "teacher": teacher.network if teacher else "",
        "checkpoint": run.checkpoint,
        "teacherRun": numbers.get(teacher.run.folder) if isinstance(teacher, Teacher) else None,
        "loss": spec["loss"],
        "recipe": spec["recipe"],
    }


def place_of(run: Run) -> dict[str, Any]:
    """Where and with which code it ran."""
    versions = (run.result or run.began).get("versions")
    return {
        "hardware": run.hardware,
        "commit": run.commit,
        "numerics": dict(run.numerics),
        "versions": versions if isinstance(versions, Mapping) else {},
    }


def _outcome(run: Run, contents: Contents) -> list[Any]:
    epochs, spent = run.epochs, contents.spent.get(run.name)
    accuracies: list[Any] = [None, None, None]
    if epochs is not None:
        accuracies = [epochs.best_accuracy, epochs.best_epoch, epochs.last_accuracy]
    hours = [round(each / 3600, 5) for each in ((spent.seconds, spent.wasted) if spent else (0, 0))]
    return [
        *accuracies,
        *hours,
        run.state.attempts,
        str(run.result.get("finished_at") or ""),
        why(run),
        scores(run),
    ]


def scores(run: Run) -> dict[str, Any]:
    """What else was measured at the best epoch, and what chose it where that was not the test set."""
    best = run.result.get("best") or {}
    found = {name: value for name, value in best.items() if name not in ("epoch", "accuracy")}
    chosen = run.result.get("chosen_on")
    return {**found, "chosen on": chosen} if chosen not in (None, "test") else found


def why(run: Run) -> str:
    """What stands in the way of this run, in words; empty where nothing does."""
    if run.status == "blocked":
        return f"its teacher {run.blocked_by} has not finished"
    if run.status == "damaged":
        return run.state.damage
    if run.status == "failed":
        message = str(run.failure.get("message") or "failed")
        return "\n\n".join(filter(None, [message, str(run.failure.get("traceback") or "")[-TRACEBACK:]]))
    return run.note


def _step(runs: Mapping[str, Run]) -> int:
    """Every how many epochs a point of a curve is kept."""
    epochs = sum(len(run.epochs.test) // 2 for run in runs.values() if run.epochs is not None)
    return 1 + epochs // CURVE_BUDGET


def _curves(run: Run, step: int) -> list[Any]:
    """How many epochs, and both curves: every `step`-th point back from the last."""
    if run.epochs is None:
        return [0, "", ""]
    count = len(run.epochs.test) // 2
    if step == 1:
        return [count, run.epochs.test, run.epochs.train]
    kept = range(count - 1, -1, -step)
    thin = [
        "".join(text[2 * at : 2 * at + 2] for at in reversed(kept))
        for text in (run.epochs.test, run.epochs.train)
    ]
    return [count, *thin]


def _logs(run: Run, contents: Contents) -> tuple[str, str]:
    share = min(LOG_MOST, max(LOG_LEAST, LOG_BUDGET // len(contents.runs)))
    if contents.store is None:
        return "", ""
    return log_tail(run, contents.store, limit=LOG_FAILED if run.status == "failed" else share)


def _picture(picture: curves.Picture, numbers: Mapping[str, int]) -> dict[str, Any]:
    lines = {label: [numbers[run.name] for run in runs] for label, runs in picture.runs.items()}
    return {"name": picture.name, "title": picture.title, "lines": lines}


def _cells(contents: Contents, numbers: Mapping[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in contents.tables:
        comparison = contents.comparisons[item.slug]
        runs = runs_by_setting(item, numbers)
        for cell in comparison.cells():
            yield (
                cell_name(item, cell),
                {
                    "title": _title(item, comparison, cell),
                    "published": printed.show(cell.cell.published),
                    "note": cell.cell.note,
                    "assumed": list(cell.assumed) if item.of_the_paper else [],
                    "warnings": list(cell.warnings),
                    "runs": runs.get(cell.cell.setting, []),
                    "baseline": [] if cell.cell.is_baseline else runs.get(cell.cell.setting.baseline(), []),
                },
            )
    yield from _claims(contents, numbers)


def _claims(contents: Contents, numbers: Mapping[str, int]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, judged in enumerate(contents.claims):
        for verdict in judged.best:
            for index, each in enumerate(verdict.contrasts):
                contrast = each.contrast
                sides = [judged.measured.get(side) for side in (contrast.setting, contrast.against)]
                names = [[value.run for value in side.values] if side else [] for side in sides]
                own, against = ([numbers[name] for name in each if name in numbers] for each in names)
                published = "" if contrast.published is None else f"{contrast.published:+.2f} points"
                yield (
                    contrast_name(number, verdict.claim.name, index),
                    {
                        "title": f"{verdict.claim.statement} {contrast.label}",
                        "published": published,
                        "note": "",
                        "assumed": [],
                        "warnings": [],
                        "runs": own,
                        "baseline": against,
                    },
                )


def runs_by_setting(item: Item, numbers: Mapping[str, int]) -> dict[Setting, list[int]]:
    """Setting → the places of its runs, finished or not."""
    by_setting = item.campaign.request.runs_by_setting(item.what)
    return {setting: [numbers[spec.folder] for spec in specs] for setting, specs in by_setting.items()}


def cell_name(item: Item, cell: CellComparison) -> str:
    """What a link to a cell's runs says: `table1/3/kd`."""
    return f"{item.slug}/{cell.cell.row}/{cell.cell.column}"


def contrast_name(judged: int, claim: str, index: int) -> str:
    """The same for a contrast of a claim."""
    return f"claim/{judged}/{claim}/{index}"


def _title(item: Item, comparison: Comparison, cell: CellComparison) -> str:
    labels: Sequence[str] = comparison.table.rows[cell.cell.row].labels
    columns = {column.name: column.label for column in comparison.table.columns}
    return " · ".join([item.title, *labels, columns[cell.cell.column]])
