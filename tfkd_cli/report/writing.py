"""From campaigns to files: read, compare, write, put in place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tfkd_cli.report import page, tables, tidy
from tfkd_cli.report.columns import columns_markdown
from tfkd_cli.report.contents import Contents, gather
from tfkd_cli.report.epochs import read_kept, write_kept
from tfkd_cli.report.figures import Drawing
from tfkd_cli.report.record import record
from tfkd_cli.report.staging import Staging
from tfkd_cli.report.workers import Workers
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.store import Store

Progress = Callable[[str, float], None]
KEPT = ".epochs.jsonl"
EPOCHS = "epochs.csv"


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was made. `left_out`: what could not be believed, and why; `notes`: what a reader should know."""

    index: Path
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # within `report/`


def write(
    campaigns: Sequence[Campaign],
    *,
    out: Path,
    store: Store | None = None,
    unreadable: Sequence[str] = (),
    progress: Progress | None = None,
) -> Written:
    """The report of these campaigns: `out/index.html`, `out/report/…`, and nothing else.

    `store` is theirs; to be given where there may be no campaign. `unreadable`: requests in it that could
    not be read; the page and `Written.left_out` name them too. An interrupted report leaves the old one.
    RunError when `out` cannot be written; damaged runs are no error, see `Written.left_out`.
    """
    tell = progress or (lambda what, share: None)
    with Staging(out) as staging, Workers() as workers:
        kept = read_kept(staging.old(KEPT))
        drawing = Drawing(staging, workers)
        contents = gather(
            campaigns,
            store=store,
            unreadable=unreadable,
            kept=kept,
            progress=tell,
            workers=workers,
            on_read=drawing.start_all,
        )
        tell("writing tables", 0.0)
        texts = _texts(contents)
        written = workers.apart(partial(_write_data, contents, texts, staging))
        if kept.changed or not staging.keep(KEPT):
            write_kept(staging.path(KEPT), kept)
        drawing.finish(tell)
        tell("writing the page", 0.0)
        index = page.render(contents, staging, files=sorted({*staging.names, *texts, EPOCHS}))
        written()
        files = tuple(staging.names)
        return Written(
            index=staging.publish(index), left_out=contents.left_out, notes=contents.notes, files=files
        )


def _texts(contents: Contents) -> dict[str, Callable[[], str]]:
    """The name of each text file, and what gives its text."""
    return {
        **tables.files(contents),
        "runs.csv": lambda: tidy.runs_csv(contents.runs.values(), contents.hours),
        "COLUMNS.md": columns_markdown,
        "report.json": lambda: json.dumps(record(contents)) + "\n",
    }


def _write_data(contents: Contents, texts: Mapping[str, Callable[[], str]], staging: Staging) -> None:
    for name, text in texts.items():
        staging.write(name, text())
    tidy.write_epochs(staging.path(EPOCHS), contents.runs.values())
