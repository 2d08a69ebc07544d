"""What a backend hands to its workers: the runs of each job and how they execute, as JSON in the store.

    submissions/<id>/submission.json   backend, time, execution settings; profile and staged code for SLURM
    submissions/<id>/jobs/0000.json    the runs of 200 jobs

A run's spec is part of its job, so that a submission makes no folder of a run: 1,000 folders, each forced
to the disk, would take 15 s.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from tfkd_cli import schema
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.plan import PlannedRun
from tfkd_cli.schema import FileName, Record
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store, files, reading
from tfkd_cli.training import provenance

JOBS_PER_FILE = 200


class JobRun(NamedTuple):
    """A run of a job, as the plan has decided it (`plan.PlannedRun`)."""

    spec: RunSpec
    weights: tuple[str, ...]  # that it must have in the end; if finished, it is trained again for them
    caches_logits: bool


class _JobRun(Record):
    """A JobRun in jobs/0000.json."""

    spec: dict[str, Any]
    weights: tuple[FileName, ...]
    caches_logits: bool


_Pack = Annotated[list[_JobRun], schema.Meta(min_length=1)]


class _Submission(msgspec.Struct):
    """submission.json: what a worker needs of it."""

    schema: Literal[2]
    execution: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A worker's share of a submission: one run, or several that share a job."""

    store: Store
    submission: str
    index: str
    execution: Execution
    runs: tuple[JobRun, ...]

    @property
    def folders(self) -> tuple[str, ...]:
        """The names of the folders of its runs."""
        return tuple(run.spec.folder for run in self.runs)


def write(
    jobs: Sequence[Sequence[PlannedRun]], *, store: Store, execution: Execution, backend: str, **more: str
) -> str:
    """Write down what workers are to do, the runs of each job; the submission's id.

    `more` is stored beside it: the profile, the staged code.
    """
    created = provenance.now()
    name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:10]}"
    folder = store.submission_path(name)
    files.make_folder(folder / "jobs")
    settings = {"schema": 2, "backend": backend, **more, "created": created, "execution": execution.to_json()}
    files.create_once(folder / "submission.json", files.encode_json(settings))
    for start in range(0, len(jobs), JOBS_PER_FILE):
        chunk = [[_encoded(run) for run in runs] for runs in jobs[start : start + JOBS_PER_FILE]]
        files.create_once(_jobs_path(folder, start), files.encode_json(chunk, indent=None))
    return name


def _encoded(run: PlannedRun) -> dict[str, Any]:
    return {"spec": run.spec.to_json(), "weights": run.weights, "caches_logits": run.caches_logits}


def read_job(store: str, submission: str, index: str) -> Job:
    """The job at `index` of a submission; `3.1` is the second run of job 3 alone.

    RequestError when there is none, or the class of a loss cannot be imported; DamagedFile when the
    submission's files cannot be believed.
    """
    opened = Store.open(Path(store), create=False)
    folder = opened.submission_path(submission)
    settings: _Submission | None = reading.read_as(folder / "submission.json", _Submission)
    if settings is None:
        raise RequestError(f'no submission "{submission}" in {opened.root}.')
    place, _, member = index.partition(".")
    try:
        if not re.fullmatch(r"[0-9]+(\.[0-9]+)?", index):
            raise ValueError
        path = _jobs_path(folder, int(place))
        packs = reading.read_as(path, list[_Pack], limit=reading.LINES_LIMIT) or []
        pack = packs[int(place) % JOBS_PER_FILE]
        chosen = [pack[int(member)]] if member else pack
    except (IndexError, ValueError) as error:
        raise RequestError(
            f"submission {submission} has no run {index}.", expected="a job that a backend of tfkd wrote."
        ) from error
    with reading.found_in(path):
        runs = tuple(JobRun(RunSpec.from_json(r.spec), r.weights, r.caches_logits) for r in chosen)
    for run in runs:
        if run.spec.loss.missing is not None:
            raise run.spec.loss.missing
    with reading.found_in(folder / "submission.json"):
        execution = Execution.from_json(settings.execution)
    threads = execution.threads or max(1, provenance.cores() // max(1, len(pack)))
    execution = replace(execution, threads=threads)
    return Job(store=opened, submission=submission, index=index, execution=execution, runs=runs)


def _jobs_path(folder: Path, index: int) -> Path:
    return folder / "jobs" / f"{index // JOBS_PER_FILE:04d}.json"
