"""report.json: everything the page shows, as data."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from paper_tables.render.as_data import comparison_record
from paper_tables.render.claims import claims_record
from paper_tables.verdicts import NOTES
from tfkd_cli.report.details import place_of, why
from tfkd_cli.report.runs import RequestedRun

if TYPE_CHECKING:
    from tfkd_cli.report.contents import Contents, Missing

SCHEMA = 2


def record(contents: Contents) -> dict[str, Any]:
    """JSON types only. Accuracies in percent, gains in points, times in seconds unless a name says hours."""
    return {
        "schema": SCHEMA,
        "made_at": contents.made_at,
        "tfkd": contents.version,
        "toy": contents.toy,
        "claims": [
            {"departures": list(each.departures), "verdicts": claims_record(each.best, each.last)}
            for each in contents.claims
        ],
        "tables": [
            {
                "slug": item.slug,
                "departures": list(item.departures),
                "scale": item.scale,
                "seeds": list(item.campaign.request.seeds),
                **comparison_record(contents.comparisons[item.slug]),
            }
            for item in contents.tables
        ],
        "comparisons": [{"slug": slug, **each.to_json()} for slug, each in contents.answers.items()],
        "figures": {slug: asdict(data) for slug, data in contents.figures.items()},
        "runs": [_run(run) for run in contents.runs.values()],
        "older": _older(contents),
        "hours": contents.hours,
        "missing": [_missing(each) for each in contents.missing],
        "errata": [asdict(each) for each in contents.errata],
        "left_out": list(contents.left_out),
        "notes": list(contents.notes),
        "explained": dict(NOTES),
    }


def _older(contents: Contents) -> list[dict[str, Any]]:
    """Runs of older trainer versions: what they are, and what they came to."""
    frame = contents.older[["run", "trainer", "status", "best_accuracy", "last_accuracy", "commit"]]
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _run(run: RequestedRun) -> dict[str, Any]:
    return {
        **run.row,
        "wanted_by": list(run.items),
        **place_of(run),
        "why": why(run),
        "failure": run.found.state.failure,
    }


def _missing(each: Missing) -> dict[str, Any]:
    return {
        "slug": each.item.slug,
        "wanted": each.wanted,
        "counts": dict(each.counts),
        "seconds_left": round(each.seconds),
        "command": each.item.command,
    }
