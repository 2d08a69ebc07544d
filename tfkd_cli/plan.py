"""Runs → what is missing, in order, and what it costs.

Nothing is read here: states are those of a scan, costs come from functions that are passed in.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tfkd_cli.errors import RequestError
from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher
from tfkd_cli.store import RunState
from tfkd_cli.store.run_state import found_in


class Estimate(NamedTuple):
    """What one run costs on one device, and how we know: `measured`, `calibrated` or `estimate`."""

    seconds: float  # from the start of its process to its result
    source: str
    disk_bytes: int = 0
    logits_bytes: int = 0  # of its teacher's logits for all epochs, if they are cached
    teacher_seconds: float = 0.0  # of `seconds`: the teacher's forward passes, if they may be cached
    start_seconds: float = 0.0  # of `seconds`: outside the epochs; spent again by each attempt
    processes: int = 1  # that train the run together, each on a device of its own
    teacher_bytes: int = 0  # of its teacher's weights in memory


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan: what is left of it, what that costs, and what its students need of it.

    Backends follow it, and check again only what another process can have done since.
    """

    spec: RunSpec
    state: RunState
    cost: Estimate
    wanted_by: tuple[str, ...] = ()  # tables
    weights: tuple[str, ...] = ()  # files ("best.pt") that students still to be trained need of it
    caches_logits: bool = False  # other runs of the plan use the same teacher logits
    seconds_cached: float = 0.0  # of the teacher's forward passes left: read from the cache instead

    @property
    def done(self) -> bool:
        """Whether nothing is left to do for this run."""
        return self.state.status == "done"

    @property
    def left(self) -> float:
        """The share of it that is still to be trained; never quite 0 before it is done."""
        if self.done:
            return 0.0
        return max(0.01, 1 - (self.state.epoch or 0) / self.state.epochs) if self.state.epochs else 1.0

    @property
    def seconds_left(self) -> float:
        """Seconds that it still takes, cached teacher logits used."""
        return self.seconds_left_alone - self.seconds_cached

    @property
    def seconds_left_alone(self) -> float:
        """Seconds that it still takes if it runs its teacher in every epoch."""
        if self.done:
            return 0.0
        return self.left * (self.cost.seconds - self.cost.start_seconds) + self.cost.start_seconds


@dataclass(frozen=True, kw_only=True)
class CachedLogits:
    """Teacher logits that several runs use; the first to reach an epoch computes and writes it."""

    teacher: str  # its network
    teacher_key: str | None  # of its run; a foreign teacher has none
    students: tuple[str, ...]  # keys of the runs still to be trained
    epochs: int
    epochs_cached: int
    disk_bytes: int  # of all epochs
    seconds_left: float  # of forward passes for the epochs that are not cached

    def to_json(self) -> dict[str, Any]:
        """As `plan --json` lists them (docs/reproduction.md)."""
        return {
            "teacher": self.teacher,
            "teacher_key": self.teacher_key,
            "students": list(self.students),
            "epochs": self.epochs,
            "epochs_cached": self.epochs_cached,
            "disk_gb": round(self.disk_bytes / 1e9, 4),
            "gpu_hours": round(self.seconds_left / 3600, 4),
        }


@dataclass(frozen=True)
class Counts:
    """How many runs: wanted, shared by several tables, done, to do; and what the rest costs.

    Of those to do, `resumable` have been begun, and `damaged` have records that cannot be believed.
    `seconds` are those of all devices together: a run in four processes counts four times its duration.
    """

    wanted: int
    shared: int
    done: int
    resumable: int
    damaged: int
    todo: int
    seconds: float
    critical_path_seconds: float
    disk_bytes: int
    sources: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, Any]:
        """The documented shape of `plan --json`; `gpu_hours` are hours of the device that it names."""
        names = ("wanted", "shared", "done", "resumable", "damaged", "todo")
        runs = {name: getattr(self, name) for name in names}
        return {
            "runs": runs,
            "gpu_hours": round(self.seconds / 3600, 4),
            "critical_path_hours": round(self.critical_path_seconds / 3600, 4),
            "disk_gb": round(self.disk_bytes / 1e9, 4),
            "estimates": dict(self.sources),
        }


