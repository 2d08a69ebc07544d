"""What SLURM adds to a submission: an intent before each sbatch, the job ids after it, how jobs ended.

    submissions/<id>/…                    runs and execution settings (`training.submission`)
    submissions/<id>/arrays/0001.json     intent: the name, which jobs, what they wait for
    submissions/<id>/arrays/0001.sent     the job ids that sbatch gave
    submissions/<id>/arrays/0001.released the array was on hold; its dependencies are set and it may start
    submissions/<id>/array-0001/          submitit's folder: script, pickles, logs
    submissions/<id>/lives/3.jsonl        each start and end of the job with index 3, as the job notes them
    submissions/queue.json                what SLURM last said of each job (`queue`)

All but the last are written once; a crash in between is repaired from SLURM's own list of names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tfkd_cli.backends.slurm.arrays import ranges
from tfkd_cli.errors import RunError
from tfkd_cli.schema import Count, Meta, Record
from tfkd_cli.store import files, reading

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.queue import QueueState
    from tfkd_cli.store import Store


class _Intent(Record):
    """`arrays/0001.json`: what is to be sent."""

    name: str
    first: Count
    packs: tuple[tuple[str, ...], ...]
    after: tuple[tuple[str, ...], ...]


class _Sent(Record):
    """`arrays/0001.sent`: what sbatch gave."""

    ids: tuple[Annotated[str, Meta(pattern=r"\A\d+(_\d+)?\Z")], ...]


@dataclass(kw_only=True)
class Array:
    """One sbatch call: a SLURM array, or a single job when it has one element."""

    submission: str
    number: int
    packs: tuple[tuple[str, ...], ...]  # folders of the runs of each element
    folder: Path  # of the submission
    after: tuple[tuple[str, ...], ...] = ()  # folders each element waits for
    first: int = 0  # index of the first element among the submission's jobs
    ids: tuple[
        str, ...
    ] = ()  # of each element: `12_0`, or `12` for a single job; empty before sbatch answered

    @property
    def name(self) -> str:
        """The job's name in SLURM: unique, so that a crash never submits twice."""
        return f"tfkd-{self.submission}-{self.number:04d}"

    @property
    def job_folder(self) -> Path:
        """submitit's folder."""
        return self.folder / f"array-{self.number:04d}"

    @property
    def base_id(self) -> str:
        """The id of the whole array, as scancel and scontrol take it."""
        return self.ids[0].split("_")[0]

    @property
    def on_hold(self) -> bool:
        """Whether it was sent on hold, as all arrays whose jobs wait for others, and not released yet."""
        return any(self.after) and not self._record("released").exists()

    def jobs(self) -> Iterator[tuple[int, str, tuple[str, ...], tuple[str, ...]]]:
        """(index, job id, folders of its runs, folders it waits for) of each element that SLURM was given."""
        yield from zip(range(len(self.ids)), self.ids, self.packs, self.after, strict=False)

    def count(self, folders: Collection[str]) -> int:
        """How many of its runs are among `folders`."""
        return sum(folder in folders for pack in self.packs for folder in pack)

    def pending(self, states: Mapping[str, QueueState]) -> list[int]:
        """The elements that SLURM has not started yet, by what it says of each run's newest job."""
        return [
            index
            for index, job_id, pack, _ in self.jobs()
            if (state := states.get(pack[0])) and state.job_id == job_id and state.state == "PENDING"
        ]

    def named(self, indices: Sequence[int]) -> str:
        """`12` for a whole array, `12_3` or `12_[0-4,7]` for a part of it."""
        if len(indices) == len(self.packs):
            return self.base_id
        inside = ranges(indices)
        return f"{self.base_id}_{inside}" if len(indices) == 1 else f"{self.base_id}_[{inside}]"

    def log_of(self, job_id: str) -> Path:
        """What a job and SLURM wrote about it."""
        return self.job_folder / f"{job_id}_0_log.out"

    def lives_of(self, index: int) -> list[dict[str, Any]]:
        """The starts and ends that an element noted; damaged lines are left out."""
        return read_lives(self.folder, self.first + index)

    def record_ids(self, ids: Sequence[str]) -> None:
        """Write down what sbatch gave."""
        self.ids = tuple(ids)
        files.create_once(self._record("sent"), files.encode_json({"ids": list(ids)}, indent=None))

    def record_release(self) -> None:
        """Write down that its dependencies are set and it was released."""
        files.create_once(self._record("released"), files.encode_json({}))

    def record_intent(self) -> None:
        """Write the intent."""
        self._record("json").parent.mkdir(parents=True, exist_ok=True)
        intent = {
            "name": self.name,
            "first": self.first,
            "packs": [list(pack) for pack in self.packs],
            "after": [list(each) for each in self.after],
        }
        files.create_once(self._record("json"), files.encode_json(intent, indent=None))

    def _record(self, suffix: str) -> Path:
        return self.folder / "arrays" / f"{self.number:04d}.{suffix}"


def lives_path(folder: Path, index: int) -> Path:
    """The starts and ends of a submission's job."""
    return folder / "lives" / f"{index}.jsonl"


def read_lives(folder: Path, index: int) -> list[dict[str, Any]]:
    """The lines of `lives_path`; damaged ones are left out."""
    found = reading.read_lines(lives_path(folder, index))
    return found.lines if found else []


def known_arrays(store: Store) -> list[Array]:
    """All arrays ever meant to be sent from this store, oldest first; damaged records are skipped."""
    folders = [path.parent for path in (store.root / "submissions").glob("*/arrays")]
    return [array for folder in sorted(folders, key=_made) for array in _arrays_of(folder)]


def _made(folder: Path) -> tuple[int, str]:
    try:
        return (folder / "submission.json").stat().st_mtime_ns, folder.name
    except OSError:
        return 0, folder.name


def _arrays_of(folder: Path) -> Iterator[Array]:
    for path in sorted((folder / "arrays").glob("*.json")):
        with contextlib.suppress(RunError, ValueError):
            intent = reading.read_as(path, _Intent)
            if intent is not None and len(intent.packs) == len(intent.after) > 0:
                ids = _ids(path.with_suffix(".sent"))
                yield Array(
                    submission=folder.name,
                    number=int(path.stem),
                    packs=intent.packs,
                    after=intent.after,
                    first=intent.first,
                    folder=folder,
                    ids=ids if len(ids) == len(intent.packs) else (),
                )


def _ids(path: Path) -> tuple[str, ...]:
    """The ids that sbatch gave; none where that is damaged: the array's name in the queue gives them."""
    with contextlib.suppress(RunError):
        if (sent := reading.read_as(path, _Sent)) is not None:
            ids: tuple[str, ...] = sent.ids
            return ids
    return ()


def log_of(store: Store, folder: str) -> Path | None:
    """What SLURM and the newest job of a run wrote: all there is of one that died before its attempt."""
    for array in reversed(known_arrays(store)):
        for _, job_id, pack, _ in array.jobs():
            if folder in pack and array.log_of(job_id).exists():
                return array.log_of(job_id)
    return None
