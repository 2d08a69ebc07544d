"""Tables and figures of a campaign to stdout, after its runs or from `tfkd show`."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from paper_tables.compare import Comparison
from paper_tables.render.as_data import comparison_csv
from paper_tables.render.cells import comparison_sheet
from paper_tables.render.sheet import Sheet
from tfkd_cli import console
from tfkd_cli.commands import session
from tfkd_cli.errors import RequestError, plain
from tfkd_cli.execution import Execution
from tfkd_cli.methods import called
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.store import Store

if TYPE_CHECKING:
    from tfkd_cli.compare.answer import Answer
    from tfkd_cli.report import Written

FORMATS = ("text", "md", "csv", "tex", "json")


def print_table(comparison: Comparison, *, form: str) -> None:
    """One table beside what was measured, to stdout: `form` is one of FORMATS but JSON."""
    if form == "csv":
        print(plain(comparison_csv(comparison, called=called)), end="")
    else:
        print_sheets(comparison_sheet(comparison), form=form)


def print_sheets(*sheets: Sheet, form: str) -> None:
    """Sheets to stdout: `form` is text, md or tex."""
    from paper_tables.render import sheet_latex, sheet_markdown, sheet_terminal

    if form == "text":
        width = console.terminal(sys.stdout).width
        for sheet in sheets:
            console.show(sheet_terminal.text(sheet, width=width))
    else:
        draw = {"md": sheet_markdown.markdown, "tex": sheet_latex.latex}[form]
        print(plain("\n".join(map(draw, sheets))), end="")


def answer_of(campaign: Campaign) -> Answer:
    """What the comparison of this campaign came to."""
    from tfkd_cli import results
    from tfkd_cli.compare.answer import answer

    found = results.read(campaign.store)
    states = {run.state.key: run.state for run in found.values()}
    return answer(campaign.request, states, results.runs_frame(found.values()))


def print_answer(found: Answer, *, form: str) -> None:
    """The tables and the sentence of a comparison, to stdout; `form` as in `print_table`."""
    from tfkd_cli.compare.sheets import csv_text, document, sheets

    if form == "csv":
        print(csv_text(found), end="")
    elif form == "text":
        print_sheets(*(sheet for sheet in sheets(found)[:2] if sheet.rows), form=form)
        console.show(found.sentence)
    else:
        print_sheets(*document(found), form=form)


def write_report(
    store: Store, execution: Execution, *, device: str, out: Path, words: Collection[str] = ()
) -> Written:
    """The report of all requests in `store`, into `out`.

    `words`: only these tables, figures and comparisons, and what the report in `out` already shows. Those of
    the paper that no command asked for are shown with the runs that other commands have finished.
    RequestError when the store holds nothing of them.
    """
    from tfkd_cli import progress, report

    campaigns, notes = session.campaigns(store, execution, device=device)
    names = session.names_of(words, campaigns)
    asked = {name for each in campaigns for name in each.request.names}
    for name in set(names) - asked - set(session.STORED):
        made = session.as_asked_now(name, store, execution)
        states = store.scan(spec.key for spec in made.request.specs)
        campaigns += [made] * any(state.status == "done" for state in states.values())
    if names and not any({*names} & {*each.request.names} for each in campaigns):
        raise nothing_of(" ".join(names), store.source, names)
    return report.write(
        campaigns, store=store, out=out, names=names, unreadable=notes, progress=progress.steps()
    )


def nothing_of(what: str, results: Path, names: Collection[str]) -> RequestError:
    """What to say where no request in the store names any of these tables and figures."""
    return RequestError(
        f"there is no {what} in {results} yet.",
        expected="what an earlier `tfkd reproduce`, `run` or `compare` has trained; `tfkd status` lists it.",
        hint=f"tfkd {what} --help" if what in session.STORED else f"tfkd reproduce {' '.join(names)}",
    )
