"""The runs behind a report: what each is, who asked for it, what became of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tfkd_cli.errors import RunError
from tfkd_cli.report.asked import Item
from tfkd_cli.report.epochs import Epochs, Kept, from_lines
from tfkd_cli.report.workers import Workers
from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher
from tfkd_cli.store import RunState, Store, publishing, reading
from tfkd_cli.store.reading import LINES_LIMIT
from tfkd_cli.store.records import METRICS
from tfkd_cli.store.run_folder import SPEC, RunFolder

SCALES = ("paper", "quick", "demo", "custom")
MANY = 100  # runs from which a second process is worth its start
SAME = 1e-9  # percent: result.json and the metrics hold the same number, written twice


@dataclass
class Wish:
    """Everything that asks for one run."""

    spec: RunSpec
    name: str  # its folder
    methods: dict[str, None] = field(default_factory=dict)
    forms: dict[str, None] = field(default_factory=dict)
    scales: dict[str, None] = field(default_factory=dict)
    items: dict[str, None] = field(default_factory=dict)  # slugs; a teacher's are those of its students

    @cached_property
    def described(self) -> dict[str, Any]:
        """The spec as JSON types."""
        return self.spec.to_json()


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run that was asked for, teachers included.

    `epochs` is there for finished runs whose records are sound, and for no others. `began` holds what an
    attempt noted when it began (env.json); a finished run's result says it all.
    """

    wish: Wish
    state: RunState
    epochs: Epochs | None = None
    began: Mapping[str, Any] = field(default_factory=dict)
    blocked_by: str = ""
    note: str = ""  # what could not be read of an unfinished run

    @property
    def spec(self) -> RunSpec:
        """What the run is."""
        return self.wish.spec

    @property
    def name(self) -> str:
        """Its folder."""
        return self.wish.name

    @property
    def described(self) -> dict[str, Any]:
        """Its spec as JSON types."""
        return self.wish.described

    @property
    def done(self) -> bool:
        """Whether it counts."""
        return self.epochs is not None

    @property
    def status(self) -> str:
        """`done`, `running`, `resumable`, `blocked`, `failed`, `damaged`, `todo`."""
        if self.blocked_by and self.state.status in ("todo", "resumable"):
            return "blocked"
        return self.state.status

    @property
    def result(self) -> Mapping[str, Any]:
        """Its result.json; empty unless done."""
        return (self.state.result or {}) if self.done else {}

    @property
    def digest(self) -> str:
        """Of its metrics file; empty unless done."""
        return str(self.result["records"][METRICS]) if self.done else ""

    @property
    def method(self) -> str:
        """The method's name: derived from loss and teacher, but a kd run asked for as re-kd is one."""
        asked = [name for name in self.wish.methods if name in ("kd", "re-kd", "de-kd")]
        if self.spec.method == "kd" and asked and "kd" not in asked:
            return asked[0]
        return self.spec.method

    @property
    def form(self) -> str:
        """`released` or `printed`."""
        if len(self.wish.forms) == 1:
            return next(iter(self.wish.forms))
        forms = self.spec.loss.FORMS.items()
        own = (
            form for form, values in forms if all(getattr(self.spec.loss, k) == v for k, v in values.items())
        )
        return next(own, "released")

    @property
    def scale(self) -> str:
        """The most binding of the scales it was asked for at."""
        return next(scale for scale in SCALES if scale in self.wish.scales)

    @property
    def fast(self) -> bool:
        """Whether its recipe is not the paper's way of computing."""
        return self.spec.recipe.precision != "fp32" or self.spec.recipe.augment_stream != "seed"

    @property
    def checkpoint(self) -> str:
        """Which weights of its teacher taught it."""
        if isinstance(self.spec.teacher, Teacher):
            return str(self.spec.teacher.checkpoint)
        return (
            f"file:{self.spec.teacher.digest[:12]}" if isinstance(self.spec.teacher, ForeignTeacher) else ""
        )

    @property
    def commit(self) -> str:
        """Commit of the code, and the digest of what was changed on top of it."""
        source = self.result or self.began
        commit, diff = str(source.get("commit") or ""), str(source.get("diff") or "")
        return f"{commit}+{diff[:8]}" if diff else commit

    @property
    def numerics(self) -> Mapping[str, Any]:
        """Device, threads, torch."""
        found = (self.result or self.began).get("numerics")
        return found if isinstance(found, Mapping) else {}

    @property
    def hardware(self) -> str:
        """The device's name."""
        return str(
            self.result.get("hardware") or self.numerics.get("device_name") or self.began.get("cpu") or ""
        )

    @cached_property
    def failure(self) -> Mapping[str, Any]:
        """Why it failed; empty where it did not."""
        return self.state.failure or {}

    def identity(self) -> list[Any]:
        """Values of the identity columns."""
        spec = self.spec
        teacher = spec.teacher.network if spec.teacher else ""
        fast = "true" if self.fast else "false"
        who = [self.name, spec.dataset, spec.student, self.method, self.form, teacher, self.checkpoint]
        return [*who, spec.seed, self.scale, fast]


def wishes(items: Iterable[Item]) -> dict[str, Wish]:
    """Folder → who asks for that run: the runs of these items, and the teachers they need."""
    found: dict[str, Wish] = {}
    for item in items:
        request = item.campaign.request
        for setting, specs in request.runs_by_setting(item.what).items():
            for spec in specs:
                for each in lineage(spec):
                    name = each.folder
                    wish = found.get(name) or found.setdefault(name, Wish(each, name))
                    wish.forms[setting.form or request.form] = None
                    wish.scales[item.scale] = None
                    wish.items[item.slug] = None
                found[name].methods[setting.method] = None  # the last of its lineage is the run itself
    return found


def lineage(spec: RunSpec) -> Iterator[RunSpec]:
    """Its teacher's teacher, its teacher, itself."""
    for parent in spec.parents:
        yield from lineage(parent)
    yield spec


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
        raise reading.DamagedFile(folder.path / SPEC, what, expected=f"run {run.spec.key[:12]}.")
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
