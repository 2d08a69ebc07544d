"""What SLURM knows of our jobs: one `squeue` for all, `sacct` only for those it has forgotten."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.backends.slurm import client, records
from tfkd_cli.errors import RunError
from tfkd_cli.store import files, reading

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.records import Array
    from tfkd_cli.backends.slurm.site import Site
    from tfkd_cli.store import Store

CACHE_SECONDS = 30.0  # five `tfkd status` windows are one squeue
SACCT_IDS = 200  # sacct was seen to hang above that
FORMAT = "%i|%j|%T|%r|%E"

# States in which a job may still write something or start: it is not submitted again.
_ACTIVE = """PENDING RUNNING CONFIGURING COMPLETING SUSPENDED STOPPED SIGNALING STAGE_OUT RESIZING REQUEUED
REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT RESV_DEL_HOLD"""
ACTIVE = frozenset(_ACTIVE.split())
VANISHED = "VANISHED"
_KILLED = frozenset(["FAILED", "OUT_OF_MEMORY"])
_MEMORY = re.compile(r"oom.?kill|out of memory|exceeded (?:job )?memory limit", re.IGNORECASE)
NEVER = "DependencyNeverSatisfied"


@dataclass(frozen=True)
class QueueState:
    """What SLURM says of one run: its state (`VANISHED`: nothing any more), the reason, the job's id."""

    state: str
    reason: str = ""
    job_id: str = ""
    dependency: str = ""

    @property
    def active(self) -> bool:
        """Whether the job waits, works or is about to; a cancelled or finished one does not."""
        return self.state in ACTIVE

    @property
    def stuck(self) -> bool:
        """Whether it waits for a teacher that has failed, and will wait for ever."""
        return self.state == "PENDING" and self.reason == NEVER


class Queue(Mapping[str, QueueState]):
    """Folder of a run → its newest job; `age_seconds` old, and `error` when SLURM did not answer just now."""

    def __init__(
        self, states: Mapping[str, QueueState], *, age_seconds: float = 0.0, error: str = ""
    ) -> None:
        self._states = dict(states)
        self.age_seconds = age_seconds
        self.error = error

    def __getitem__(self, folder: str) -> QueueState:
        return self._states[folder]

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)


def queue_states(store: Store, *, fresh: bool = False, done: Iterable[str] = ()) -> Queue:
    """The jobs of all runs of this store; `sacct` is not asked for runs in `done` (folders with a result).

    Never raises because SLURM is silent: the last known states come back, with their age and the error.
    """
    arrays = [each for each in records.known_arrays(store) if each.sent]
    if not arrays:
        return Queue({})
    kept = _read_cache(store)
    if kept is not None and not fresh and 0 <= kept.age_seconds < CACHE_SECONDS:
        return kept
    try:
        states = look(arrays, done=frozenset(done))
    except RunError as error:
        return Queue(kept or {}, age_seconds=kept.age_seconds if kept else 0.0, error=error.what)
    _write_cache(store, states)
    return Queue(states)


def look(arrays: Sequence[Array], *, done: frozenset[str] = frozenset()) -> dict[str, QueueState]:
    """Ask SLURM now; SlurmError when slurmctld does not answer."""
    jobs = parse_squeue(client.ask(["squeue", "-h", "-r", "--me", "-t", "all", "-o", FORMAT]))
    states: dict[str, QueueState] = {}
    for array in arrays:  # oldest first
        for element, pack in zip(array.sent, array.packs, strict=True):
            name, found = jobs.get(element, ("", None))
            # A new cluster counts ids from 1 again: only the name says that a job is ours.
            state = found if found is not None and name == array.name else QueueState(VANISHED, "", element)
            if state.state in _KILLED:
                state = _with_reason(state, array.log_of(element))
            for folder in pack:
                # The newest job of a run speaks for it, unless an older one is still at work.
                if state.active or not (folder in states and states[folder].active):
                    states[folder] = state
    lost = {f: s.job_id for f, s in states.items() if s.state == VANISHED and f not in done}
    return {**states, **_forgotten(lost)}


