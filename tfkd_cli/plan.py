"""Runs → what is missing, in order, and what it costs. Pure: states and costs come in as values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher


class Estimate(NamedTuple):
    """What one run costs on one device, and how we know: `measured`, `calibrated` or `estimate`."""

    seconds: float
    source: str
    disk_bytes: int = 0
    logits_bytes: int = 0  # of its teacher's logits for all epochs, if they are cached
    teacher_seconds: float = 0.0  # of `seconds`: the teacher's forward passes, if they may be cached


class Progress(NamedTuple):
    """What the store says of a run: its status, and the share of it that is already trained."""

    status: str  # done, resumable, running, failed, damaged, todo
    share: float = 0.0
    missing: tuple[str, ...] = ()  # weights of a finished run that are gone: "best.pt", "epoch-001.pt"


TODO = Progress("todo")


@dataclass(frozen=True)
class Item:
    """One run of a plan."""

    spec: RunSpec
    progress: Progress
    cost: Estimate
    wanted_by: tuple[str, ...]  # tables; empty for a teacher that only others need
    seconds_cached: float = 0.0  # of the teacher's forward passes left: read from the cache instead

    @property
    def done(self) -> bool:
        """Whether nothing is left to do for this run."""
        return self.progress.status == "done"

    @property
    def left(self) -> float:
        """The share of it that is still to be trained."""
        return 0.0 if self.done else 1 - self.progress.share

    @property
    def seconds_left(self) -> float:
        """What is still to be spent on it."""
        return self.seconds_left_alone - self.seconds_cached

    @property
    def seconds_left_alone(self) -> float:
        """The same if it has to run its teacher for every epoch itself."""
        return self.left * self.cost.seconds


@dataclass(frozen=True, kw_only=True)
class CachedLogits:
    """Teacher logits that several runs use; the first of them to reach an epoch computes it."""

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


@dataclass(frozen=True, kw_only=True)
class CachedEpochs:
    """How many epochs of a teacher's logits are cached, and how many bytes the whole cache may take."""

    epochs: Callable[[Teacher | ForeignTeacher], int] = lambda teacher: 0
    limit_bytes: float = float("inf")


@dataclass(frozen=True)
class Counts:
    """How many runs: wanted, shared by several tables, done, resumable, to do; and what the rest costs."""

    wanted: int
    shared: int
    done: int
    resumable: int
    todo: int
    seconds: float
    critical_path_seconds: float
    disk_bytes: int
    sources: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, Any]:
        """The documented shape of `plan --json`; `gpu_hours` are hours of the device that it names."""
        runs = {name: getattr(self, name) for name in ("wanted", "shared", "done", "resumable", "todo")}
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

    items: Mapping[str, Item]  # by key, in an order that respects parents
    tables: Mapping[str, tuple[str, ...]]  # table → keys it needs, teachers included
    teacher_logits: tuple[CachedLogits, ...] = ()  # that runs still to be trained will use

    @property
    def missing(self) -> tuple[RunSpec, ...]:
        """The runs to start, teachers first."""
        return tuple(item.spec for item in self.items.values() if not item.done)

    def counts(self, table: str | None = None) -> Counts:
        """The counts of one table, or of all."""
        keys = self.items.keys() if table is None else self.tables[table]
        items = [self.items[key] for key in keys]
        missing = [item for item in items if not item.done]
        statuses = Counter(item.progress.status for item in items)
        return Counts(
            wanted=len(items),
            shared=sum(len(item.wanted_by) > 1 for item in items),
            done=statuses["done"],
            resumable=sum(0 < item.progress.share < 1 for item in missing),
            todo=len(missing),
            seconds=sum(item.seconds_left for item in missing),
            critical_path_seconds=_critical_path(missing),
            disk_bytes=sum(item.cost.disk_bytes for item in items),
            sources=tuple(sorted(Counter(item.cost.source for item in missing).items())),
        )

    def wall_seconds(self, slots: int) -> float:
        """Estimated wall time with `slots` runs at once: list scheduling, longest first among the ready."""
        return _list_schedule([item for item in self.items.values() if not item.done], max(1, slots))

    def to_json(self) -> dict[str, Any]:
        """Totals and the same per table."""
        return {
            **self.counts().to_json(),
            "teacher_logits": [each.to_json() for each in self.teacher_logits],
            "tables": {name: self.counts(name).to_json() for name in self.tables},
        }


