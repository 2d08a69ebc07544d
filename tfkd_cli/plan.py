"""Runs → what is missing, in order, and what it costs. Pure: states and costs come in as values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher


class Estimate(NamedTuple):
    """What one run costs on one device, and how we know: `measured`, `calibrated` or `estimate`."""

    seconds: float
    source: str
    disk_bytes: int = 0
    answers_bytes: int = 0  # of its teacher's answers, where they are kept
    asking_seconds: float = 0.0  # the part of `seconds` that goes where another run has asked already


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
    shares_answers: bool = False  # of its teacher: asking is then paid by their own node

    @property
    def done(self) -> bool:
        """Whether nothing is left to do for this run."""
        return self.progress.status == "done"

    @property
    def seconds_left(self) -> float:
        """What is still to be spent on it."""
        return self._left(self.cost.seconds - (self.cost.asking_seconds if self.shares_answers else 0.0))

    @property
    def seconds_left_alone(self) -> float:
        """The same where it has to ask its teacher for everything itself."""
        return self._left(self.cost.seconds)

    def _left(self, seconds: float) -> float:
        return 0.0 if self.done else seconds * (1 - self.progress.share)


@dataclass(frozen=True, kw_only=True)
class SharedAnswers:
    """A node between a teacher and the runs that ask it the same: answers, each computed by one of them."""

    teacher: str  # its network
    teacher_key: str | None  # of its run; a foreign teacher has none
    students: tuple[str, ...]  # keys
    epochs: int
    disk_bytes: int
    seconds_left: float  # of asking

    def to_json(self) -> dict[str, Any]:
        """As `plan --json` lists them."""
        return {
            "teacher": self.teacher,
            "teacher_key": self.teacher_key,
            "students": list(self.students),
            "epochs": self.epochs,
            "disk_gb": round(self.disk_bytes / 1e9, 4),
            "gpu_hours": round(self.seconds_left / 3600, 4),
        }


class _Task(NamedTuple):
    """A node of the plan's graph that takes time: a run, or shared answers, which students ask in parts."""

    key: str
    after: Sequence[str]  # keys of tasks that end before it begins; those not in the graph have ended
    seconds: float
    depth: int
    parts: int = 1


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
    answers: tuple[SharedAnswers, ...] = ()  # that runs still to be trained will use

    @property
    def missing(self) -> tuple[RunSpec, ...]:
        """The runs to start, teachers first."""
        return tuple(item.spec for item in self.items.values() if not item.done)

    def counts(self, table: str | None = None) -> Counts:
        """The counts of one table, or of all."""
        keys = self.items.keys() if table is None else self.tables[table]
        items = [self.items[key] for key in keys]
        missing = [item for item in items if not item.done]
        tasks = self._tasks(missing)
        statuses = Counter(item.progress.status for item in items)
        return Counts(
            wanted=len(items),
            shared=sum(len(item.wanted_by) > 1 for item in items),
            done=statuses["done"],
            resumable=sum(0 < item.progress.share < 1 for item in missing),
            todo=len(missing),
            seconds=sum(task.seconds for task in tasks),
            critical_path_seconds=_critical_path(tasks),
            disk_bytes=sum(item.cost.disk_bytes for item in items),
            sources=tuple(sorted(Counter(item.cost.source for item in missing).items())),
        )

    def seconds_of(self, keys: Iterable[str]) -> float:
        """What these runs will take, the answers that they share included."""
        return sum(task.seconds for task in self._tasks(self._unfinished(keys)))

    def wall_seconds(self, slots: int) -> float:
        """Estimated wall time with `slots` runs at once: list scheduling, longest first among the ready."""
        return _list_schedule(self._tasks(self._unfinished(self.items)), max(1, slots))

    def _unfinished(self, keys: Iterable[str]) -> list[Item]:
        return [self.items[key] for key in keys if not self.items[key].done]

    def _tasks(self, missing: Sequence[Item]) -> list[_Task]:
        """What these runs take, and the answers that some of them share; what others wait for comes first."""
        keys = {item.spec.key for item in missing}
        asking: dict[str, str] = {}  # student → its answers
        tasks: list[_Task] = []
        for number, shared in enumerate(self.answers):
            students = [key for key in shared.students if key in keys]
            if students:
                asking.update(dict.fromkeys(students, f"answers-{number}"))
                depth = 2 * self.items[students[0]].spec.depth - 1
                teacher = [shared.teacher_key] if shared.teacher_key else []
                tasks.append(
                    _Task(f"answers-{number}", teacher, shared.seconds_left, depth, parts=len(students))
                )
        for item in missing:
            spec = item.spec
            after = [parent.key for parent in spec.parents]
            after += [asking[spec.key]] if spec.key in asking else []
            tasks.append(_Task(spec.key, after, item.seconds_left, 2 * spec.depth))
        return sorted(tasks, key=lambda task: task.depth)

    def to_json(self) -> dict[str, Any]:
        """Totals and the same per table."""
        return {
            **self.counts().to_json(),
            "answers": [each.to_json() for each in self.answers],
            "tables": {name: self.counts(name).to_json() for name in self.tables},
        }


