"""Runs as they lie in a results folder, every record checked where it is read."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tfkd_cli.errors import RunError
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import RunFolder, RunState, Store, attempts
from tfkd_cli.store.reading import Lines

log = logging.getLogger("tfkd")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run.

    `spec` is None where spec.json cannot be read. `lines` are the lines of metrics.jsonl, so far for an
    unfinished run and none for a damaged one. `began` is the env.json of the newest attempt of an unfinished
    run; a finished one has all of it in its result. `note`: what could not be read, where the rest can be.
    """

    name: str
    spec: RunSpec | None
    state: RunState
    lines: Sequence[Mapping[str, Any]] = ()
    began: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def done(self) -> bool:
        """Whether it counts: finished, and its records are sound."""
        return self.state.status == "done"

    @property
    def result(self) -> Mapping[str, Any]:
        """Its result.json; empty unless done."""
        return self.state.result or {}


def read(
    store: Store,
    specs: Iterable[RunSpec] | None = None,
    *,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> dict[str, Run]:
    """Folder → run: all runs of the store, or of these specs (one that has no folder yet is `todo`).

    A run whose records are damaged beyond repair has the status `damaged`; `state.damage` says why.
    """
    if specs is None:
        states = store.scan()
        known: dict[str, RunSpec | None] = dict.fromkeys(states)
    else:
        known = {spec.key: spec for spec in specs}
        states = store.scan(known)
    found = {}
    for number, (key, spec) in enumerate(known.items()):
        if number % 100 == 0:
            progress("reading runs", number / len(known))
        run = _run(store, spec, states[key])
        found[run.name] = run
    return found


def read_run(store: Store, folder: RunFolder) -> Run:
    """One run of the store, as `read` gives it, without reading the others."""
    return _run(store, None, folder.state())


def _run(store: Store, spec: RunSpec | None, state: RunState) -> Run:
    if not state.name:
        assert spec is not None
        return Run(name=spec.folder, spec=spec, state=replace(state, name=spec.folder))
    folder, note = store.folder(state.name), ""
    try:
        spec = spec or folder.spec()
    except RunError as error:  # the key in its result and in its name still says which run it is
        log.warning("%s Hint: %s", error.what, error.hint)
        note = str(error)
    run = Run(name=state.name, spec=spec, state=state, note=note)
    if state.status == "damaged":
        return run
    try:
        metrics = folder.read_metrics(state.result)
    except RunError as error:
        if state.result is not None:  # damaged since the state was derived
            return replace(run, state=replace(state, status="damaged", result=None, damage=str(error)))
        metrics = Lines([], str(error))  # the next attempt writes its own
    began = _began(folder) if state.attempts and state.result is None else {}
    return replace(run, lines=metrics.lines, began=began, note=metrics.damage or note)


def _began(folder: RunFolder) -> Mapping[str, Any]:
    """env.json of the newest attempt that has one."""
    for attempt in reversed(folder.attempts()):
        with contextlib.suppress(RunError):
            if began := attempts.environment(folder.path, int(attempt.name)):
                return began
    return {}
