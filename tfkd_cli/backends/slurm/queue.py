"""What SLURM knows of our jobs: one `squeue`; for those that have ended, also their logs and records."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from tfkd_cli.backends.slurm import arrays, client
from tfkd_cli.errors import RunError
from tfkd_cli.regular_files import open_regular
from tfkd_cli.schema import NotNegative, Record
from tfkd_cli.store import files, reading

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.arrays import Array
    from tfkd_cli.store import Store

KEPT = "queue.json"
CACHE_SECONDS = 30.0  # five `tfkd status` windows are one squeue
LOG_BYTES = 4000  # of a job's log: its last words
FORMAT = "%i|%T|%r|%j"  # the name last: it alone may hold any character
_LINE = re.compile(r"(\d+(?:[_+]\S+)?)\|([A-Z_]+)\|([^|]*)\|(.*)")

VANISHED = "VANISHED"
# Ends of a job that nobody asked for: without a trace in the store, they are all there is to see.
DIED = frozenset(["FAILED", "OUT_OF_MEMORY", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "DEADLINE"])
# In any other state a job may still write something or start: it is not submitted again.
ENDED = DIED | {"COMPLETED", "CANCELLED", "PREEMPTED", "REVOKED", VANISHED}
WAITING = frozenset(["PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "PREEMPTED"])
NEVER = "DependencyNeverSatisfied"

# Reasons (or states) of jobs that will not start by themselves → what to do. "PerJob" limits are those of one
# job; a job at one of a user or group ("QOSMaxJobsPerUserLimit") starts when other jobs have ended.
_RELEASE = "`scontrol release {job}` lets it go"
_CHANGE = "change %s in the profile, then `tfkd cancel` the run and submit it again"
HELD = (
    (NEVER, "the run it waits for has failed: `tfkd retry` that one"),
    ("JobHeldAdmin", "an administrator holds it: ask the site"),
    ("JobHoldMaxRequeue", f"it was requeued too often: see `tfkd logs`, then {_RELEASE}"),
    (".*requeued.*held.*", f"it was requeued (`tfkd logs` and `sinfo -R` may say why): {_RELEASE}"),
    ("JobHeldUser|REQUEUE_HOLD|SPECIAL_EXIT", _RELEASE),
    ("RESV_DEL_HOLD|ReservationDeleted", _CHANGE % "the reservation"),
    ("PartitionTimeLimit|.*Max(Wall|.*Minutes).*PerJob.*", _CHANGE % "timeout_min"),
    ("MaxMemPerLimit|MaxMemoryPerNode|.*(Max|Min)Mem.*(PerJob|PerNode)?", _CHANGE % "mem_gb"),
    (".*MaxCpu.*(PerJob|PerNode).*|QOSMinCpuNotSatisfied", _CHANGE % "cpus_per_task"),
    (".*MaxGRES.*(PerJob|PerNode).*|QOSMinGRES", _CHANGE % "gpus_per_node"),
    ("PartitionNodeLimit|.*MaxNode.*PerJob.*", _CHANGE % "nodes"),
    ("PartitionConfig", _CHANGE % "cpus_per_task, mem_gb or slurm_partition"),
    ("BadConstraints", _CHANGE % "slurm_constraint"),
    (".*QOS ?Not ?Allowed|InvalidQOS|Job's QOS .*", _CHANGE % "slurm_qos"),
    ("AccountNotAllowed|InvalidAccount|Job's account .*", _CHANGE % "slurm_account or slurm_partition"),
)

# What a job's log says of its end, where SLURM's state is only FAILED, or is forgotten.
_ENDS = (
    (r"oom.?kill|out of memory|exceeded (?:job )?memory limit", "out of memory: ask for more (mem_gb)"),
    (r"DUE TO TIME LIMIT", "its time limit"),
    (r"DUE TO NODE FAILURE|NODE_FAIL", "its node failed"),
)
FAILURES = ("crash", "out of memory", "refused", "lost")  # causes of a life's end that mean a failed run


class QueueState(msgspec.Struct, frozen=True, array_like=True):
    """What SLURM says of one run: its state (`VANISHED`: nothing any more), the reason, the job's id."""

    state: str
    reason: str = ""
    job_id: str = ""

    @property
    def active(self) -> bool:
        """Whether the job waits, works or is about to; a cancelled or finished one does not."""
        return self.state not in ENDED

    @property
    def stuck(self) -> bool:
        """Whether it waits for a teacher that has failed, and will wait for ever."""
        return self.state == "PENDING" and self.reason == NEVER

    @property
    def status(self) -> Literal["running", "queued", "blocked", "died", "left"]:
        """The same in fewer words; a job that has `left` the queue is judged by the store alone."""
        if self.way_out:
            return "blocked"
        if self.state in WAITING:
            return "queued"
        if self.active:
            return "running"
        return "died" if self.state in DIED else "left"

    @property
    def told(self) -> str:
        """Why it is in this state, as `tfkd status` says it."""
        if self.status in ("died", "left"):
            return f"SLURM: {self.state}" + (f", {self.reason}" if self.reason else "")
        return self.way_out or self.reason

    @property
    def way_out(self) -> str:
        """For a job that will not start by itself: why not, and what to do; else empty."""
        cause = self.reason if self.state == "PENDING" else self.state
        for pattern, what in HELD:
            if re.fullmatch(pattern, cause, re.IGNORECASE):
                return f"SLURM holds job {self.job_id} ({cause}): {what.format(job=self.job_id)}"
        return ""


class _Kept(Record):
    """`submissions/queue.json`: what SLURM last said of each job (`<array>_<index>`), and when."""

    asked: NotNegative = 0.0
    jobs: dict[str, QueueState] = msgspec.field(default_factory=dict)


