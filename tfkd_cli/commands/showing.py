"""What `tfkd show` prints besides tables: errata, claims, figures, single runs."""

from __future__ import annotations

import csv
import itertools
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paper_tables.render.sheet import plain_sheet
from paper_tables.spec import Figure, Table
from tfkd_cli import console, results
from tfkd_cli.commands import printing, session
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.reproduction import judging
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.store import RunFolder, Store

if TYPE_CHECKING:
    from paper_tables.figure_data import FigureData

ACTIVATE = Path(".venv/bin/activate")
NEXT = (
    "\nWhat to do next:",
    "  Open {index} in a browser: these results with figures and every run.",
    "  Compare the methods on your own images (docs/tutorial.md explains it step by step):",
    "    tfkd compare --dataset folder:PHOTOS --student resnet8",
    "  See all commands: tfkd help",
)
ACTIVATING = f"  In each new shell: source {ACTIVATE}"  # after `make demo`, which leaves tfkd there


def show_paper(what: str, store: Store, execution: Execution, *, form: str) -> int:
    """The paper's errata, or its claims with their verdicts."""
    if what == "errata":
        return _show_errata(form)
    from paper_tables.render.claims import claims_record, claims_sheet

    if form == "csv":
        raise RequestError(
            "claims have no CSV.", expected="text, md, tex or json.", hint="tfkd show claims --json"
        )
    campaigns, _ = session.campaigns(store, execution)
    judged = judging.judge(campaigns, results.runs_frame(results.read(store).values()))[0]
    verdicts = (judged.best, judged.last)
    if form == "json":
        console.print_json(claims_record(*verdicts))
    else:
        printing.print_sheets(claims_sheet(*verdicts), form=form)
    return 0


def _show_errata(form: str) -> int:
    found = paper().errata()
    if form == "json":
        console.print_json([asdict(each) for each in found])
        return 0
    rows = [
        (
            each.table,
            " / ".join(each.labels),
            each.column,
            each.printed or "",
            each.arithmetic or "",
            each.text,
        )
        for each in found
    ]
    heads = ("table", "row", "column", "printed", "arithmetic", "what is odd")
    _print_rows(heads, rows, form=form, title="Errata of the paper")
    return 0


def show_results(campaign: Campaign, *, as_json: bool) -> None:
    """All that a command has trained; then the report of the whole results folder, and where it lies."""
    if as_json:
        records = _records([campaign])
        return console.print_json(records[0] if campaign.request.compared else records)
    show_items([campaign], form="text")
    store, names = campaign.store, campaign.request.names
    if store.root.is_dir():
        written = printing.write_report(store, campaign.execution, device=campaign.device, out=store.root)
        again = f"; again: tfkd show {names[0]}" if len(names) == 1 else ""
        console.say(f"Report: {written.index}{again}")
        if any(table.kind == "demo" for table in campaign.request.tables):
            activating = ACTIVATE.is_file() and shutil.which("tfkd") is None
            for line in (*NEXT, *([ACTIVATING] if activating else [])):
                console.say(line.format(index=written.index))
    return None


def show_items(campaigns: Sequence[Campaign], *, form: str) -> None:
    """The tables, figures and comparisons of these campaigns; as JSON one object, or a list of several."""
    if form == "json":
        records = _records(campaigns)
        return console.print_json(records[0] if len(records) == 1 else records)
    for campaign, each in _items(campaigns):
        if campaign.request.compared:
            printing.print_answer(printing.answer_of(campaign), form=form)
        elif isinstance(each, Table):
            runs = campaign.runs()
            printing.print_table(campaign.comparison(each, runs), form=form)
            if form == "text" and each.kind != "grid" and not (runs["status"] == "done").any():
                console.say(f"Nothing of it is measured here yet: tfkd reproduce {each.name}")
        else:
            _show_figure(campaign, each, form=form)
    return None


def _records(campaigns: Sequence[Campaign]) -> list[dict[str, Any]]:
    from paper_tables.render.as_data import comparison_record

    return [
        printing.answer_of(campaign).to_json()
        if campaign.request.compared
        else comparison_record(campaign.comparison(each, campaign.runs()))
        if isinstance(each, Table)
        else asdict(_figure_data(campaign, each))
        for campaign, each in _items(campaigns)
    ]


def _items(campaigns: Sequence[Campaign]) -> list[tuple[Campaign, Table | Figure]]:
    return [(campaign, each) for campaign in campaigns for each in campaign.request.items]


