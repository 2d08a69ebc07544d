"""Runs → jobs → arrays: what is written down of each array, and which of its jobs waits for which.

    submissions/<id>/…                    runs and execution settings (`training.submission`)
    submissions/<id>/arrays/0001.json     intent, written before sbatch: which jobs, what they wait for
    submissions/<id>/arrays/0001.sent     the job id that sbatch gave
    submissions/<id>/arrays/0001.released the array was on hold; its dependencies are set and it may start
    submissions/<id>/array-0001/          submitit's folder: script, pickles, logs
    submissions/<id>/lives/3.jsonl        each start and end of the job with index 3, as the job notes them

All are written once; a crash in between is repaired from SLURM's own list of names.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from tfkd_cli.backends.slurm import client
from tfkd_cli.backends.slurm.site import LEAST_MINUTES
from tfkd_cli.errors import RunError
from tfkd_cli.plan import PlannedRun
from tfkd_cli.schema import Count, Meta, Record
from tfkd_cli.store import files, reading

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.queue import QueueState
    from tfkd_cli.store import Store

Pack = tuple[PlannedRun, ...]
"""The runs of one job."""


class _Intent(Record):
    """`arrays/0001.json`."""

    packs: Annotated[tuple[tuple[str, ...], ...], Meta(min_length=1)]
    after: tuple[tuple[str, ...], ...]
    first: Count


_JobId = Annotated[str, Meta(pattern=r"\A\d+\Z")]
"""`arrays/0001.sent`."""


@dataclass(kw_only=True)
class Array:
    """One sbatch call: a SLURM array, or a single job when it has one element."""

    folder: Path  # of the submission
    number: int
    packs: tuple[tuple[str, ...], ...]  # folders of the runs of each element
    after: tuple[tuple[str, ...], ...] = ()  # folders each element waits for
    first: int = 0  # index of the first element among the submission's jobs
    job: str = ""  # SLURM's id of the whole array; empty before sbatch answered

    @property
    def name(self) -> str:
        """The job's name in SLURM: unique, so that a crash never submits twice."""
        return f"tfkd-{self.folder.name}-{self.number:04d}"

    @property
    def job_folder(self) -> Path:
        """submitit's folder."""
        return self.folder / f"array-{self.number:04d}"

    @property
    def ids(self) -> tuple[str, ...]:
        """SLURM's id of each element: `12_0`, `12_1`, …, or `12` for a single job."""
        if not self.job:
            return ()
        if len(self.packs) == 1:
            return (self.job,)
        return tuple(f"{self.job}_{index}" for index in range(len(self.packs)))

    @property
    def on_hold(self) -> bool:
        """Whether it was sent on hold, as all arrays whose jobs wait for others, and not released yet."""
        return any(self.after) and not self._record("released").exists()

    def pending(self, states: Mapping[str, QueueState]) -> list[int]:
        """The elements that SLURM has not started yet, by what it says of each run's newest job."""
        return [
            index
            for index, (job_id, pack) in enumerate(zip(self.ids, self.packs, strict=False))
            if (state := states.get(pack[0])) and state.job_id == job_id and state.state == "PENDING"
        ]

    def named(self, indices: Sequence[int]) -> str:
        """`12` for a whole array, `12_3` or `12_[0-4,7]` for a part of it."""
        if len(indices) == len(self.packs):
            return self.job
        inside = ranges(indices)
        return f"{self.job}_{inside}" if len(indices) == 1 else f"{self.job}_[{inside}]"

    def log_of(self, job_id: str) -> Path:
        """What a job and SLURM wrote about it."""
        return self.job_folder / f"{job_id}_0_log.out"

    def record_intent(self) -> None:
        """Write down what is to be sent."""
        self._record("json").parent.mkdir(parents=True, exist_ok=True)
        intent = {"packs": self.packs, "after": self.after, "first": self.first}
        files.create_once(self._record("json"), files.encode_json(intent, indent=None))

    def withdraw(self) -> None:
        """Forget the intent: SLURM has refused the array."""
        files.remove(self._record("json"))
        files.remove(self.job_folder)

    def record_job(self, job: str) -> None:
        """Write down what sbatch gave."""
        self.job = job
        files.create_once(self._record("sent"), files.encode_json(job))

    def record_release(self) -> None:
        """Write down that its dependencies are set and it was released."""
        files.create_once(self._record("released"), files.encode_json({}))

    def _record(self, suffix: str) -> Path:
        return self.folder / "arrays" / f"{self.number:04d}.{suffix}"


def known_arrays(store: Store) -> list[Array]:
    """All arrays ever meant to be sent from this store, oldest first; damaged records are skipped."""
    submissions = (store.root / "submissions").glob("*/submission.json")
    oldest_first = sorted(submissions, key=lambda path: path.lstat().st_mtime_ns)
    return [array for path in oldest_first for array in _arrays_of(path.parent)]


def _arrays_of(folder: Path) -> Iterator[Array]:
    for path in sorted((folder / "arrays").glob("*.json")):
        with contextlib.suppress(RunError, ValueError):
            intent = reading.read_as(path, _Intent)
            if intent is not None and len(intent.packs) == len(intent.after):
                array = Array(folder=folder, number=int(path.stem), **msgspec.structs.asdict(intent))
                with contextlib.suppress(RunError):  # its name in the queue gives the id again
                    array.job = reading.read_as(path.with_suffix(".sent"), _JobId) or ""
                yield array


