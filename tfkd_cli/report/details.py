"""What the page's script shows on demand: the runs behind every number, in some hundred bytes each."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from paper_tables import printed
from paper_tables.compare import CellComparison
from paper_tables.measured import NOTHING
from tfkd_cli.regular_files import open_regular
from tfkd_cli.report import figures
from tfkd_cli.report.items import Item
from tfkd_cli.report.runs import RequestedRun
from tfkd_cli.spec import Teacher
from tfkd_cli.store import Store

if TYPE_CHECKING:
    from tfkd_cli.report.contents import Contents

LOG_BUDGET = 400_000  # characters of logs in the page
LOG_LEAST, LOG_MOST = 200, 4000  # of one run
CURVE_BUDGET = 200_000  # points drawn in the page, of two curves a run
CONFUSION_BUDGET = 600_000  # characters of confusion matrices in the page
TRACEBACK = 3000  # characters

Behind = Iterator[tuple[str, dict[str, Any]]]
"""What stands behind numbers, by the names of the links that lead there."""


def page_data(contents: Contents) -> dict[str, Any]:
    """The page's JSON: `runs` (objects), `specs` and `places` that runs share, `cells`, `pictures`."""
    runs = list(contents.runs.values())
    numbers = {run.name: number for number, run in enumerate(runs)}
    # Values that many runs have, as JSON → where they stand among the distinct ones.
    specs, places, epochs, class_names = (dict[str, int]() for _ in range(4))
    step = 1 + 2 * sum(len(run.lines) for run in runs) // CURVE_BUDGET
    log_share = min(LOG_MOST, max(LOG_LEAST, LOG_BUDGET // max(1, len(runs))))
    matrices = [_confusion(run) for run in runs]
    drawn = sum(len(row) for matrix in matrices for row in matrix) <= CONFUSION_BUDGET
    return {
        "runs": [
            {
                "spec": _place(specs, spec_of(run, numbers)),
                "place": _place(places, place_of(run)),
                **_outcome(run),
                **_curves(run, step, epochs),
                **_log(run, contents.store, limit=LOG_MOST if run.status == "failed" else log_share),
                "classes": _place(class_names, run.result.get("class_names")) if matrix else None,
                "confusion": matrix if drawn else [],
            }
            for run, matrix in zip(runs, matrices, strict=True)
        ],
        "specs": _values(specs),
        "places": _values(places),
        "epochs": _values(epochs),
        "classNames": _values(class_names),
        "items": {item.slug: item.title for item in contents.items},
        "cells": {
            name: behind
            for part in (_cells, _methods, _contrasts)
            for name, behind in part(contents, numbers)
        },
        "pictures": [_picture(each, numbers) for each in contents.pictures],
        "pictureFormats": figures.curve_formats(contents.pictures),
    }


def _place(shared: dict[str, int], value: Any) -> int:
    """Where a value (JSON types) that many runs have stands among the distinct ones."""
    return shared.setdefault(json.dumps(value), len(shared))


def _values(shared: Iterable[str]) -> list[Any]:
    return [json.loads(each) for each in shared]


def spec_of(run: RequestedRun, numbers: Mapping[str, int]) -> dict[str, Any]:
    """What the run is, seed apart; `teacherRun` is the teacher's place among the runs."""
    described, teacher = run.spec.to_json(), run.spec.teacher
    names = ("dataset", "student", "method", "form", "scale", "teacher", "checkpoint")
    return {
        "label": figures.label(run),
        **{name: run.row[name] for name in names},
        "teacherRun": numbers.get(teacher.run.folder) if isinstance(teacher, Teacher) else None,
        "loss": described["loss"],
        "recipe": described["recipe"],
    }


def place_of(run: RequestedRun) -> dict[str, Any]:
    """Where and with which code it ran."""
    found = {name: run.source.get(name) for name in ("numerics", "versions")}
    return {
        "hardware": str(run.row["hardware"] or ""),
        "commit": run.row["commit"] or "",
        **{name: value if isinstance(value, Mapping) else {} for name, value in found.items()},
    }


def _outcome(run: RequestedRun) -> dict[str, Any]:
    row = run.row
    return {
        "name": run.name,
        "status": run.status,
        "seed": run.spec.seed,
        "items": list(run.items),
        "best": row["best_accuracy"],
        "bestEpoch": row["best_epoch"],
        "last": row["last_accuracy"],
        "hours": round(row["spent_seconds"] / 3600, 5),
        "wasted": round(row["wasted_seconds"] / 3600, 5),
        "attempts": row["attempts"],
        "finished": str(row["finished_at"] or ""),
        "why": why(run),
        "scores": scores(run),
    }


def scores(run: RequestedRun) -> dict[str, Any]:
    """What else was measured at the best epoch, and what chose it where that was not the test set."""
    best = run.result.get("best") or {}
    found = {name: value for name, value in best.items() if name not in ("epoch", "accuracy", "confusion")}
    chosen = run.result.get("chosen_on")
    return {**found, "chosen on": chosen} if chosen not in (None, "test") else found


def why(run: RequestedRun) -> str:
    """What stands in the way of this run, in words; empty where nothing does."""
    if run.status == "blocked":
        return f"its teacher {run.blocked_by} has not finished"
    trace = str((run.state.failure or {}).get("traceback") or "")[-TRACEBACK:]
    return "\n\n".join(filter(None, [run.row["problem"], trace])) or run.note


def _curves(run: RequestedRun, step: int, epochs: dict[str, int]) -> dict[str, Any]:
    """Both curves in percent, at every `step`-th epoch back from the last; `epochs`: where those stand."""
    kept = run.lines[::-1][::step][::-1]
    values = {
        curve: [None if line.get(name) is None else round(line[name], 2) for line in kept]
        for curve, name in (("test", "test_accuracy"), ("train", "train_accuracy"))
    }
    return {"epochs": _place(epochs, [line.get("epoch") for line in kept]), **values}


def _confusion(run: RequestedRun) -> list[str]:
    """The confusion matrix, of each row what is not 0: `0:97 4:3`, 97 images taken for class 0, 3 for 4."""
    rows = (run.result.get("best") or {}).get("confusion") or []
    return [" ".join(f"{at}:{n}" for at, n in enumerate(row.split(" ")) if n != "0") for row in rows]


def _log(run: RequestedRun, store: Store, *, limit: int) -> dict[str, str]:
    """The path of the newest log within the store, and its last `limit` characters, from a line's start."""
    folder = store.folder(run.name)
    path = folder.log_path() if run.state.attempts else None
    try:
        if path is None:
            raise FileNotFoundError(path)
        with open_regular(path, below=folder.path) as stream:
            stream.seek(max(0, stream.seek(0, os.SEEK_END) - limit))
            text = stream.read(limit).decode("utf-8", errors="replace")
    except OSError:
        return {"logPath": "", "log": ""}
    whole = len(text) < limit
    return {
        "logPath": path.relative_to(store.root).as_posix(),
        "log": text if whole else text.partition("\n")[2],
    }


def _picture(picture: figures.Picture, numbers: Mapping[str, int]) -> dict[str, Any]:
    lines = {label: [numbers[run.name] for run in runs] for label, runs in picture.runs.items()}
    return {"name": picture.name, "title": picture.title, "lines": lines}


def _cells(contents: Contents, numbers: Mapping[str, int]) -> Behind:
    """The runs behind each number of a table."""
    for item in contents.tables:
        comparison = contents.comparisons[item.slug]
        columns = {column.name: column.label for column in comparison.table.columns}
        by_setting = item.campaign.request.runs_by_setting(item.what)
        runs = {setting: [numbers[spec.folder] for spec in specs] for setting, specs in by_setting.items()}
        for each in comparison.cells():
            cell, labels = each.cell, comparison.table.rows[each.cell.row].labels
            shown = {
                "title": " · ".join([item.title, *labels, columns[cell.column]]),
                "published": printed.show(cell.published),
                "note": cell.note,
                "assumed": "; ".join(each.assumed) if item.of_the_paper else "",
                "warnings": "; ".join(each.warnings),
                "runs": runs.get(cell.setting, []),
                "baseline": [] if cell.is_baseline else runs.get(cell.setting.baseline(), []),
            }
            yield cell_name(item, each), shown


def _methods(contents: Contents, numbers: Mapping[str, int]) -> Behind:
    """The runs behind each method of a comparison."""
    for item in contents.items:
        if item.compared:
            own = {
                line.method: [numbers[name] for name in line.runs]
                for line in contents.answers[item.slug].lines
            }
            for method, its in own.items():
                against = [] if method == "baseline" else own.get("baseline", [])
                shown = {"title": f"{item.title} · {method}", "runs": its, "baseline": against}
                yield f"{item.slug}/{method}", shown


def _contrasts(contents: Contents, numbers: Mapping[str, int]) -> Behind:
    """The runs behind both sides of each contrast of a claim."""
    for number, judged in enumerate(contents.claims):
        for verdict in judged.best:
            for index, result in enumerate(verdict.contrasts):
                contrast = result.contrast
                sides = [judged.measured.get(side, NOTHING) for side in (contrast.setting, contrast.against)]
                ours, theirs = ([numbers[run] for run in side.runs if run in numbers] for side in sides)
                shown = {
                    "title": f"{verdict.claim.statement} {contrast.label}",
                    "published": "" if contrast.published is None else f"{contrast.published:+.2f} points",
                    "runs": ours,
                    "baseline": theirs,
                }
                yield contrast_name(number, verdict.claim.name, index), shown


def cell_name(item: Item, cell: CellComparison) -> str:
    """What a link to a cell's runs says: `table1/3/kd`."""
    return f"{item.slug}/{cell.cell.row}/{cell.cell.column}"


def contrast_name(judged: int, claim: str, index: int) -> str:
    """The same for a contrast of a claim."""
    return f"claim/{judged}/{claim}/{index}"
