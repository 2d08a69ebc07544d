"""A comparison as data: JSON (the shape of `show --format json`) and CSV, one record per cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from paper_tables.compare import CellComparison, Comparison, Reading


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
        "published": asdict(cell.cell.published),
        "note": cell.cell.note,
        "assumed": list(cell.assumed),
        "warnings": list(cell.warnings),
        "measured": {
            "n": cell.n,
            "wanted": cell.wanted,
            "best": _reading(cell.best) if cell.best else None,
            "last": _reading(cell.last) if cell.last else None,
            "gain": cell.best.gain.mean if cell.best and cell.best.gain else None,
            "runs": list(cell.measured.runs),
            "baseline_runs": list(cell.baseline_runs),
        },
    }


def _reading(reading: Reading | None) -> dict[str, Any]:
    """What is known at one epoch: the same names in JSON and, prefixed by the epoch, in CSV."""
    level, gained = (reading.level, reading.gain_level) if reading else (None, None)
    gain = reading.gain if reading else None
    interval, error = (gain.interval, gain.error) if gain else (None, None)
    return {
        "mean": reading and reading.mean,
        "std": reading and reading.std,
        "difference": level and level.difference,
        "verdict": level and level.word,
        "allowed_difference": level and level.allowed,
        "gain": gain and gain.mean,
        "gain_low": interval and interval.low,
        "gain_high": interval and interval.high,
        "gain_se": error and error.se,
        "gain_df": error and error.df,
        "gain_pairs": gain and gain.pairs,
        "gain_difference": gained and gained.difference,
        "gain_verdict": gained and gained.word,
        "allowed_gain_difference": gained and gained.allowed,
        "smallest_gain": gain and gain.smallest,
        "seeds_for_printed_gain": reading and reading.seeds_for_printed_gain,
    }


def comparison_csv(comparison: Comparison, *, called: Callable[[str], str] = str) -> str:
    """One line per cell; the columns are the same for every table. `called`: what to call a method."""
    lines = [
        {**line, "method": called(line["method"])}
        for line in (_line(comparison, each) for each in comparison.cells())
    ]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _text(value) for name, value in line.items()} for line in lines)
    return out.getvalue()


def _line(comparison: Comparison, cell: CellComparison) -> dict[str, Any]:
    published = asdict(cell.cell.published)
    del published["teacher_accuracy"]
    return {
        "table": comparison.table.name,
        "row": cell.cell.row,
        "labels": " / ".join(comparison.table.rows[cell.cell.row].labels),
        "column": cell.cell.column,
        **cell.cell.setting.to_json(),
        **{f"published_{name}": value for name, value in published.items()},
        "n": cell.n,
        "wanted": cell.wanted,
        **{f"best_{name}": value for name, value in _reading(cell.best).items()},
        **{f"last_{name}": value for name, value in _reading(cell.last).items()},
        "assumed": "; ".join(cell.assumed),
        "note": cell.cell.note,
        "warnings": "; ".join(cell.warnings),
        "runs": " ".join(cell.measured.runs),
        "baseline_runs": " ".join(cell.baseline_runs),
    }


def _text(value: Any) -> Any:
    """Floats to six decimals, past what a test set can tell; `alpha=0.1; temperature=20` for named values."""
    if isinstance(value, dict):
        return "; ".join(f"{name}={each}" for name, each in value.items())
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