def make_plan(
    wanted: Mapping[str, Sequence[RunSpec]],
    *,
    progress: Mapping[str, Progress],
    cost: Callable[[RunSpec], Estimate],
) -> Plan:
    """The plan for `wanted` (table → runs); a teacher comes before its first student.

    A finished run is never planned again. A teacher that only finished students had is not planned at
    all; one whose weights are gone is planned again when an unfinished student needs them.
    """
    specs: dict[str, RunSpec] = {}
    users: dict[str, dict[str, None]] = {}
    asked = {spec.key for runs in wanted.values() for spec in runs}
    for table, runs in wanted.items():
        for spec in runs:
            for each in _with_parents(spec):
                specs.setdefault(each.key, each)
                users.setdefault(each.key, {})[table] = None
    order = _in_order(specs)
    needed = _needed_teachers(order, asked, progress)
    items: dict[str, Item] = {}
    for key, spec in order:
        seen = progress.get(key, TODO)
        if seen.status == "done" and key in needed:
            seen = TODO  # its result stands, but weights that must teach are gone
        if seen.status == "done" or key in asked or key in needed:
            items[key] = Item(spec, seen, cost(spec), tuple(users[key]))
    answers = []
    for group in asking_the_same([item.spec for item in items.values()]):
        if any(not items[spec.key].done for spec in group):
            answers.append(_shared_by([items[spec.key] for spec in group]))
            items.update((spec.key, replace(items[spec.key], shares_answers=True)) for spec in group)
    tables = {table: tuple(key for key in items if table in items[key].wanted_by) for table in wanted}
    return Plan(items, tables, tuple(answers))


def _shared_by(students: Sequence[Item]) -> SharedAnswers:
    """The answers these runs ask for; the one that is furthest has asked for all that it has seen."""
    first = students[0].spec.teacher
    assert first is not None
    epochs = max(item.spec.recipe.epochs for item in students)
    asked = max(item.spec.recipe.epochs * (1.0 if item.done else item.progress.share) for item in students)
    return SharedAnswers(
        teacher=first.network,
        teacher_key=first.run.key if isinstance(first, Teacher) else None,
        students=tuple(item.spec.key for item in students),
        epochs=epochs,
        disk_bytes=max(item.cost.answers_bytes for item in students),
        seconds_left=(1 - asked / epochs) * max(item.cost.asking_seconds for item in students),
    )


def asking_the_same(specs: Iterable[RunSpec]) -> list[list[RunSpec]]:
    """Groups of two runs and more that ask the same teacher about the same views.

    Only with one augmentation stream for all seeds; keeping the answers then saves asking again.
    """
    groups: dict[tuple[str, ...], list[RunSpec]] = {}
    for spec in specs:
        if spec.teacher is not None and spec.recipe.augment_stream == "shared":
            groups.setdefault(_question(spec, spec.teacher), []).append(spec)
    return [group for group in groups.values() if len(group) > 1]


def _question(spec: RunSpec, teacher: Teacher | ForeignTeacher) -> tuple[str, ...]:
    if isinstance(teacher, ForeignTeacher):
        weights: tuple[str, ...] = (teacher.network, teacher.digest)
    else:
        weights = (teacher.run.key, str(teacher.checkpoint))
    recipe = spec.recipe
    return (*weights, spec.dataset, recipe.augment, recipe.precision, str(recipe.holdout))


def _needed_teachers(
    order: Sequence[tuple[str, RunSpec]], asked: set[str], progress: Mapping[str, Progress]
) -> set[str]:
    """Keys of the runs to train because an unfinished student needs weights that are not there."""
    needed: set[str] = set()
    for key, spec in reversed(order):  # students first
        wanted = key in asked and progress.get(key, TODO).status != "done"
        if (wanted or key in needed) and isinstance(spec.teacher, Teacher):
            teacher = progress.get(spec.teacher.run.key, TODO)
            if teacher.status != "done" or spec.teacher.weights in teacher.missing:
                needed.add(spec.teacher.run.key)
    return needed


def _with_parents(spec: RunSpec) -> Iterable[RunSpec]:
    for parent in spec.parents:
        yield from _with_parents(parent)
    yield spec


def _in_order(specs: Mapping[str, RunSpec]) -> list[tuple[str, RunSpec]]:
    """Teachers before students: a stable sort by depth (a teacher of a teacher has depth 0)."""
    return sorted(specs.items(), key=lambda pair: pair[1].depth)


def _critical_path(tasks: Sequence[_Task]) -> float:
    ends: dict[str, float] = {}
    for task in tasks:
        ends[task.key] = max((ends.get(key, 0.0) for key in task.after), default=0.0) + task.seconds
    return max(ends.values(), default=0.0)


def _list_schedule(tasks: Sequence[_Task], slots: int) -> float:
    import heapq

    free = [0.0] * slots
    ends: dict[str, float] = {}
    for task in sorted(tasks, key=lambda task: (task.depth, -task.seconds)):
        ready = max((ends.get(key, 0.0) for key in task.after), default=0.0)
        parts = min(slots, task.parts)
        for _ in range(parts):
            end = max(heapq.heappop(free), ready) + task.seconds / parts
            heapq.heappush(free, end)
            ends[task.key] = max(end, ends.get(task.key, 0.0))
    return max(ends.values(), default=0.0)
