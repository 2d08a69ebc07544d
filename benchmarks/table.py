"""The measured ratios beside the goals, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from benchmarks.workloads import GRID, GRID_AT_LEAST, WORKLOADS

Row = Mapping[str, Any]


def table(workloads: Mapping[str, Row]) -> Table:
    """A row per workload, in 80 columns; below, the blocks that other processes disturbed."""
    title = "Images per second (grid: seconds), conventional → tfkd, and their ratios"
    shown = Table(title=title, caption=_disturbed(workloads), title_justify="left", box=None, pad_edge=False)
    shown.caption_justify = "left"
    shown.add_column("workload", no_wrap=True)
    names = ("rates", "--fast", "cached", "at least", "fp32", "before")
    for name in names:
        shown.add_column(name, justify="right")
    for name, row in workloads.items():
        shown.add_row(*(_grid_row(row) if name == GRID else _row(name, row)))
    return shown


def _disturbed(workloads: Mapping[str, Row]) -> str:
    """Which workloads had blocks that other processes disturbed, by side."""
    blocks = [
        f"{name} ({side} {counted})"
        for name, row in workloads.items()
        for side, counted in row["disturbed"].items()
        if not counted.startswith("0/")
    ]
    return f"Disturbed by other processes: {', '.join(blocks) or 'no block'}."


def _row(name: str, row: Row) -> list[str]:
    workload = WORKLOADS[name]
    rates = row["images_per_second"]
    goals = (workload.at_least, workload.at_least_cached)
    return [
        name,
        "→".join(f"{rate:.0f}" for side, rate in rates.items() if side not in ("fp32", "before")),
        _against(row["ratio"], workload.at_least),
        _against(row.get("ratio_cached"), workload.at_least_cached),
        " / ".join(f"{each:g}" for each in goals if each is not None),
        _plain(row, "ratio_fp32"),
        " / ".join(filter(None, (_plain(row, "ratio_before"), _plain(row, "ratio_before_cached")))),
    ]


def _grid_row(row: Row) -> list[str]:
    seconds = row["seconds"]
    return [
        GRID,
        "→".join(f"{value:.0f}" for value in seconds.values()),
        _against(row["ratio"], GRID_AT_LEAST),
        "",
        f"{GRID_AT_LEAST:g}",
        "",
        "",
    ]


def _plain(row: Row, name: str) -> str:
    return f"{row[name]:.2f}" if name in row else ""


def _against(value: float | None, goal: float | None) -> str:
    if value is None:
        return ""
    reached = goal is None or value >= goal
    return f"[green]{value:.2f}[/green]" if reached else f"[red]{value:.2f}[/red]"
