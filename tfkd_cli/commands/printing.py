"""Tables and figures of a campaign to stdout, after its runs or from `tfkd show`."""

from __future__ import annotations

from pathlib import Path

from paper_tables import render
from paper_tables.spec import Table
from tfkd_cli import console
from tfkd_cli.reproduction.campaign import Campaign

FORMATS = ("text", "md", "csv", "tex", "json")
TOY = (
    "The demo trains on a toy data set (8×8 digits): it shows that everything works, "
    "and decides nothing about the paper."
)


def print_results(campaign: Campaign, *, as_json: bool) -> None:
    """Every table of the request, then where the report lies."""
    if as_json:
        states = campaign.states()
        console.print_json(
            [render.json(campaign.comparison(table, states)) for table in campaign.request.tables]
        )
        return
    for table in campaign.request.tables:
        print_table(campaign, table, form="text")
    if any(table.kind == "demo" for table in campaign.request.tables):
        console.say(TOY)
    _write_report(campaign)


def print_table(campaign: Campaign, table: Table, *, form: str) -> None:
    """One table beside what was measured, to stdout: `form` is one of FORMATS but JSON."""
    comparison = campaign.comparison(table)
    if form == "text":
        target = console.out()
        target.print(render.text(comparison, width=target.width))
    else:
        print({"md": render.markdown, "csv": render.csv, "tex": render.latex}[form](comparison), end="")


def _write_report(campaign: Campaign) -> None:
    from tfkd_cli import report

    if campaign.store.root.is_dir():
        written = report.write([campaign], out=campaign.store.root)
        console.say(f"Report: {Path(written.index)}")