@dataclass(frozen=True)
class Plan:
    """All runs of a request, teachers before students, each once."""

    runs: Mapping[str, PlannedRun]  # by key, in an order that respects parents
    tables: Mapping[str, tuple[str, ...]]  # table → keys it needs, teachers included
    teacher_logits: tuple[CachedLogits, ...] = ()  # that runs still to be trained will use
    command_seconds: float = 0.0  # of a command besides its runs: libraries, decoding, the report

    @property
    def todo(self) -> tuple[PlannedRun, ...]:
        """The runs to start, teachers first."""
        return tuple(run for run in self.runs.values() if not run.done)

    @property
    def unfinished(self) -> tuple[RunSpec, ...]:
        """The specs of the runs to start, teachers first."""
        return tuple(run.spec for run in self.todo)

    def counts(self, table: str | None = None) -> Counts:
        """The counts of one table, or of all."""
        runs = [self.runs[key] for key in (self.runs if table is None else self.tables[table])]
        todo = [run for run in runs if not run.done]
        statuses = Counter(run.state.status for run in runs)
        return Counts(
            wanted=len(runs),
            shared=sum(len(run.wanted_by) > 1 for run in runs),
            done=statuses["done"],
            resumable=sum(run.left < 1 for run in todo),
            damaged=statuses["damaged"],
            todo=len(todo),
            seconds=sum(run.seconds_left * run.cost.processes for run in todo),
            critical_path_seconds=_list_schedule(todo, max(1, len(todo))),
            disk_bytes=sum(run.cost.disk_bytes for run in runs),
            sources=tuple(sorted(Counter(run.cost.source for run in todo).items())),
        )

    def wall_seconds(self, slots: int) -> float:
        """Estimated wall time with `slots` runs at once: list scheduling, longest first among the ready."""
        return _list_schedule(self.todo, max(1, slots)) + (self.command_seconds if self.todo else 0.0)

    def to_json(self) -> dict[str, Any]:
        """Totals and the same per table."""
        return {
            **self.counts().to_json(),
            "command_hours": round(self.command_seconds / 3600, 4),
            "teacher_logits": [each.to_json() for each in self.teacher_logits],
            "tables": {name: self.counts(name).to_json() for name in self.tables},
        }


def make_plan(
    wanted: Mapping[str, Sequence[RunSpec]],
    *,
    states: Mapping[str, RunState],
    cost: Callable[[RunSpec], Estimate],
    cached_epochs: Callable[[Teacher | ForeignTeacher], int] = lambda teacher: 0,
    cache_limit: float = math.inf,
    command_seconds: float = 0.0,
) -> Plan:
    """The plan for `wanted` (table → runs); a teacher comes before its first student.

    A finished run is never planned again. A teacher is not planned when all of its students are
    finished; one whose weights are gone is planned again when an unfinished student needs them.
    RequestError for a run of an older trainer version, which nothing can continue.

    `cached_epochs`: of a teacher's logits, how many are cached; `cache_limit`: bytes of the whole cache.
    """
    specs, users = _users(wanted)
    requested = {spec.key for runs in wanted.values() for spec in runs}
    # A teacher of a teacher has depth 0; every setting has one seed before any has a second.
    order = sorted(specs.values(), key=lambda spec: (spec.depth, spec.seed))
    weights = _needed_weights(order, requested, states)
    planned: dict[str, PlannedRun] = {}
    for spec in order:
        todo = RunState(key=spec.key, name=spec.folder, status="todo")
        seen, needed = found_in(states, spec.key) or todo, weights.get(spec.key, set())
        if needed & set(seen.missing):
            seen = todo  # its result stands, but weights that must teach are gone
        if seen.status == "done" or needed or spec.key in requested:
            planned[spec.key] = PlannedRun(
                spec, seen, cost(spec), wanted_by=tuple(users[spec.key]), weights=tuple(sorted(needed))
            )
    teacher_logits, students = _cached_logits(planned.values(), cached_epochs, cache_limit)
    planned |= students
    tables = {table: tuple(key for key in planned if table in users[key]) for table in wanted}
    return Plan(planned, tables, teacher_logits, command_seconds)


def _users(
    wanted: Mapping[str, Sequence[RunSpec]],
) -> tuple[dict[str, RunSpec], dict[str, dict[str, None]]]:
    """Key → run, teachers included, and key → the tables that need it; RequestError for an outdated run."""
    specs: dict[str, RunSpec] = {}
    users: dict[str, dict[str, None]] = {}
    for table, runs in wanted.items():
        for spec in runs:
            if spec.outdated:
                raise RequestError(
                    f"{spec.folder} was {spec.outdated}.",
                    hint="the command that asked for it trains it anew, beside the old one.",
                )
            for each in spec.lineage:
                specs.setdefault(each.key, each)
                users.setdefault(each.key, {})[table] = None
    return specs, users


