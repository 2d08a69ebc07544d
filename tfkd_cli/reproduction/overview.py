"""What was asked and how far it is: derived from requests, the store and the queue at each look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from tfkd_cli.errors import TfkdError
from tfkd_cli.execution import Execution
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import DamagedFile, RunState, Store
from tfkd_cli.store.run_state import found_in

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.queue import QueueState

Shown = Literal["done", "running", "queued", "blocked", "failed", "damaged", "todo"]
SHOWN: tuple[Shown, ...] = get_args(Shown)
STOPPED = ("failed", "damaged", "blocked")
"""Their students wait."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run as `status` shows it."""

    run: str  # its folder's name
    key: str
    status: Shown
    tables: tuple[str, ...]
    title: str = ""  # `cifar100 · resnet8 · kd from resnet20 · s1`
    epoch: int | None = None
    epochs: int | None = None
    age_seconds: float | None = None  # of what a running run last said of itself
    best_accuracy: float | None = None
    attempts: int = 0
    message: str = ""  # why it failed, what blocks it, what the queue says
    job: str | None = None  # SLURM's id, as 12_3
    teachers: tuple[str, ...] = ()  # folders of the runs it needs


@dataclass(frozen=True)
class Overview:
    """All runs that were asked for, and how many are in which state."""

    runs: tuple[RunStatus, ...]
    seconds_left: float
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many runs in each state."""
        found = Counter(each.status for each in self.runs)
        return {status: found[status] for status in SHOWN}

    def to_json(self) -> dict[str, Any]:
        """The documented shape of `status --json`."""
        runs = [asdict(each) for each in self.runs]
        return {
            "counts": self.counts,
            "seconds_left": round(self.seconds_left),
            "runs": runs,
            "notes": list(self.notes),
        }


def campaigns(store: Store, execution: Execution, *, device: str = "cpu") -> tuple[list[Campaign], list[str]]:
    """A campaign for each distinct request in the store, newest first, and notes on unreadable ones.

    Requests that differ in their seeds only are one campaign over all of them.
    """
    found: dict[str, Campaign] = {}
    notes = store.unreadable_requests()
    for record in reversed(store.requests()):
        try:
            request = requests.from_json(record, execution=execution)
            _ = request.specs  # what it asks for exists
        except TfkdError as error:
            path = store.root / "requests" / f"{record['id']}.json"
            notes.append(str(DamagedFile(path, error.what, expected=error.expected, hint=error.hint)))
            continue
        typed = tuple(filter(None, [record.get("command")]))
        campaign = Campaign(request, store, execution, device=device, commands=typed)
        same = requests.identity(request)
        found[same] = found[same].joined(campaign) if same in found else campaign
    return list(found.values()), notes


def overview(
    made: Sequence[Campaign],
    states: Mapping[str, RunState],
    *,
    queue: Mapping[str, QueueState] | None = None,
    names: Sequence[str] = (),
    notes: Sequence[str] = (),
    called: Mapping[str, str] | None = None,
) -> Overview:
    """The runs of these campaigns (of the tables called `names`, if any), teachers before students.

    `called`: data set → what to call it.
    """
    specs: dict[str, RunSpec] = {}
    tables: dict[str, dict[str, None]] = {}
    seconds = 0.0
    for campaign in made:
        plan = campaign.plan(states)
        for key, item in plan.runs.items():
            wanted_by = [each for each in item.wanted_by if not names or each in names]
            if wanted_by and key not in specs:
                specs[key] = item.spec
                seconds += item.seconds_left
            if wanted_by:
                tables.setdefault(key, {}).update(dict.fromkeys(wanted_by))
    shown: dict[str, RunStatus] = {}
    for key, spec in specs.items():
        queued = (queue or {}).get(spec.folder)
        shown[key] = _status(spec, found_in(states, key), queued, shown, tuple(tables[key]), called)
    return Overview(tuple(shown.values()), seconds, tuple(notes))


def outdated(specs: Iterable[RunSpec]) -> list[str]:
    """Notes on how many of these runs an older trainer version made."""
    by_version = Counter((spec.trainer, spec.outdated) for spec in specs if spec.outdated)
    return [
        f"{count} run{'s' * (count > 1)} here {'were' if count > 1 else 'was'} {words}. "
        f"`tfkd runs --where trainer={trainer}` lists them."
        for (trainer, words), count in sorted(by_version.items())
    ]


def one_run(
    store: Store, spec: RunSpec, *, queue: Mapping[str, QueueState], notes: Sequence[str] = ()
) -> Overview:
    """The overview of a single run."""
    state = store.scan([spec.key])[spec.key]
    return Overview((_status(spec, state, queue.get(spec.folder), {}, (), None),), 0.0, tuple(notes))


def _status(
    spec: RunSpec,
    state: RunState | None,
    queued: QueueState | None,
    before: Mapping[str, RunStatus],
    tables: tuple[str, ...],
    called: Mapping[str, str] | None,
) -> RunStatus:
    status, message = _shown(spec, state, queued, before)
    message = message or spec.outdated
    result = state.result if state else None
    return RunStatus(
        run=spec.folder,
        key=spec.key,
        status=status,
        tables=tables,
        title=spec.title(called),
        epoch=spec.recipe.epochs if status == "done" else state.epoch if state else None,
        epochs=spec.recipe.epochs,
        age_seconds=round(state.heartbeat_age, 1) if state and state.heartbeat_age is not None else None,
        best_accuracy=result["best"]["accuracy"] if result else None,
        attempts=state.attempts if state else 0,
        message=message,
        job=queued.job_id if queued else None,
        teachers=tuple(parent.folder for parent in spec.parents),
    )


def _shown(
    spec: RunSpec, state: RunState | None, queued: QueueState | None, before: Mapping[str, RunStatus]
) -> tuple[Shown, str]:
    """The state of one run: the store first, then the queue, then its teachers."""
    known = state.status if state else "todo"
    if known == "done":
        return "done", ""
    if known == "running" or (queued and queued.status == "running"):
        return "running", ""
    for parent in spec.parents:
        teacher = before.get(parent.key)
        if teacher is not None and teacher.status in STOPPED:
            return "blocked", f"its teacher {teacher.run} is {teacher.status}"
    if queued and queued.status in ("queued", "blocked"):
        return "queued" if queued.status == "queued" else "blocked", queued.told
    if known == "damaged" and state is not None:
        return "damaged", state.damage
    if known == "failed" and state is not None:
        return "failed", str((state.failure or {}).get("message", "failed"))
    told = queued.told if queued else ""
    if known == "resumable":
        return "todo", f"resumable; {told}" if told else "resumable"
    return "failed" if queued and queued.status == "died" else "todo", told