def log_of(store: Store, folder: str) -> Path | None:
    """What SLURM and the newest job of a run wrote: all there is of one that died before its attempt."""
    for array in reversed(known_arrays(store)):
        for job_id, pack in zip(array.ids, array.packs, strict=False):
            if folder in pack and array.log_of(job_id).exists():
                return array.log_of(job_id)
    return None


def lives_path(folder: Path, index: int) -> Path:
    """The starts and ends of a submission's job."""
    return folder / "lives" / f"{index}.jsonl"


def read_lives(folder: Path, index: int) -> list[dict[str, Any]]:
    """The lines of `lives_path`; damaged ones are left out."""
    found = reading.read_lines(lives_path(folder, index))
    return found.lines if found else []


def group_runs(
    runs: Sequence[PlannedRun],
    *,
    profile: Profile,
    unfinished: Set[str],
    size: int,
    by_length: bool = True,
) -> list[tuple[Pack, ...]]:
    """The jobs of each array: at most `size` that request the same resources, teachers first as in `runs`.

    An array has one time limit. `by_length`: each holds runs of like length, so that none asks for more than
    about twice what it needs. The runs of a job wait for the same parents (those in `unfinished`), so that it
    has one dependency.
    """
    alike: dict[tuple[str, frozenset[str]], list[PlannedRun]] = {}
    for run in runs:
        options = profile.submit_for(run.spec)
        length = 0 if "time" in options or not by_length else _time_class(run.seconds_left_alone)
        shape = repr((sorted(options.items()), length))
        parents = unfinished & {parent.folder for parent in run.spec.parents}
        alike.setdefault((shape, frozenset(parents)), []).append(run)
    packs: dict[str, list[Pack]] = {}
    for (shape, _), members in alike.items():
        packs.setdefault(shape, []).extend(_split(members, profile.runs_per_job))
    return [array for jobs in packs.values() for array in _split(jobs, size)]


def _split(members: Sequence[Any], size: int) -> list[tuple[Any, ...]]:
    """Parts of at most `size`."""
    return [tuple(members[start : start + size]) for start in range(0, len(members), size)]


def _time_class(seconds: float) -> int:
    """Runs of a class take at most twice as long as each other; all up to LEAST_MINUTES are alike."""
    return max(0, math.ceil(math.log2(max(1.0, seconds) / (60 * LEAST_MINUTES))))


def ranges(indices: Iterable[int]) -> str:
    """`[0, 1, 2, 5]` → `0-2,5`, as SLURM writes indices."""
    parts = []
    for _, neighbours in itertools.groupby(enumerate(sorted(indices)), lambda each: each[1] - each[0]):
        inside = [index for _, index in neighbours]
        parts.append(f"{inside[0]}-{inside[-1]}" if len(inside) > 1 else f"{inside[0]}")
    return ",".join(parts)


def set_dependencies(
    array: Array, indices: Iterable[int], *, jobs: Mapping[str, str], store: Store
) -> list[int]:
    """Let these jobs of an array start after those of their unfinished parents; those that never can.

    `jobs`: folder of a run → the job that will give its result. Only jobs that SLURM has may be named: a
    dependency on an id that slurmctld has forgotten counts as satisfied (seen on 22.05).
    """
    waiting: dict[tuple[str, ...], list[int]] = {}
    orphans = []
    done = functools.cache(lambda folder: store.folder(folder).state().status == "done")  # of many students
    for index in indices:
        parents = [folder for folder in array.after[index] if folder in jobs or not done(folder)]
        if all(folder in jobs for folder in parents):
            waiting.setdefault(tuple(dict.fromkeys(jobs[each] for each in parents)), []).append(index)
        else:
            orphans.append(index)
    for ids, alike in waiting.items():
        after = ":".join(["afterok", *ids]) if ids else ""
        client.ask(["scontrol", "update", f"jobid={array.named(alike)}", f"dependency={after}"])
    return orphans


def release(array: Array, pending: Sequence[int], *, jobs: dict[str, str], store: Store) -> None:
    """Give each pending job of an array on hold its dependency, then let the array go.

    Jobs whose parent SLURM did not take are cancelled, and their runs leave `jobs`.
    """
    waiting = [index for index in pending if array.after[index]]
    orphans = set_dependencies(array, waiting, jobs=jobs, store=store)
    if orphans:
        client.ask(["scancel", array.named(orphans)])
        for index in orphans:
            for folder in array.packs[index]:
                jobs.pop(folder, None)
    if len(pending) > len(orphans):
        client.ask(["scontrol", "release", array.job])
    array.record_release()


def repoint(
    arrays: Sequence[Array],
    *,
    states: Mapping[str, QueueState],
    jobs: Mapping[str, str],
    renewed: Set[str],
    store: Store,
) -> int:
    """Let waiting students wait for the new job of a teacher that was sent again; how many were re-pointed.

    `renewed` are the folders of runs sent again. A student that waits for a failed teacher waits for ever
    otherwise: SLURM does not revive it when the teacher is requeued.
    """
    count = 0
    for array in arrays:
        waiting = [
            index
            for index in array.pending(states)
            if array.after[index]
            and (states[array.packs[index][0]].stuck or not renewed.isdisjoint(array.after[index]))
        ]
        count += len(waiting) - len(set_dependencies(array, waiting, jobs=jobs, store=store))
    return count