def _cached_logits(
    runs: Iterable[PlannedRun], cached_epochs: Callable[[Teacher | ForeignTeacher], int], room: float
) -> tuple[tuple[CachedLogits, ...], dict[str, PlannedRun]]:
    """The teacher logits that unfinished runs share, and these runs (by key) with what they then cost.

    The run with most epochs left is taken to compute them. Those beyond `room` bytes every run computes.
    """
    by_key = {run.spec.key: run for run in runs}
    found: list[CachedLogits] = []
    sharing: dict[str, PlannedRun] = {}
    # Data-parallel runs compute them at each step (`training.runner`).
    alone = (run.spec for run in by_key.values() if run.cost.processes == 1)
    for group in _same_teacher_logits(alone):
        students = [by_key[spec.key] for spec in group if not by_key[spec.key].done]
        if not students:
            continue
        writer = max(students, key=lambda run: run.left * run.cost.teacher_seconds)
        teacher, epochs = writer.spec.teacher, max(spec.recipe.epochs for spec in group)
        assert teacher is not None
        cached, size = min(cached_epochs(teacher), epochs), max(run.cost.logits_bytes for run in students)
        share = min(1.0, room / size) if size else 1.0  # that fits below the cap
        room -= share * size
        # Seconds of the writer for epochs that fit below the cap, are not past and are not cached.
        computed = max(0.0, share - max(1 - writer.left, cached / epochs)) * writer.cost.teacher_seconds
        for run in students:
            saved = share * run.left * run.cost.teacher_seconds - (computed if run is writer else 0.0)
            sharing[run.spec.key] = replace(run, caches_logits=True, seconds_cached=saved)
        found.append(
            CachedLogits(
                teacher=teacher.network,
                teacher_key=teacher.run.key if isinstance(teacher, Teacher) else None,
                students=tuple(run.spec.key for run in students),
                epochs=epochs,
                epochs_cached=cached,
                disk_bytes=size,
                seconds_left=computed,
            )
        )
    return tuple(found), sharing


def _same_teacher_logits(specs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    """Groups of two runs and more whose teacher has the same weights and sees the same views.

    Only with one augmentation stream for all seeds (`RunSpec.teacher_by_epoch`).
    """
    groups: dict[tuple[object, ...], list[RunSpec]] = {}
    for spec in specs:
        if spec.teacher_by_epoch:
            recipe, teacher = spec.recipe, spec.teacher
            assert teacher is not None
            weights = (teacher.run.key, teacher.weights) if isinstance(teacher, Teacher) else teacher
            reading = (recipe.decoder, recipe.corrupt)
            views = (spec.dataset, recipe.augment, recipe.precision, recipe.holdout, *reading)
            groups.setdefault((weights, *views), []).append(spec)
    return [group for group in groups.values() if len(group) > 1]


def _needed_weights(
    order: Sequence[RunSpec], requested: set[str], states: Mapping[str, RunState]
) -> dict[str, set[str]]:
    """Key of a teacher → the files of its weights that students to be trained need."""
    needed: dict[str, set[str]] = {}
    for spec in reversed(order):  # students first
        seen, teaches = states.get(spec.key), needed.get(spec.key, set())
        unfinished = (seen is None or seen.status != "done") and (teaches or spec.key in requested)
        gone = seen is not None and teaches & set(seen.missing)
        if (unfinished or gone) and isinstance(spec.teacher, Teacher):
            needed.setdefault(spec.teacher.run.key, set()).add(spec.teacher.weights)
    return needed


def _list_schedule(todo: Sequence[PlannedRun], slots: int) -> float:
    import heapq

    free = [0.0] * slots
    ends: dict[str, float] = {}
    for run in sorted(todo, key=lambda run: (run.spec.depth, -run.seconds_left)):
        ready = max((ends.get(parent.key, 0.0) for parent in run.spec.parents), default=0.0)
        start = max(heapq.heappop(free), ready)
        ends[run.spec.key] = start + run.seconds_left
        heapq.heappush(free, ends[run.spec.key])
    return max(ends.values(), default=0.0)
