"""`tfkd status`, `show`, `report`, `logs`, `clean`, `pack`: what the results folder holds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paper_tables.spec import UnknownNameError
from tfkd_cli import console
from tfkd_cli.commands import printing, session
from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.options import JsonOption, RunOptions, StoreOptions, with_options
from tfkd_cli.reproduction import asking, overview
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.launch import device_kind
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.store import Store

WATCH_SECONDS, WATCH_GROWS, WATCH_AT_MOST = (
    60.0,
    10.0,
    180.0,
)  # gentle to the queue: slower while nothing changes

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.queue import QueueState


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(status)
    app.command()(show)
    app.command()(report)
    app.command()(logs)


@with_options
def status(
    store: StoreOptions,
    output: JsonOption,
    item: Annotated[str | None, typer.Argument(help="A table, or a run's key or folder.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every minute or so.")] = False,
) -> int:
    """Counts, failures and time left of everything that was asked for.

    Example: tfkd status table1 --watch
    """
    pause = WATCH_SECONDS
    before: dict[str, int] = {}
    while True:
        seen = _look(store, item)
        if output.json:
            console.print_json(seen.to_json())
        else:
            _print_overview(seen)
        if not watch or not any(seen.counts[state] for state in ("running", "queued")):
            return 0
        pause = WATCH_SECONDS if seen.counts != before else min(pause + WATCH_GROWS, WATCH_AT_MOST)
        before = seen.counts
        time.sleep(pause)


def _look(options: StoreOptions, item: str | None) -> overview.Overview:
    store = session.open_store(options, write=False)
    names: list[str] = []
    if item is not None:
        try:
            names = [each.name for each in paper().expand([item])] if item != "run" else ["run"]
        except UnknownNameError:
            return _look_at_run(store, options, item)
    execution = session.execution(options)
    made, notes = overview.campaigns(store, execution, device=device_kind("auto"))
    asked = {name for campaign in made for name in campaign.request.names}
    if names and not asked.intersection(names):
        raise printing.nothing_asked(str(item), options.results, names)
    queue, remarks = _queue(options)
    return overview.overview(made, store.scan(), queue=queue, names=names, notes=[*notes, *remarks])


def _look_at_run(store: Store, options: StoreOptions, item: str) -> overview.Overview:
    from tfkd_cli.commands import cluster

    queue, remarks = _queue(options)
    return overview.one_run(
        store, cluster.find_run(store, session.execution(options), item), queue=queue, notes=remarks
    )


def _queue(options: StoreOptions) -> tuple[Mapping[str, QueueState], list[str]]:
    """What SLURM says, where this store has submissions to it, and notes on that."""
    if not (options.results / "submissions").is_dir():
        return {}, []
    from tfkd_cli.backends.slurm.queue import queue_states

    states = queue_states(session.open_store(options, write=False))
    note = f"{states.error} What SLURM said {states.age_seconds:.0f} s ago is shown."
    return states, [note] if states.error else []


def _print_overview(seen: overview.Overview) -> None:
    target = console.out()
    if not seen.runs:
        target.print("Nothing was asked for yet. Start with: tfkd reproduce demo", markup=False)
    counts = ", ".join(f"{number} {name}" for name, number in seen.counts.items() if number)
    if seen.runs:
        target.print(f"{len(seen.runs)} run{'s' * (len(seen.runs) > 1)}: {counts}", markup=False)
    if seen.seconds_left:
        target.print(
            f"Work left: about {console.duration(seen.seconds_left)} in all (estimate)", markup=False
        )
    jobs = any(each.job for each in seen.runs)
    rows = [
        (each.status, each.run, f"{each.epoch or 0}/{each.epochs}", *([each.job or ""] * jobs), each.message)
        for each in seen.runs
        if each.status in ("running", "failed", "blocked") or (each.status != "done" and len(seen.runs) <= 20)
    ]
    if rows:
        target.print(console.simple_table(("status", "run", "epoch", *(["job"] * jobs), "why"), rows))
    for note in seen.notes:
        console.say(f"Note: {note}")


@with_options
def show(
    item: Annotated[str, typer.Argument(help="A table, figure or run; `errata`; `claims`.")],
    store: StoreOptions,
    how: RunOptions,
    as_format: Annotated[str, typer.Option("--format", help="text, md, csv, tex or json.")] = "text",
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="As in `tfkd reproduce`. [default: those asked for, else 3]")
    ] = None,
) -> int:
    """A table, figure or run, to stdout: published beside measured.

    Example: tfkd show table1 --format md
    """
    from tfkd_cli.commands import showing

    form = canonical(as_format, printing.FORMATS, kind="format")
    opened = session.open_store(store, write=False)
    if item.lower() in ("errata", "claims"):
        return showing.show_paper(item.lower(), opened, session.execution(store), form=form)
    try:
        names = [each.name for each in paper().expand([item])] if item != "run" else ["run"]
    except UnknownNameError as unknown:
        return showing.show_run(opened, item, form=form, unknown=unknown)
    showing.show_items(list(_campaigns(opened, store, how, seeds, names)), form=form)
    return 0


def _campaigns(
    opened: Store, options: StoreOptions, how: RunOptions, seeds: str | None, names: list[str]
) -> Iterator[Campaign]:
    """For each name the newest campaign that asked for it with these options, else one as if asked now."""
    execution = session.execution(options)
    bare = session.bare_request(how, seeds or "3")
    made = overview.campaigns(opened, execution)[0] if how == RunOptions() else []
    for name in names:
        asked = next((each for each in made if name in each.request.names), None)
        if asked is not None:
            only = asked.only(name)
            yield only if seeds is None else only.of_seeds(bare.seeds)
        elif name == "run" and how != RunOptions():
            raise RequestError(
                "`tfkd show run` shows the newest `tfkd run` as it was asked for; settings change nothing.",
                hint="tfkd show run, or tfkd show KEY for another one (keys: tfkd status --json).",
            )
        elif name == "run":
            raise RequestError("no `tfkd run` in this results folder yet.", hint="tfkd list methods")
        else:
            yield Campaign(asking.for_names([name], bare, execution=execution), opened, execution)


@with_options
def report(
    store: StoreOptions,
    output: JsonOption,
    items: Annotated[
        list[str] | None, typer.Argument(help="Tables and figures. [default: all asked for]")
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Folder. [default: the results folder]")] = None,
) -> int:
    """Everything to files: DIR/index.html and DIR/report/…, and nothing else.

    Example: tfkd report --out results/
    """
    opened = session.open_store(store, write=False)
    where = to or (store.results if store.results.is_dir() or not store.results.exists() else Path("report"))
    written = printing.write_report(
        opened,
        session.execution(store),
        device=device_kind("auto"),
        out=where,
        names=sorted(session.names_of(items or [])),
    )
    for line in written.left_out:
        console.say(f"Left out: {line}")
    if output.json:
        console.print_json({"index": str(written.index), "left_out": list(written.left_out)})
    else:
        print(written.index)
    return 1 if written.left_out else 0


@with_options
def logs(
    run: Annotated[str, typer.Argument(help="A run's key or folder.")],
    store: StoreOptions,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as the log grows.")] = False,
) -> int:
    """A run's log, of its newest attempt.

    Example: tfkd logs 8d4c1185ab12 -f
    """
    from tfkd_cli.backends.slurm import records
    from tfkd_cli.commands import cluster

    opened = session.open_store(store, write=False)
    folder = opened.run(cluster.find_run(opened, session.execution(store), run))
    of_slurm = records.log_of(opened, folder.name)
    path = folder.log_path() or of_slurm
    if path is None:
        raise RequestError(f"{folder.name} has no log yet.", hint="tfkd status shows whether it has started.")
    with path.open(encoding="utf-8", errors="replace") as log:
        while True:
            sys.stdout.write(log.read())
            sys.stdout.flush()
            if not follow or folder.state().status != "running":
                sys.stdout.write(log.read())
                break
            time.sleep(1)
    if of_slurm not in (None, path) and folder.state().status != "done":
        print(f"\nSLURM's log, {of_slurm}:")  # killed for its memory, or at a limit: only this one says so
        print(of_slurm.read_text(encoding="utf-8", errors="replace"))
    return 0
