"""runs.csv and epochs.csv: tidy, with the columns of `columns.py`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tfkd_cli.report.columns import EPOCHS, RUNS, names
from tfkd_cli.report.runs import Run


def runs_csv(runs: Iterable[Run], hours: Mapping[str, float]) -> str:
    """One line per run; `hours` by folder."""
    return _csv([names(RUNS), *(run_row(run, hours) for run in runs)])


def run_row(run: Run, hours: Mapping[str, float]) -> list[Any]:
    """One line of runs.csv."""
    epochs, spent = run.epochs, hours.get(run.name)
    scores: list[Any] = [None, None, None]
    if epochs is not None:
        scores = [epochs.best_accuracy, epochs.best_epoch, epochs.last_accuracy]
    return [
        *run.identity(),
        run.status,
        *scores,
        None if spent is None else round(spent, 6),
        run.hardware,
        run.commit,
    ]


def write_epochs(path: Path, runs: Iterable[Run]) -> None:
    """One line per epoch of the finished runs."""
    with path.open("w", encoding="utf-8", errors="replace", newline="") as stream:
        stream.write(_csv([names(EPOCHS)]))
        for run in runs:
            if run.epochs is not None:
                prefix = _csv([run.identity()]).rstrip("\n") + ","
                lines = run.epochs.text.splitlines(keepends=True)
                stream.write(prefix + prefix.join(lines))


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