def _figure_data(campaign: Campaign, figure: Figure) -> FigureData:
    """The numbers behind a figure."""
    from tfkd_cli.report.figures import data_of

    found = results.read(campaign.store, campaign.lineages)
    return data_of(figure, campaign.request, found, results.runs_frame(found.values()))


def _show_figure(campaign: Campaign, figure: Figure, *, form: str) -> None:
    shown = _figure_data(campaign, figure)
    rows = [
        (line.label, "" if x is None else f"{x:g}", f"{y:.4g}")
        for line in shown.lines
        for x, y in itertools.zip_longest(line.x, line.y)  # a level has no x
    ]
    heads = ("series", figure.x_label, figure.y_label)
    if form != "text":
        return _print_rows(heads, rows, form=form, title=figure.title)
    console.show(f"{figure.name}: {figure.title}")
    _print_rows(heads, rows, form=form)
    if shown.status:
        console.show(shown.status)
    console.say(f"Picture: {_draw(shown, figure, campaign)}")


def _draw(shown: FigureData, figure: Figure, campaign: Campaign) -> Path:
    """Draw a figure into the cache folder: the results folder may be a pack, or not there yet."""
    from paper_tables import plot
    from tfkd_cli.report.items import slug_of

    folder = campaign.execution.cache_path / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    [path] = plot.draw(shown, folder / slug_of(figure, campaign.request), ["png"])
    return path


def show_run(store: Store, folder: RunFolder, *, form: str, plot: bool) -> int:
    """What one run is, how far it is, and its result; `plot`: also its learning curve."""
    if plot and form != "text":
        raise RequestError(f"--plot draws on a terminal, --format {form} was given.", expected="one of them.")
    run = results.read_run(store, folder)
    spec, state = run.spec, run.state
    shown: dict[str, Any] = {
        "run": folder.name,
        "status": state.status,
        "epoch": state.epoch,
        "attempts": state.attempts,
        "damage": state.damage or None,
        "spec": spec.to_json() if spec else None,
        "numerics": folder.numerics(),
        "failure": state.failure,
        "result": state.result,
    }
    if form == "json":
        console.print_json(shown)
        return 0
    _print_rows(("field", "value"), list(_run_rows(folder, run)), form=form, title=folder.name)
    if plot:
        _print_curve(run)
    return 0


def _print_curve(run: results.Run) -> None:
    """Accuracy by epoch on the test part, and on the validation part where there is one."""
    parts = {"test": "test_accuracy", "validation": "val_accuracy"}
    curves = {
        part: [(line["epoch"], line[name]) for line in run.lines if line.get(name) is not None]
        for part, name in parts.items()
    }
    curves = {f"{part} accuracy (%) by epoch": points for part, points in curves.items() if points}
    if curves:
        print(console.chart(curves, width=console.terminal(sys.stdout).width))
    else:
        console.say(f"{run.name} has no whole epoch yet, so there is no curve.")


def _run_rows(folder: RunFolder, run: results.Run) -> Iterator[tuple[str, str]]:
    """A run's state and result, then what it is, as far as its description can be read."""
    spec, state = run.spec, run.state
    epochs = spec.recipe.epochs if spec else state.epochs or "?"
    yield "run", folder.name
    if spec and spec.outdated:
        yield "note", spec.outdated
    yield "status", f"{state.status}, epoch {state.epoch or 0} of {epochs}"
    if state.result:
        best, last = state.result["best"], state.result["last"]
        yield "best", f"{best['accuracy']:.2f} % (epoch {best['epoch']})"
        yield "last", f"{last['accuracy']:.2f} %"
    if state.damage:
        yield "damaged", state.damage
    if state.failure:
        yield "failed", str(state.failure.get("message"))
    yield "folder", str(folder.path)
    if spec:
        yield "method", spec.method
        yield from ((name, _short(value)) for name, value in spec.to_json().items() if name != "schema")


def _print_rows(
    heads: Sequence[str], rows: Sequence[Sequence[object]], *, form: str, title: str = ""
) -> None:
    """Rows as a plain table, CSV, Markdown or LaTeX."""
    if form == "text":
        console.show(console.simple_table(heads, rows))
    elif form == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([heads, *rows])
    else:
        texts = ([str(each) for each in row] for row in rows)
        printing.print_sheets(plain_sheet(title, heads, texts), form=form)


def _short(value: Any) -> str:
    if isinstance(value, dict) and "run" in value:
        return f"{value['run']['student']} ({value['checkpoint']} epoch), seed {value['run']['seed']}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return "none" if value is None else str(value)
