"""What a SLURM job calls, by reference and with three strings: the worker, and what follows from its end.

SLURM may start a job many times; each start and end is a line in `lives/<index>.jsonl`, and `comes_back`
says from these lines whether there is another.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

from tfkd_cli.backends.slurm import arrays, client
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.errors import TfkdError
from tfkd_cli.store import attempts, files, lease
from tfkd_cli.training import provenance, submission, worker
from tfkd_cli.training.submission import Job

# Until a result written on another node is seen here: NFS keeps attributes for a minute.
PARENT_SECONDS = 90.0
DONE_STEP = 1 << 40  # a finished run is further than any checkpoint

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
EXIT_CODES: Mapping[Cause, int] = {"cancelled": worker.CANCELLED, "orphaned": worker.TRY_AGAIN}  # or CRASHED
FRUITLESS = 2  # ends in a row without a newer checkpoint, after which a job is stopped


def main(store: str, name: str, index: str) -> NoReturn:
    """Do the runs of job `index` of submission `name`. SystemExit leaves no result pickle of submitit behind:
    result.json is the only proof, and a pickle cut short by a kill would fail every later attempt."""
    os.environ[lease.JOB_VARIABLE] = job_id()
    _name_ranks()
    code = _main(store, name, index)
    # A warning in the last moment, when Python has removed its handlers, must not fail a finished job.
    for number in worker.HEARD:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _main(store: str, name: str, index: str) -> int:
    stop = worker.Stop()
    stop.listen()  # first of all: submitit's own handlers ignore SIGTERM
    try:
        job = submission.read_job(store, name, index)
        lives = Lives(job)
    except TfkdError as error:
        print(error, file=sys.stderr)
        return worker.BAD_SPEC
    decides = not worker.rank()  # rank 0: what follows from the end of a run
    if decides and not lives.begin():
        return worker.CRASHED
    try:
        _wait_for_parents(job, stop)
        code = worker.do(job, stop=stop, on_stop=lives.stopped if decides else lambda reason: worker.DONE)
    except TfkdError as error:
        print(error, file=sys.stderr)
        code = worker.BAD_SPEC
    return lives.ended(code) if decides else code


def _name_ranks() -> None:
    """Set what torchrun would set for this task of the job; which GPUs it may see is SLURM's choice."""
    if int(os.environ.get("SLURM_NTASKS") or 1) > 1:
        from submitit.helpers import TorchDistributedEnvironment

        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    else:
        os.environ.update(RANK="0", WORLD_SIZE="1")


def _wait_for_parents(job: Job, stop: worker.Stop) -> None:
    """SLURM says they are done; give the file system time to show it."""
    deadline = time.monotonic() + PARENT_SECONDS
    for run in job.runs:
        for parent in run.spec.parents:
            while job.store.run(parent).state().status in ("running", "resumable") and not stop():
                if time.monotonic() > deadline:
                    return
                time.sleep(1)


