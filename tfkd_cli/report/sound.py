"""From the store to runs: only records that are sound, and say what their result says, are believed."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfkd_cli.errors import RunError
from tfkd_cli.report.epochs import Epochs, Kept, from_lines
from tfkd_cli.report.runs import Run, Wish
from tfkd_cli.report.workers import Workers
from tfkd_cli.store import RunState, Store, publishing, reading
from tfkd_cli.store.reading import LINES_LIMIT
from tfkd_cli.store.records import METRICS
from tfkd_cli.store.run_folder import SPEC, RunFolder

MANY = 100  # runs from which a second process is worth its start
SAME = 1e-9  # percent: result.json and the metrics hold the same number, written twice


def read_runs(
    wanted: Mapping[str, Wish],
    store: Store,
    *,
    states: Mapping[str, RunState],
    kept: Kept,
    progress: Callable[[str, float], None],
) -> dict[str, Run]:
    """Folder → run, teachers first. A finished run whose records are not sound becomes `damaged`."""
    by_name = {state.name: state for state in states.values()}
    found: dict[str, Run] = {}
    for index, (name, wish) in enumerate(wanted.items()):
        if index % 50 == 0:
            progress("reading runs", index / len(wanted))
        state = by_name.get(name) or RunState(key=wish.spec.key, name=name, status="todo")
        run = _read(Run(wish=wish, state=state), store, kept)
        failed = [
            each
            for each in wish.spec.parents
            if found[each.folder].status in ("failed", "damaged", "blocked")
        ]
        found[name] = replace(run, blocked_by=failed[0].folder if failed else "")
    return found


def parse_ahead(
    wanted: Mapping[str, Wish],
    store: Store,
    *,
    states: Mapping[str, RunState],
    kept: Kept,
    workers: Workers,
    progress: Callable[[str, float], None],
) -> None:
    """Parse the metrics that no earlier report knew, by several processes where they are many."""
    paths = [
        store.folder(state.name).path / METRICS
        for state in states.values()
        if state.result is not None
        and state.name in wanted
        and state.result["records"][METRICS] not in kept.found
    ]
    if len(paths) < MANY:
        return
    for index, parsed in enumerate(workers.start(_parse, paths, many=MANY)):
        if index % 50 == 0:
            progress("reading runs", index / len(paths))
        if parsed is not None:
            kept.ahead[parsed[0]] = parsed[1]


def _parse(path: Path) -> tuple[str, Epochs] | None:
    """The digest of a metrics file and its epochs; None where it cannot be read, which is found out later."""
    with contextlib.suppress(RunError):
        data = reading.read_bytes(path, limit=LINES_LIMIT) or b""
        epochs = from_lines(reading.parse_lines(data, path=path).lines)
        return (hashlib.sha256(data).hexdigest(), epochs) if epochs is not None else None
    return None


def _read(run: Run, store: Store, kept: Kept) -> Run:
    folder = store.folder(run.name)
    if run.state.status == "done" and run.state.result is not None:
        try:
            return replace(run, epochs=_epochs(run.state.result, store, run, kept))
        except RunError as error:
            return replace(run, state=replace(run.state, status="damaged", result=None, damage=str(error)))
    if not run.state.attempts:
        return run
    try:
        note = folder.read_metrics().damage
    except RunError as error:
        note = str(error)
    return replace(run, note=note, began=_began(folder))


def _began(folder: RunFolder) -> Mapping[str, Any]:
    """env.json of the newest attempt that has one."""
    for attempt in reversed(folder.attempts()):
        with contextlib.suppress(RunError):
            if began := reading.read_object(attempt / "env.json"):
                return began
    return {}


def _epochs(result: Mapping[str, Any], store: Store, run: Run, kept: Kept) -> Epochs:
    """The epochs of a finished run; DamagedFile unless its records are sound and say what its result says."""
    folder = store.folder(run.name)
    described = reading.read_object(folder.path / SPEC)
    if described != {"key": run.spec.key, **run.described}:
        what = "is missing." if described is None else "describes another run."
        raise reading.DamagedFile(
            folder.path / SPEC,
            what,
            expected=f"the description of run {run.spec.key[:12]}.",
            hint=f"bring it back, or move the run away (mv '{folder.path}' ELSEWHERE) to train it again.",
        )
    publishing.check_records(folder.path, result)
    digest = result["records"][METRICS]
    epochs = kept.get(digest) or from_lines(folder.metrics())
    path = folder.path / METRICS
    if epochs is None:
        raise reading.DamagedFile(path, "holds no epoch with a test accuracy.")
    kept.add(digest, epochs)
    for ours, theirs, what in (
        (epochs.best_accuracy, result["best"]["accuracy"], "best"),
        (epochs.last_accuracy, result["last"]["accuracy"], "last"),
    ):
        if theirs is None or abs(ours - theirs) > SAME:
            raise reading.DamagedFile(
                path,
                f"has {ours} % as its {what} accuracy.",
                expected=f"{theirs} %, as its result.json says.",
                hint=f"move the run away (mv '{folder.path}' ELSEWHERE) to train it again.",
            )
    return epochs


def sound_states(states: Mapping[str, RunState], runs: Mapping[str, Run]) -> dict[str, RunState]:
    """The states with those of the runs in place: what a table may count."""
    changed = {run.spec.key: run.state for run in runs.values()}
    return {**states, **changed}


def log_tail(run: Run, store: Store, *, limit: int) -> tuple[str, str]:
    """The path of the newest log within the store, and its last `limit` characters, from a line's start."""
    path = store.folder(run.name).log_path() if run.state.attempts else None
    if path is None:
        return "", ""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - limit))
            text = stream.read(limit).decode("utf-8", errors="replace")
    except OSError:
        return "", ""
    whole = len(text) < limit
    return path.relative_to(store.root).as_posix(), text if whole else text.partition("\n")[2]
