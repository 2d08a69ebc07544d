"""A comparison as data: JSON (the shape of `show --format json`) and CSV, one record per cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from paper_tables.compare import CellComparison, Comparison
from paper_tables.measured import EPOCHS, Epoch
from paper_tables.spec import Published
from paper_tables.verdicts import judge_cell


def comparison_record(comparison: Comparison) -> dict[str, Any]:
    """JSON types only; None where nothing is known. `measured.gain` is the gain at the best epoch."""
    table = comparison.table
    return {
        "table": table.name,
        "title": table.title,
        "kind": table.kind,
        "source": table.source,
        "caption": table.caption,
        "note": table.note,
        "heads": list(table.heads),
        "columns": [{"name": column.name, "label": column.label} for column in table.columns],
        "cells": [_cell(each, table.rows[each.cell.row].labels) for each in comparison.cells()],
        "unequal_scatter": list(comparison.unequal_scatter),
    }


def _cell(cell: CellComparison, labels: tuple[str, ...]) -> dict[str, Any]:
    return {
        "row": cell.cell.row,
        "labels": list(labels),
        "column": cell.cell.column,
        "setting": cell.cell.setting.to_json(),
        "published": _published(cell.cell.published),
        "note": cell.cell.note,
        "assumed": list(cell.assumed),
        "warnings": list(cell.warnings),
        "measured": {
            "n": cell.n,
            "wanted": cell.wanted,
            "best": _reading(cell, "best"),
            "last": _reading(cell, "last"),
            "gain": cell.best.gain.mean if cell.best and cell.best.gain else None,
            "runs": list(cell.runs),
            "baseline_runs": list(cell.baseline_runs),
        },
    }


def _published(published: Published) -> dict[str, Any]:
    return {
        "mean": published.mean,
        "std": published.std,
        "gain": published.gain,
        "runs": published.runs,
        "teacher_accuracy": published.teacher_accuracy,
    }


def _reading(cell: CellComparison, epoch: Epoch) -> dict[str, Any] | None:
    return dict(_values(cell, epoch)) if cell.reading(epoch) else None


def _values(cell: CellComparison, epoch: Epoch) -> Iterator[tuple[str, Any]]:
    """What is known at one epoch: the same names in JSON and, prefixed by the epoch, in CSV."""
    reading, verdict = cell.reading(epoch), judge_cell(cell, epoch)
    gain = reading.gain if reading else None
    interval, error = (gain.interval, gain.error) if gain else (None, None)
    for name in ("mean", "std", "difference"):
        yield name, getattr(reading, name, None)
    yield from (("verdict", verdict.level.word), ("allowed_difference", verdict.level.allowed))
    yield "gain", gain.mean if gain else None
    yield "gain_low", interval.low if interval else None
    yield "gain_high", interval.high if interval else None
    yield "gain_se", error.se if error else None
    yield "gain_df", error.df if error else None
    yield "gain_pairs", gain.pairs if gain else None
    yield "gain_difference", reading.gain_difference if reading else None
    yield from (("gain_verdict", verdict.gain.word), ("allowed_gain_difference", verdict.gain.allowed))
    yield "smallest_gain", verdict.smallest_gain
    yield "seeds_for_printed_gain", verdict.seeds_for_printed_gain


def comparison_csv(comparison: Comparison) -> str:
    """One line per cell; the columns are the same for every table."""
    lines = [dict(_line(comparison, each)) for each in comparison.cells()]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _text(value) for name, value in line.items()} for line in lines)
    return out.getvalue()


def _line(comparison: Comparison, cell: CellComparison) -> Iterator[tuple[str, Any]]:
    yield from (("table", comparison.table.name), ("row", cell.cell.row))
    yield from (
        ("labels", " / ".join(comparison.table.rows[cell.cell.row].labels)),
        ("column", cell.cell.column),
    )
    for name, value in cell.cell.setting.to_json().items():
        yield name, "; ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else value
    for name in ("mean", "std", "gain", "runs"):
        yield f"published_{name}", getattr(cell.cell.published, name)
    yield from (("n", cell.n), ("wanted", cell.wanted))
    for epoch in EPOCHS:
        measured = cell.reading(epoch) is not None
        yield from ((f"{epoch}_{name}", value if measured else None) for name, value in _values(cell, epoch))
    yield from (("assumed", "; ".join(cell.assumed)), ("note", cell.cell.note))
    yield from (("warnings", "; ".join(cell.warnings)), ("runs", " ".join(cell.runs)))
    yield "baseline_runs", " ".join(cell.baseline_runs)


def _text(value: Any) -> Any:
    """Empty for None; floats to six decimals: past what a test set can tell."""
    return (
        f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else "" if value is None else value
    )