class Lives:
    """The past of one job of a submission, and what follows from it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._folder = job.store.submission_path(job.submission)
        files.make_folder(self._folder / "lives")

    def begin(self) -> bool:
        """Note that a life begins; False when the last one ended without a word and no other shall be."""
        lines = self._lines()
        if lines and lines[-1].get("event") == "began" and not self._end("lost"):
            return False
        self._note("began", cause="")
        return True

    def stopped(self, reason: str) -> int:
        """The policy for a signal, called when the state is saved; the exit code."""
        if all(self._step_of(name) == DONE_STEP for name in self._job.folders):
            return self.ended(worker.DONE)
        return self._leave(cause_of_stop(reason, show_job(), restarts=restarts()))

    def ended(self, code: int) -> int:
        """A worker that is done, blocked, or was stopped by the policy above: its code. Or it raised."""
        if self._lines()[-1].get("event") == "ended":
            return code
        if code == worker.CRASHED:
            return self._leave(self._cause_of_crash())
        self._note("ended", cause={worker.DONE: "done", worker.TRY_AGAIN: "blocked"}.get(code, "refused"))
        return code

    def _cause_of_crash(self) -> Cause:
        kinds = [(self._job.store.folder(name).failure() or {}).get("kind", "") for name in self._job.folders]
        if "MemoryError" in kinds or "OutOfMemoryError" in kinds:
            return "out of memory"
        # Our own errors name what the user must change; the same again would end the same.
        ours = kinds and all(kind in ("", "RunError", "RequestError", "DamagedFile") for kind in kinds)
        return "refused" if ours and any(kinds) else "crash"

    def _leave(self, cause: Cause) -> int:
        if self._end(cause):
            requeue()
            return worker.TRY_AGAIN
        return EXIT_CODES.get(cause, worker.CRASHED)

    def _end(self, cause: Cause) -> bool:
        """Note the end of a life; whether the job comes back. Where it is given up, `status` shows why."""
        self._note("ended", cause=cause)
        first, *later = self._lines()
        ends = [line for line in later if line.get("event") == "ended" and line["cause"] != "preemption"]
        back = comes_back(cause, [int(line["step"]) for line in (first, *ends)])
        if not back and cause in COME_BACK and cause != "crash":  # a crash has left its own words
            message = f"given up: {FRUITLESS} attempts in a row ended ({cause}) without a newer checkpoint."
            print(message, file=sys.stderr)
            failure = {"kind": "GivenUp", "message": message, "at": provenance.now(), "job": job_id()}
            for folder in map(self._job.store.folder, self._job.folders):
                if folder.attempts() and folder.result() is None:
                    files.write_atomic(folder.attempts()[-1] / attempts.FAILURE, files.encode_json(failure))
        return back

    def _note(self, event: str, *, cause: str) -> None:
        line = {
            "event": event,
            "cause": cause,
            "step": sum(self._step_of(name) for name in self._job.folders),
            "job": job_id(),
            "restart": restarts(),
            "node": os.environ.get("SLURMD_NODENAME", ""),
            "at": provenance.now(),
        }
        path = arrays.lives_path(self._folder, int(self._job.index))
        files.append(path, files.encode_json(line, indent=None))

    def _lines(self) -> list[dict[str, Any]]:
        return arrays.read_lives(self._folder, int(self._job.index))

    def _step_of(self, name: str) -> int:
        """How far a run is: the step of its newest checkpoint."""
        folder = self._job.store.folder(name)
        if folder.state().status == "done":
            return DONE_STEP
        saved = attempts.all_states(folder.path)
        return saved[0].step if saved else 0


def comes_back(cause: Cause, steps: Sequence[int]) -> bool:
    """Whether SLURM is asked to start a job again that has ended by `cause`.

    `steps` are those of the newest checkpoint: when the job began for the first time, and at each end but
    preemptions: a preempted run has saved, and without a newer checkpoint had no time for one step.
    """
    fruitless = len(steps) > FRUITLESS and steps[-1] <= steps[-1 - FRUITLESS]
    return cause == "preemption" or (cause in COME_BACK and not fruitless)


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


def job_id() -> str:
    """This job as scontrol takes it: an element of an array is named by array and index."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def restarts() -> int:
    """How often SLURM has started this job again."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def show_job() -> dict[str, str]:
    """What `scontrol show job` says of this job; nothing when it does not answer."""
    try:
        text = client.ask(["scontrol", "show", "job", job_id(), "-o"])
    except SlurmError as error:
        print(error, file=sys.stderr)
        return {}
    return dict(pair.split("=", 1) for pair in text.split() if "=" in pair)


def requeue() -> None:
    """Ask SLURM to start this job again; where it refuses, the next `reproduce` goes on."""
    try:
        client.ask(["scontrol", "requeue", job_id()])
        print(f"requeued job {job_id()}", file=sys.stderr)
    except SlurmError as error:
        # "pending execution": SLURM is requeueing it already (preemption without grace).
        print(f"not requeued: {error.sentence}", file=sys.stderr)
