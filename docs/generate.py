"""Writes the parts of README and docs/ that come from the code: `python -m docs.generate`.

A test fails when they are stale.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path

import typer

from docs import measured
from paper_tables.spec import Table
from tfkd_cli.cli import COMMANDS, app
from tfkd_cli.execution import Execution
from tfkd_cli.methods import LOSSES
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.measure import assumed
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.results import columns
from tfkd_cli.store import Store

DOCS = Path(__file__).parent
WIDTH = 96


def commands() -> str:
    """The help of every command, as `docs/commands.md` shows it."""
    group = typer.main.get_command(app)
    whole = group.make_context("tfkd", [], resilient_parsing=True)
    parts = [
        "# Commands\n\nGenerated from the code by `python -m docs.generate`: what `--help` says.\n"
        "Exit codes: 0 done, 1 a run failed, 2 the request was wrong, 130 interrupted.\n"
    ]
    parts += [f"- [`tfkd {name}`](#tfkd-{name}): {entry.does}" for name, entry in COMMANDS.items()]
    for name in COMMANDS:
        command = group.get_command(whole, name)  # type: ignore[attr-defined]
        how = {"parent": whole, "resilient_parsing": True, "terminal_width": WIDTH}
        context = command.make_context(name, [], **how)
        text = re.sub(r"[ \t]+$", "", command.get_help(context), flags=re.MULTILINE)
        parts.append(f"\n## tfkd {name}\n\n```text\n{text}\n```")
    return "\n".join(parts) + "\n"


def costs() -> str:
    """What each table takes with three seeds at paper scale: runs, hours, disk, and what is assumed."""
    execution = Execution(cache="no-cache")
    request = requests.for_names(["all"], Request(seeds=(0, 1, 2)), execution=execution)
    with tempfile.TemporaryDirectory() as empty:
        store = Store.open(Path(empty), create=True)
        plan = Campaign(request, store, execution, device="cuda").plan()
    lines = [
        "| table | runs | GPU-hours | longest chain | disk | assumed settings (of cells without baselines) |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for item in request.items:
        counts = plan.counts(item.name)
        resting = ""
        if isinstance(item, Table) and item.kind == "paper":
            cells = [cell for cell in item.cells() if not cell.is_baseline]
            resting = f"{sum(bool(assumed(request, cell.setting)) for cell in cells)} of {len(cells)}"
        lines.append(_cost_line(item.name, counts.wanted, counts.seconds, counts.critical_path_seconds,
                                counts.disk_bytes, resting))  # fmt: skip
    total = plan.counts()
    lines.append(_cost_line("all together", total.wanted, total.seconds, total.critical_path_seconds,
                            total.disk_bytes, ""))  # fmt: skip
    return "\n".join(lines)


def _cost_line(name: str, runs: int, seconds: float, chain: float, disk: float, resting: str) -> str:
    hours, longest = f"{seconds / 3600:,.0f}", f"{chain / 3600:,.0f} h"
    return f"| {name} | {runs} | {hours} | {longest} | {disk / 1e9:,.1f} GB | {resting} |"


def differences() -> str:
    """Where the released code and the printed equation differ, by the field that says so."""
    lines = ["| field | released code against printed equation |", "|---|---|"]
    texts = {f.name: f.metadata["forms_differ"] for loss in LOSSES.values() for f in fields(loss)}
    return "\n".join(lines + [f"| `loss.{name}` | {text} |" for name, text in texts.items() if text])


BLOCKS: Mapping[str, Callable[[], str]] = {
    "costs": costs,
    "differences": differences,
    "runs_columns": lambda: columns.markdown(columns.RUNS),
    "epochs_columns": lambda: columns.markdown(columns.EPOCH),
}


def filled(text: str, pictures: Path) -> str:
    """A page with what stands between `<!-- generated: NAME -->` and `<!-- end -->` written anew."""
    blocks: dict[str, Callable[[], str]] = {
        **BLOCKS,
        "published": partial(measured.published, pictures=pictures),
        "paper": measured.beside_the_paper,
        "state": measured.state,
        "audit": partial(measured.audit, pictures=pictures),
    }

    def block(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- generated: {name} -->\n{blocks[name]()}\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", block, text, flags=re.DOTALL)


def pages(pictures: Path) -> dict[Path, str]:
    """Every page as it should be; the figures of measured results are written to the folder `pictures`."""
    written = [DOCS.parent / "README.md", *sorted(DOCS.glob("*.md"))]
    found = {path: filled(path.read_text(encoding="utf-8"), pictures) for path in written}
    return {**found, DOCS / "commands.md": commands()}


if __name__ == "__main__":
    for path, text in pages(DOCS / "images").items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path.name}: written\n")