def _with_reason(state: QueueState, log: Path) -> QueueState:
    """Through srun a job killed for its memory is only FAILED; its log says why."""
    with contextlib.suppress(OSError):
        told = log.read_bytes()[-2000:].decode(errors="replace")
        if _MEMORY.search(told):
            return replace(state, reason="out of memory: ask for more (mem_gb)")
    return state


def parse_squeue(text: str) -> dict[str, tuple[str, QueueState]]:
    """Lines of `squeue -r -o FORMAT`: id → (name, state)."""
    jobs = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) == 5:
            job_id, name, state, reason, dependency = fields
            jobs[job_id] = (name, QueueState(state, _said(reason), job_id, _said(dependency)))
    return jobs


def _said(text: str) -> str:
    return "" if text in ("None", "(null)") else text


def _forgotten(vanished: Mapping[str, str]) -> dict[str, QueueState]:
    """What accounting remembers of ids that squeue has forgotten; nothing where there is no accounting."""
    states: dict[str, QueueState] = {}
    bases = sorted({job_id.split("_")[0] for job_id in vanished.values()}, key=int)
    for start in range(0, len(bases), SACCT_IDS):
        with contextlib.suppress(client.SlurmError):
            chunk = ",".join(bases[start : start + SACCT_IDS])
            rows = parse_sacct(
                client.ask(["sacct", "-X", "-n", "--parsable2", "-o", "JobID,State,ExitCode", "-j", chunk])
            )
            states.update({folder: rows[job_id] for folder, job_id in vanished.items() if job_id in rows})
    return {folder: state for folder, state in states.items() if not state.active}


def parse_sacct(text: str) -> dict[str, QueueState]:
    """Lines of `sacct -X --parsable2 -o JobID,State,ExitCode`; `CANCELLED by 0` is CANCELLED."""
    rows = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) == 3 and fields[1]:
            reason = "" if fields[2] in ("", "0:0") else f"exit {fields[2]}"
            rows[fields[0]] = QueueState(fields[1].split()[0], reason, fields[0])
    return rows


def find_by_name(name: str) -> list[str]:
    """The ids of a job or array by its name, whatever its state (`12`, or `12_0`, …); [] when unknown."""
    lines = client.ask(
        ["squeue", "-h", "-r", "--me", "-t", "all", "--name", name, "-o", "%i|%j"]
    ).splitlines()
    return [line.split("|")[0].strip() for line in lines if line.strip().endswith(f"|{name}")]


def room(jobs: int, here: Site) -> int:
    """How many of `jobs` slurmctld can take; it is asked only where that may be less than all.

    At MaxJobCount sbatch does not refuse: it "sleeps and retries" for two minutes first.
    """
    if jobs <= here.max_jobs // 4:
        return jobs
    kept = len(client.ask(["squeue", "-h", "-r", "-t", "all", "-o", "%i"]).splitlines())
    return max(0, min(jobs, here.max_jobs - 1 - kept))  # 22.05 takes none that makes it MaxJobCount


def forget(store: Store) -> None:
    """Let the next look ask SLURM: something was just changed."""
    with contextlib.suppress(OSError):
        _cache_path(store).unlink(missing_ok=True)


def _cache_path(store: Store) -> Path:
    return store.root / "submissions" / "queue.json"


def _write_cache(store: Store, states: Mapping[str, QueueState]) -> None:
    rows = {
        folder: [each.state, each.reason, each.job_id, each.dependency] for folder, each in states.items()
    }
    with contextlib.suppress(OSError, RunError):  # a read-only store still has a status
        files.write_hint(
            _cache_path(store), files.encode_json({"asked": time.time(), "jobs": rows}, indent=None)
        )


def _read_cache(store: Store) -> Queue | None:
    try:
        data: Any = reading.read_object(_cache_path(store), limit=64 << 20)
        states = {folder: QueueState(*map(str, row)) for folder, row in data["jobs"].items()}
        return Queue(states, age_seconds=time.time() - float(data["asked"]))
    except (RunError, KeyError, TypeError, ValueError, AttributeError):
        return None
