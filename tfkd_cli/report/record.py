"""report.json: everything the page shows, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from paper_tables import render
from paper_tables.verdicts import NOTES
from tfkd_cli.report.columns import RUNS, names
from tfkd_cli.report.details import place_of, why
from tfkd_cli.report.runs import Run
from tfkd_cli.report.spending import by_hardware
from tfkd_cli.report.tidy import run_row

if TYPE_CHECKING:
    from tfkd_cli.report.contents import Contents, Missing

SCHEMA = 1


def record(contents: Contents) -> dict[str, Any]:
    """JSON types only. Accuracies in percent, gains in points, times in seconds unless a name says hours."""
    return {
        "schema": SCHEMA,
        "made_at": contents.made_at,
        "tfkd": contents.version,
        "toy": contents.toy,
        "claims": [
            {"manner": list(each.manner), "verdicts": render.claims_json(each.best, each.last)}
            for each in contents.claims
        ],
        "tables": [
            {
                "slug": item.slug,
                "manner": list(item.manner),
                "scale": item.scale,
                "seeds": list(item.campaign.request.seeds),
                **render.json(contents.comparisons[item.slug]),
            }
            for item in contents.tables
        ],
        "figures": {slug: asdict(data) for slug, data in contents.figures.items()},
        "runs": [_run(run, contents) for run in contents.runs.values()],
        "hours": by_hardware(contents.runs.values(), contents.spent),
        "estimates": [asdict(each) for each in contents.estimates],
        "missing": [_missing(each) for each in contents.missing],
        "errata": [asdict(each) for each in contents.errata],
        "left_out": list(contents.left_out),
        "notes": list(contents.notes),
        "explained": dict(NOTES),
    }


def _run(run: Run, contents: Contents) -> dict[str, Any]:
    spec = run.described
    return {
        **dict(zip(names(RUNS), run_row(run, contents.hours), strict=True)),
        "key": run.spec.key,
        "fast": run.fast,
        "loss": spec["loss"],
        "recipe": spec["recipe"],
        "wanted_by": sorted(run.wish.items),
        **place_of(run),
        "attempts": run.state.attempts,
        "wasted_hours": round(contents.spent[run.name].wasted / 3600, 6),
        "why": why(run),
        "failure": _plain(run.failure),
    }


def _plain(failure: Mapping[str, Any]) -> dict[str, Any] | None:
    return dict(failure) or None


def _missing(each: Missing) -> dict[str, Any]:
    return {
        "slug": each.item.slug,
        "wanted": each.wanted,
        "counts": dict(each.counts),
        "seconds_left": round(each.seconds),
        "command": each.item.command,
    }