def make_plan(
    wanted: Mapping[str, Sequence[RunSpec]],
    *,
    progress: Mapping[str, Progress],
    cost: Callable[[RunSpec], Estimate],
    on_disk: CachedEpochs | None = None,
) -> Plan:
    """The plan for `wanted` (table → runs); a teacher comes before its first student.

    A finished run is never planned again. A teacher that only finished students had is not planned at
    all; one whose weights are gone is planned again when an unfinished student needs them.
    """
    specs: dict[str, RunSpec] = {}
    users: dict[str, dict[str, None]] = {}
    requested = {spec.key for runs in wanted.values() for spec in runs}
    for table, runs in wanted.items():
        for spec in runs:
            for each in spec.lineage:
                specs.setdefault(each.key, each)
                users.setdefault(each.key, {})[table] = None
    order = _in_order(specs)
    needed = _needed_teachers(order, requested, progress)
    items: dict[str, Item] = {}
    for key, spec in order:
        seen = progress.get(key, TODO)
        if seen.status == "done" and key in needed:
            seen = TODO  # its result stands, but weights that must teach are gone
        if seen.status == "done" or key in requested or key in needed:
            items[key] = Item(spec, seen, cost(spec), tuple(users[key]))
    teacher_logits = _cached_logits(items, on_disk or CachedEpochs())
    tables = {table: tuple(key for key in items if table in items[key].wanted_by) for table in wanted}
    return Plan(items, tables, tuple(teacher_logits))


def _cached_logits(items: dict[str, Item], on_disk: CachedEpochs) -> Iterator[CachedLogits]:
    """The teacher logits that unfinished runs share; `items` is changed to what these runs then cost.

    The run with most epochs left is taken to compute them. Those beyond the cap are computed by every run.
    """
    room = on_disk.limit_bytes
    for group in same_teacher_logits([item.spec for item in items.values()]):
        students = [items[spec.key] for spec in group if not items[spec.key].done]
        if not students:
            continue
        writer = max(students, key=lambda item: item.left * item.cost.teacher_seconds)
        teacher, epochs = writer.spec.teacher, max(spec.recipe.epochs for spec in group)
        assert teacher is not None
        cached, size = min(on_disk.epochs(teacher), epochs), max(item.cost.logits_bytes for item in students)
        share = min(1.0, room / size) if size else 1.0  # that fits below the cap
        room -= share * size
        computed = max(0.0, share - max(1 - writer.left, cached / epochs)) * writer.cost.teacher_seconds
        for item in students:
            saved = share * item.left * item.cost.teacher_seconds - (computed if item is writer else 0.0)
            items[item.spec.key] = replace(item, seconds_cached=saved)
        yield CachedLogits(
            teacher=teacher.network,
            teacher_key=teacher.run.key if isinstance(teacher, Teacher) else None,
            students=tuple(item.spec.key for item in students),
            epochs=epochs,
            epochs_cached=cached,
            disk_bytes=size,
            seconds_left=computed,
        )


def same_teacher_logits(specs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    """Groups of two runs and more whose teacher has the same weights and sees the same views.

    Only with one augmentation stream for all seeds (`RunSpec.teacher_by_epoch`).
    """
    groups: dict[tuple[str, ...], list[RunSpec]] = {}
    for spec in specs:
        if spec.teacher_by_epoch:
            groups.setdefault(_logits_key(spec), []).append(spec)
    return [group for group in groups.values() if len(group) > 1]


def _logits_key(spec: RunSpec) -> tuple[str, ...]:
    teacher = spec.teacher
    assert teacher is not None
    if isinstance(teacher, ForeignTeacher):
        weights: tuple[str, ...] = (teacher.network, teacher.digest)
    else:
        weights = (teacher.run.key, str(teacher.checkpoint))
    recipe = spec.recipe
    return (*weights, spec.dataset, recipe.augment, recipe.precision, str(recipe.holdout))


def _needed_teachers(
    order: Sequence[tuple[str, RunSpec]], requested: set[str], progress: Mapping[str, Progress]
) -> set[str]:
    """Keys of the runs to train because an unfinished student needs weights that are not there."""
    needed: set[str] = set()
    for key, spec in reversed(order):  # students first
        wanted = key in requested and progress.get(key, TODO).status != "done"
        if (wanted or key in needed) and isinstance(spec.teacher, Teacher):
            teacher = progress.get(spec.teacher.run.key, TODO)
            if teacher.status != "done" or spec.teacher.weights in teacher.missing:
                needed.add(spec.teacher.run.key)
    return needed


def _in_order(specs: Mapping[str, RunSpec]) -> list[tuple[str, RunSpec]]:
    """Teachers before students: a stable sort by depth (a teacher of a teacher has depth 0)."""
    return sorted(specs.items(), key=lambda pair: pair[1].depth)


def _critical_path(missing: Sequence[Item]) -> float:
    ends: dict[str, float] = {}
    for item in missing:  # in order: parents come first
        start = max((ends.get(parent.key, 0.0) for parent in item.spec.parents), default=0.0)
        ends[item.spec.key] = start + item.seconds_left
    return max(ends.values(), default=0.0)


def _list_schedule(missing: Sequence[Item], slots: int) -> float:
    import heapq

    free = [0.0] * slots
    ends: dict[str, float] = {}
    for item in sorted(missing, key=lambda item: (item.spec.depth, -item.seconds_left)):
        ready = max((ends.get(parent.key, 0.0) for parent in item.spec.parents), default=0.0)
        start = max(heapq.heappop(free), ready)
        ends[item.spec.key] = start + item.seconds_left
        heapq.heappush(free, ends[item.spec.key])
    return max(ends.values(), default=0.0)
