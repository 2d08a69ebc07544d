"""From campaigns to files: read, compare, write, put in place."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paper_tables.render import sheet_latex, sheet_markdown
from paper_tables.render.as_data import comparison_csv, comparison_record
from paper_tables.render.cells import comparison_sheet
from paper_tables.render.claims import claims_record, claims_sheet
from paper_tables.verdicts import NOTES
from tfkd_cli import results
from tfkd_cli.compare import sheets
from tfkd_cli.methods import called
from tfkd_cli.report import page
from tfkd_cli.report.contents import Contents, Missing, gather
from tfkd_cli.report.details import page_data, place_of, why
from tfkd_cli.report.figures import Drawing
from tfkd_cli.report.items import items
from tfkd_cli.report.runs import COLUMNS, RequestedRun
from tfkd_cli.report.staging import Staging, reported
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.results import columns
from tfkd_cli.store import Store

SCHEMA = 3  # of report.json
OLDER = ["run", "trainer", "status", "best_accuracy", "last_accuracy", "commit"]  # columns of its `older`
COLUMNS_TEXT = f"""# What the columns mean

UTF-8, comma-separated, one header line, `.` as decimal point; empty means unknown or not there. Floats are
written with all their digits. `tfkd_cli.results.load` gives the same as pandas frames.

## runs.csv

One line per run that was asked for, teachers included.

{columns.markdown({**columns.RUNS, **COLUMNS})}

## epochs.csv

One line per epoch of every finished run whose records are sound: the tables are computed from these runs and
no others. Join with runs.csv on `run`.

{columns.markdown(columns.EPOCHS)}
"""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was made. `left_out`: damaged records, and why; `notes`: what a reader should know."""

    index: Path
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # within `report/`


def write(
    campaigns: Sequence[Campaign],
    *,
    store: Store,
    out: Path,
    names: Collection[str] = (),
    unreadable: Collection[str] = (),
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Written:
    """The report of these campaigns over `store`: `out/index.html`, `out/report/…`, and nothing else.

    `names`: only these tables and figures, and what the report that is already in `out` shows. `unreadable`:
    requests that could not be read, for the page and `Written.left_out`, where damaged runs stand too. An
    interrupted report leaves the old one. RunError when `out` cannot be written.
    """
    with Staging(out) as staging, Drawing(staging) as drawing:
        before = staging.items
        shown = [
            each for each in items(campaigns) if not names or each.what.name in names or each.slug in before
        ]
        contents = gather(
            shown, campaigns, store, unreadable=unreadable, progress=progress, draw=drawing.start
        )
        progress("writing tables", 0.0)
        for name, text in _texts(contents):
            staging.write(name, text)
        with reported(out):
            for name, frame in (("runs.csv", contents.frame), ("epochs.csv", contents.epochs)):
                frame.to_csv(staging.path(name), index=False, errors="replace")
        data = page_data(contents)
        progress("drawing figures", 0.0)
        drawing.finish()
        progress("writing the page", 0.0)
        index, files = page.render(contents, data, staging), tuple(staging.names)
        return Written(
            index=staging.publish(index, items=[item.slug for item in shown], complete=not unreadable),
            left_out=contents.left_out,
            notes=contents.notes,
            files=files,
        )


def _texts(contents: Contents) -> Iterator[tuple[str, str]]:
    """The names and texts of all files but the frames and the page."""
    yield "COLUMNS.md", COLUMNS_TEXT
    yield "report.json", json.dumps(_record(contents)) + "\n"
    judged = contents.claims[0]  # the paper's own scale
    shown = {"claims": [claims_sheet(judged.best, judged.last)]}
    for slug, comparison in contents.comparisons.items():
        shown[slug] = [comparison_sheet(comparison)]
        yield f"{slug}.csv", comparison_csv(comparison, called=called)
    for slug, answer in contents.answers.items():
        shown[slug] = sheets.document(answer)
        yield f"{slug}.csv", sheets.csv_text(answer)
    for name, found in shown.items():
        yield f"{name}.md", "\n".join(map(sheet_markdown.markdown, found))
        yield f"{name}.tex", "\n".join(map(sheet_latex.latex, found))
    for run in contents.runs.values():
        if rows := (run.result.get("best") or {}).get("confusion"):
            yield f"confusion/{run.name}.csv", _confusion(rows, run.result.get("class_names"))


def _record(contents: Contents) -> dict[str, Any]:
    """report.json: everything the page shows, JSON types only.

    Accuracies in percent, gains in points, times in seconds unless a name says hours.
    """
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
        "older": results.records(contents.older[OLDER]),
        "hours": contents.hours,
        "missing": [_missing(each) for each in contents.missing],
        "errata": [asdict(each) for each in contents.errata],
        "left_out": list(contents.left_out),
        "notes": list(contents.notes),
        "explained": dict(NOTES),
    }


def _run(run: RequestedRun) -> dict[str, Any]:
    return {
        **run.row,
        "wanted_by": list(run.items),
        **place_of(run),
        "why": why(run),
        "failure": run.state.failure,
    }


def _missing(each: Missing) -> dict[str, Any]:
    return {
        "slug": each.item.slug,
        "wanted": each.wanted,
        "counts": dict(each.counts),
        "seconds_left": round(each.seconds),
        "command": each.item.command,
    }


def _confusion(rows: Sequence[str], class_names: Sequence[str] | None) -> str:
    """A confusion matrix as CSV: a line for each true class, its accuracy (percent) in the last column."""
    names, out = class_names or range(len(rows)), io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["true class \\ predicted", *names, "accuracy"])
    for number, (name, text) in enumerate(zip(names, rows, strict=True)):
        counts = text.split(" ")
        images = sum(map(int, counts))
        accuracy = f"{100 * int(counts[number]) / images:.2f}" if images else ""
        writer.writerow([name, *counts, accuracy])
    return out.getvalue()
