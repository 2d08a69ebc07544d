"""Time used and wasted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


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
