"""What to do when a job ends before its runs do. Pure: the cause and the job's past come in as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tfkd_cli.training import worker

Cause = Literal[
    "time limit",
    "preemption",
    "cancelled",
    "crash",
    "out of memory",
    "lost",
    "orphaned",
    "done",
    "blocked",
    "refused",
]

# Causes after which a job comes back, as long as it makes progress. "lost": a node died, or something killed
# the job without a word; SLURM brings it back itself.
COME_BACK: frozenset[Cause] = frozenset({"time limit", "preemption", "crash", "lost"})
EXIT_CODES: Mapping[Cause, int] = {"cancelled": worker.CANCELLED, "orphaned": worker.TRY_AGAIN}
FRUITLESS = 2  # ends in a row without a newer checkpoint, after which a job is stopped


@dataclass(frozen=True)
class Verdict:
    """Requeue or not, the exit code (0 is for a durable result only), and why a job is given up."""

    requeue: bool
    exit_code: int
    given_up: str = ""


def decide(cause: Cause, steps: Sequence[int]) -> Verdict:
    """What follows from an end by `cause`.

    `steps` are those of the newest checkpoint: when the job began for the first time, and at each end but
    preemptions: a preempted run has saved, and without a newer checkpoint had no time for one step.
    """
    if cause not in COME_BACK:
        return Verdict(requeue=False, exit_code=EXIT_CODES.get(cause, worker.CRASHED))
    if cause != "preemption" and len(steps) > FRUITLESS and steps[-1] <= steps[-1 - FRUITLESS]:
        why = f"{FRUITLESS} attempts in a row ended ({cause}) without a newer checkpoint"
        # A crash has left its own words, which say more.
        return Verdict(requeue=False, exit_code=worker.CRASHED, given_up="" if cause == "crash" else why)
    return Verdict(requeue=True, exit_code=worker.TRY_AGAIN)


def cause_of_stop(reason: str, shown: Mapping[str, str], *, restarts: int = 0) -> Cause:
    """Why SLURM sent the signal behind `reason`; `shown` is `scontrol show job`, empty without an answer.

    Preemption on a cluster with default settings is a bare SIGTERM like that of scancel. With a GraceTime the
    job's PreemptTime tells them apart; without one SLURM has requeued it already: its Restarts are more than
    the `restarts` this life began with.
    """
    if reason not in (worker.ASKED, worker.TERMINATED):
        return "orphaned"
    if shown.get("PreemptTime", "None") not in ("None", "(null)", "Unknown", ""):
        return "preemption"
    if int(shown.get("Restarts", "0")) > restarts:
        return "preemption"
    if reason == worker.ASKED or shown.get("Reason") == "TimeLimit":
        return "time limit"
    return "cancelled"
