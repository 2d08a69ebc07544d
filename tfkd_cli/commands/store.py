"""`tfkd status`, `show`, `report`, `logs`: what the results folder holds."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tfkd_cli import console
from tfkd_cli.commands import printing, session
from tfkd_cli.commands.readiness import device_kind
from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.options import (
    Item,
    ItemOrAll,
    JsonOption,
    Run,
    RunOptions,
    StoreOptions,
    completing,
)
from tfkd_cli.regular_files import open_regular
from tfkd_cli.reproduction import overview
from tfkd_cli.reproduction.campaign import Campaign, with_specs
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import RunFolder, Store, reading

WATCH_SECONDS = range(60, 181, 10)  # between two looks of `status --watch`: gentle to the queue

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.queue import QueueState

TODO = {"todo": "to do"}
FEW_RUNS = 20  # up to which `status` lists all that are not done
FOLLOW_SECONDS = 1.0  # between two looks of `logs --follow`; SLURM is asked less often

Format = Annotated[
    str,
    typer.Option(
        "--format", help="How to print it.", metavar="text|md|csv|tex|json",
        autocompletion=completing(lambda: printing.FORMATS),
    ),
]  # fmt: skip


def status(
    store: StoreOptions,
    output: JsonOption,
    item: ItemOrAll = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every minute or so.")] = False,
    every: Annotated[bool, typer.Option("--all", help="List every run, however many there are.")] = False,
) -> int:
    """Show how far each table, grid and comparison is: counts, failures, and the work left.

    Example: tfkd status table1 --watch
    """
    for pause in itertools.chain(WATCH_SECONDS, itertools.repeat(WATCH_SECONDS[-1])):
        seen = _look(store, item)
        if output.json:
            console.print_json(seen.to_json())
        else:
            _print_overview(seen, store.results, every=every)
        if not watch or not any(seen.counts[state] for state in ("running", "queued")):
            break
        time.sleep(pause)
    return 0


def _look(options: StoreOptions, item: str | None) -> overview.Overview:
    store = session.open_existing(options)
    made, notes = session.campaigns(store, session.execution(options), device=device_kind("auto"))
    names: list[str] = []
    if item is not None:
        from tfkd_cli.commands import cluster

        found = session.names_or_run(
            item, made, lambda word: cluster.find_run(store, session.execution(options), word)
        )
        if isinstance(found, RunSpec):
            queue, remarks = _queue(store)
            return overview.one_run(store, found, queue=queue, notes=remarks)
        names = found
    asked = {name for campaign in made for name in campaign.request.names}
    if names and not asked.intersection(names):
        raise printing.nothing_of(item or "", options.results, names)
    queue, remarks = _queue(store)
    states = store.scan()
    seen = overview.overview(
        made, states, queue=queue, names=names, notes=[*notes, *remarks], called=session.called(store)
    )
    shown = {run.key for run in seen.runs}
    others = [] if names else [state for key, state in states.items() if key not in shown]
    specs = [spec for spec, _ in with_specs(store, others)]
    return replace(seen, notes=(*seen.notes, *overview.outdated(specs)))


def _queue(opened: Store) -> tuple[Mapping[str, QueueState], list[str]]:
    """What SLURM says, where this store has submissions to it, and notes on that."""
    if not _has_submissions(opened):
        return {}, []
    from tfkd_cli.backends.slurm.queue import queue_states

    states = queue_states(opened)
    return states, [states.error] if states.error else []


def _has_submissions(opened: Store) -> bool:
    return (opened.root / "submissions").is_dir()


def _print_overview(seen: overview.Overview, results: Path, *, every: bool) -> None:
    if not seen.runs:
        start = f"There are no runs in {results} yet. Start with: tfkd reproduce demo"
        console.show("No request can be read." if seen.notes else start)
    counts = {name: number for name, number in seen.counts.items() if number}
    if seen.runs:
        told = ", ".join(f"{number} {TODO.get(name, name)}" for name, number in counts.items())
        console.show(f"{len(seen.runs)} run{'s' * (len(seen.runs) > 1)}: {told}")
    if names := dict.fromkeys(name for each in seen.runs for name in each.tables):
        rows = [(name, *(_count(seen, name, state) for state in counts)) for name in names]
        console.show(console.simple_table(("name", *(TODO.get(each, each) for each in counts)), rows))
    if seen.seconds_left:
        console.show(f"Work left: about {console.duration(seen.seconds_left)} in all (estimate)")
    listed = [each for each in seen.runs if every or _is_listed(each, among=len(seen.runs))]
    columns = {
        "key": [each.key[:12] for each in listed],
        "status": [TODO.get(each.status, each.status) for each in listed],
        "run": [each.title or each.run for each in listed],
        "epoch": [f"{each.epoch or 0}/{each.epochs}" for each in listed],
        "job": [each.job or "" for each in listed],
        "reason": [_why(each) for each in listed],
    }
    columns = {head: values for head, values in columns.items() if any(values)}
    if columns:
        console.show(console.simple_table([*columns], zip(*columns.values(), strict=True)))
    waiting = Counter(each.message for each in seen.runs if each.status == "queued" and each not in listed)
    if waiting:
        reasons = ", ".join(f"{count} {why or 'without a reason'}" for why, count in waiting.most_common())
        console.show(f"Queued: {reasons}. `tfkd status --all` lists them.")
    for note in seen.notes:
        console.say(f"Note: {note}")


def _count(seen: overview.Overview, name: str, state: str) -> int:
    """How many runs of this table, grid or comparison are in this state; a shared one counts in each."""
    return sum(name in each.tables and each.status == state for each in seen.runs)


def _is_listed(run: overview.RunStatus, *, among: int) -> bool:
    """Whether `status` lists a run without `--all`: what needs a look, and all that is left of a few."""
    return run.status in ("running", *overview.STOPPED) or (run.status != "done" and among <= FEW_RUNS)


def _why(run: overview.RunStatus) -> str:
    if run.status == "running" and run.age_seconds is not None:
        return f"{console.duration(run.age_seconds)} ago"
    return run.message


def show(
    item: Item,
    store: StoreOptions,
    how: RunOptions,
    output: JsonOption,
    as_format: Format = "text",
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            help="As in `tfkd reproduce`. [default: those of the last command, else 3]",
            metavar="SEEDS",
        ),
    ] = None,
    plot: Annotated[bool, typer.Option("--plot", help="Draw the learning curve of a run.")] = False,
) -> int:
    """Print a table, figure, grid, comparison or run; published values stand beside measured ones.

    `errata` and `claims` are those of the paper.

    Example: tfkd show table1 --format md
    """
    from tfkd_cli.commands import showing

    form = "json" if output.json else canonical(as_format, printing.FORMATS, kind="format")
    opened = session.open_store(store, write=False)
    if item.lower() in ("errata", "claims"):
        return showing.show_paper(item.lower(), opened, session.execution(store), form=form)
    found = _found(opened, store, how, seeds, item)
    if isinstance(found, RunFolder):
        return showing.show_run(opened, found, form=form, plot=plot)
    if plot:
        raise RequestError(
            f"{item} has no learning curve of its own.",
            expected="--plot with a run.",
            hint="`tfkd runs` lists the runs; the page of `tfkd report` shows the curves of a table.",
        )
    showing.show_items(found, form=form)
    return 0


def _found(
    opened: Store, options: StoreOptions, how: RunOptions, seeds: str | None, item: str
) -> RunFolder | list[Campaign]:
    """The run that is meant; or for each name the newest campaign that asked for it with these options.

    Where there is none, the campaign is as if it was asked for now.
    """
    execution = session.execution(options)
    bare = session.bare_request(how, seeds or "3")
    made, notes = session.campaigns(opened, execution)
    for note in notes:
        console.say(f"Note: {note}")
    names = session.names_or_run(item, made, opened.find)
    if isinstance(names, RunFolder):
        return names
    stored = {
        name for each in made if each.request.axes or each.request.compared for name in each.request.names
    }
    if how != RunOptions():
        made = []
    found = []
    for name in names:
        asked = next((each for each in made if name in each.request.names), None)
        if asked is not None:
            only = asked.only(name)
            wanted = only.request.seeds if seeds is None else bare.seeds
            found.append(replace(only, request=replace(only.request, seeds=wanted)))
        elif name in stored or (name in session.STORED and how != RunOptions()):
            raise RequestError(
                f"{item} was trained with settings of its own; `show` does not change them.",
                expected="this name alone, or a run's key.",
                hint=f"tfkd show {item}; `tfkd runs` lists the keys.",
            )
        elif name in session.STORED:
            raise printing.nothing_of(name, options.results, [name])
        else:
            found.append(session.as_asked_now(name, opened, execution, how=how, seeds=seeds))
    return found


def report(
    store: StoreOptions,
    output: JsonOption,
    items: Annotated[
        list[str] | None,
        typer.Argument(
            help="Tables, figures, grids and comparisons. [default: all that there are]",
            metavar="ITEM...",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--out", help="The folder to write. [default: the results folder]", metavar="FOLDER"),
    ] = None,
) -> int:
    """Write a page with every result, index.html, and its tables and figures as files in report/.

    Example: tfkd report --out results/
    """
    opened = session.open_existing(store)
    where = to or (store.results if store.results.is_dir() else Path("report"))
    written = printing.write_report(
        opened,
        session.execution(store),
        device=device_kind("auto"),
        out=where,
        words=items or [],
    )
    for line in written.left_out:
        console.say(f"Left out: {line}")
    if output.json:
        console.print_json({"index": str(written.index), "left_out": list(written.left_out)})
    else:
        console.show(str(written.index))
    return 1 if written.left_out else 0


def logs(
    run: Run,
    store: StoreOptions,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until the run ends, through all its attempts.")
    ] = False,
) -> int:
    """Print the log of a run's newest attempt.

    Example: tfkd logs 8d4c1185ab12 -f
    """
    from tfkd_cli.backends.slurm import arrays
    from tfkd_cli.commands import cluster

    opened = session.open_folder(store, "logs")
    try:
        folder = opened.find(run)
    except RequestError:  # one that was asked for and has not started
        folder = opened.run(cluster.find_run(opened, session.execution(store), run))
    if follow:
        return _follow(opened, folder)
    path, of_slurm = folder.log_path(), arrays.log_of(opened, folder.name)
    if path is None and of_slurm is None:
        raise RequestError(
            f"{folder.name} has no log yet.",
            hint="tfkd status shows whether it has started; --follow waits for it.",
        )
    if path is not None:
        _show_log(path, opened.root)
    if of_slurm is not None and (path is None or folder.state().status != "done"):
        if path is not None:
            # Only this one says so of a run that was killed for its memory, or at a limit.
            console.show(f"\nSLURM's log, {of_slurm}:")
        _show_log(of_slurm, opened.root)
    return 0


def _show_log(path: Path, root: Path, *, start: int = 0, growing: bool = False) -> int:
    """Print a log from byte `start`, its whole lines only while it is `growing`; where to go on.

    DamagedFile for a link, a pipe or a device below the results folder.
    """
    try:
        with open_regular(path, below=root) as stream:
            stream.seek(start)
            data = stream.read()
    except OSError as error:
        reading.refuse(path, error)
    if growing:
        data = data[: data.rfind(b"\n") + 1]
    if data:
        text = data.decode("utf-8", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
        console.show(text.removesuffix("\n"))
    return start + len(data)


def _follow(opened: Store, folder: RunFolder) -> int:
    """Print a run's logs as they grow, one attempt after the other, until the run has ended."""
    from tfkd_cli.backends.slurm import arrays

    shown: Path | None = None
    position, told = 0, False
    while True:
        ended = _has_ended(opened, folder)  # before the reading: what is written meanwhile is read
        path = folder.log_path() or arrays.log_of(opened, folder.name)
        if shown is not None:
            position = _show_log(shown, opened.root, start=position, growing=path == shown and not ended)
        if path is not None and path != shown:
            if shown is not None:
                console.say(f"The next log, {path}:")
            shown, position = path, _show_log(path, opened.root, growing=not ended)
        if ended:
            return 0
        waiting = folder.state().status != "running"
        if waiting and not told:
            console.say(f"{folder.name} is not running; waiting for its next attempt (Ctrl-C ends this).")
        told = waiting
        time.sleep(FOLLOW_SECONDS)


def _has_ended(opened: Store, folder: RunFolder) -> bool:
    """Whether a run is done, or has failed and SLURM has no job that will try it again."""
    status = folder.state().status
    if status in ("done", "damaged", "running") or not _has_submissions(opened):
        return status not in ("running", "resumable", "todo")
    from tfkd_cli.backends.slurm.queue import queue_states

    job = queue_states(opened).get(folder.name)
    if job is not None and job.status in ("queued", "running", "blocked"):
        return False
    return status == "failed" or (job is not None and job.status == "died")