class Queue(dict[str, QueueState]):
    """Folder of a run → its newest job; `error` when SLURM did not answer just now."""

    error = ""


def queue_states(store: Store, *, fresh: bool = False) -> Queue:
    """The jobs of all runs of this store.

    Never raises because SLURM is silent: the last known states come back; the error says how old they are.
    """
    known = [each for each in arrays.known_arrays(store) if each.job]
    if not known:
        return Queue()
    kept = _read_kept(store)
    age = time.time() - kept.asked
    found = _by_run(known, kept.jobs)
    if not kept.jobs or fresh or not 0 <= age < CACHE_SECONDS:
        try:
            return look(store, known, ask_jobs())
        except RunError as silent:
            shown = f"What it said {age:.0f} s ago is shown." if found else "Nothing is known of the jobs."
            found.error = f"{silent.what} {shown}"
    return found


Jobs = Mapping[str, tuple[str, QueueState]]
"""Id of a job or element → (its name, its state)."""


def ask_jobs() -> Jobs:
    """All of the user's jobs that slurmctld remembers; SlurmError when it does not answer."""
    return parse_squeue(client.ask(["squeue", "-h", "-r", "--me", "-t", "all", "-o", FORMAT]))


def parse_squeue(text: str) -> Jobs:
    """Lines of `squeue -r -o FORMAT`; RunError for a line that is none, for what it hides may be ours."""
    jobs = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("CLUSTER: "):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise RunError(
                f"squeue printed a line that is none of its format: {line.strip()[:200]!r}.",
                expected=f"lines of `squeue -h -r --me -t all -o '{FORMAT}'`.",
                hint="nothing was submitted: a job that is overlooked would be submitted twice.",
            )
        job_id, state, reason, name = match.groups()
        jobs[job_id] = (name, QueueState(state, "" if reason == "None" else reason, job_id))
    return jobs


def look(store: Store, known: Sequence[Array], jobs: Jobs) -> Queue:
    """The newest job of each run, from what squeue says; SLURM forgets ended jobs, the store does not."""
    ended = {key: each for key, each in _read_kept(store).jobs.items() if not each.active}
    states: dict[str, QueueState] = {}
    for array in known:
        for index, job_id in enumerate(array.ids):
            key = f"{array.name}_{index}"
            name, state = jobs.get(job_id, ("", None))
            if state is None or name != array.name:  # a new cluster counts ids from 1 again
                state = ended.get(key, QueueState(VANISHED, "", job_id))
            states[key] = state if state.active else _explained(state, store, array, index)
    _keep(store, _Kept(asked=time.time(), jobs=states))
    return _by_run(known, states)


def _by_run(known: Sequence[Array], states: Mapping[str, QueueState]) -> Queue:
    """The newest job of a run speaks for it, unless an older one is still at work."""
    found = Queue()
    for array in known:  # oldest first
        for index, pack in enumerate(array.packs):
            state = states.get(f"{array.name}_{index}")
            for run in pack:
                if state and (state.active or run not in found or not found[run].active):
                    found[run] = state
    return found


def _explained(state: QueueState, store: Store, array: Array, index: int) -> QueueState:
    """The end of a job, with what its log and the job itself say of it.

    Through srun a job killed for its memory is only FAILED, and SLURM soon forgets a job.
    """
    vanished = state.state == VANISHED
    done = all((store.runs_path / folder / "result.json").exists() for folder in array.packs[index])
    if state.state == "COMPLETED" or (vanished and done):
        return state
    log = _last_words(array.log_of(state.job_id), below=store.root)
    lives = arrays.read_lives(array.folder, array.first + index)
    failed, cause = False, ""
    if lives and lives[-1].get("event") == "began":
        failed, cause = True, "it was killed, or its node died, and it could not say why"
    elif lives:
        failed = lives[-1].get("cause") in FAILURES
        cause = f"its job ended: {lives[-1].get('cause')}"
    elif log is not None:  # it has started; srun's own last line says only that a task has ended
        said = [line for line in log.splitlines() if not re.match(r"srun: error: \S+: tasks? ", line)]
        failed = "CANCELLED AT" not in log
        cause = "it ended before its run began" + (f": {said[-1][:200]}" if said else "")
    if vanished and failed:
        state = msgspec.structs.replace(state, state="FAILED")
    why = next((why for pattern, why in _ENDS if re.search(pattern, log or "", re.IGNORECASE)), "")
    if state.state in (VANISHED, "FAILED"):
        why = why or cause
    return msgspec.structs.replace(state, reason=why) if why else state


def _last_words(log: Path, *, below: Path) -> str | None:
    """The end of a job's log; None where there is none: the job never started."""
    with contextlib.suppress(OSError), open_regular(log, below=below) as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - LOG_BYTES))
        return stream.read(LOG_BYTES).decode(errors="replace").strip()
    return None


def forget(store: Store) -> None:
    """Let the next look ask SLURM: something was just changed."""
    _keep(store, _Kept(jobs=_read_kept(store).jobs))


def _keep(store: Store, kept: _Kept) -> None:
    with contextlib.suppress(OSError, RunError):  # a read-only store still has a status
        data = files.encode_json(msgspec.to_builtins(kept), indent=None)
        files.write_atomic(store.root / "submissions" / KEPT, data)


def _read_kept(store: Store) -> _Kept:
    """What `_keep` wrote; nothing where that cannot be read."""
    with contextlib.suppress(RunError):
        kept: _Kept | None = reading.read_as(store.root / "submissions" / KEPT, _Kept, limit=64 << 20)
        return kept or _Kept()
    return _Kept()
