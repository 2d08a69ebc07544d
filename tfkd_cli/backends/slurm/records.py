"""What a submission writes down: an intent before each sbatch, the job ids after it.

    submissions/<id>/submission.json      runs and execution settings (the store's)
    submissions/<id>/specs/0000.json      what the runs are, 200 jobs a file: {folder: spec}
    submissions/<id>/arrays/0001.json     intent: the name, which jobs, what they wait for
    submissions/<id>/arrays/0001.sent     the job ids that sbatch gave
    submissions/<id>/arrays/0001.none     it was never accepted
    submissions/<id>/arrays/0001.released a held array's dependencies are set and it may start
    submissions/<id>/array-0001/          submitit's folder: script, pickles, logs

Each is written once; a crash in between is repaired from SLURM's own list of names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.spec import RunSpec
from tfkd_cli.store import files, reading

if TYPE_CHECKING:
    from tfkd_cli.store import Store

BACKEND = "slurm"
SPECS_PER_FILE = 200  # jobs; 1,000 folders with a spec.json each, forced to the disk, would take 15 s here


@dataclass(frozen=True, kw_only=True)
class Array:
    """One sbatch call: a SLURM array, or a single job when it has one element."""

    submission: str
    number: int
    packs: tuple[tuple[str, ...], ...]  # folders of the runs of each element
    after: tuple[tuple[str, ...], ...]  # folders each element waits for
    first: int  # index of the first element in the submission's runs
    held: bool
    folder: Path  # of the submission

    @property
    def name(self) -> str:
        """The job's name in SLURM: unique, so that a crash never submits twice."""
        return job_name(self.submission, self.number)

    @property
    def job_folder(self) -> Path:
        """submitit's folder."""
        return self.folder / f"array-{self.number:04d}"

    @property
    def sent(self) -> tuple[str, ...]:
        """The id of each element (`12_0`, or `12` for a single job); empty before sbatch has answered."""
        data = reading.read_object(self._record("sent")) or {}
        ids = data.get("ids", [])
        return tuple(ids) if len(ids) == len(self.packs) else ()

    def log_of(self, job_id: str) -> Path:
        """What a job and SLURM wrote about it."""
        return self.job_folder / f"{job_id}_0_log.out"

    @property
    def base_id(self) -> str:
        """The id of the whole array, as scancel and scontrol take it."""
        return self.sent[0].split("_")[0]

    @property
    def refused(self) -> bool:
        """Whether it is known that SLURM has no such job."""
        return self._record("none").exists()

    @property
    def released(self) -> bool:
        """Whether a held array was let go."""
        return not self.held or self._record("released").exists()

    def mark_sent(self, ids: Sequence[str]) -> None:
        """Write down what sbatch gave."""
        files.create_once(self._record("sent"), files.encode_json({"ids": list(ids)}, indent=None))

    def mark_refused(self, why: str) -> None:
        """Write down that there is no such job."""
        files.create_once(self._record("none"), files.encode_json({"why": why}))

    def mark_released(self) -> None:
        """Write down that its dependencies are set and it was released."""
        files.create_once(self._record("released"), files.encode_json({}))

    def declare(self) -> None:
        """Write the intent."""
        self._record("json").parent.mkdir(parents=True, exist_ok=True)
        intent = {
            "name": self.name,
            "first": self.first,
            "packs": [list(pack) for pack in self.packs],
            "after": [list(each) for each in self.after],
            "held": self.held,
        }
        files.create_once(self._record("json"), files.encode_json(intent, indent=None))

    def _record(self, suffix: str) -> Path:
        return self.folder / "arrays" / f"{self.number:04d}.{suffix}"


def job_name(submission: str, number: int) -> str:
    """`tfkd-<submission>-0001`."""
    return f"tfkd-{submission}-{number:04d}"


def write_specs(folder: Path, packs: Sequence[Sequence[RunSpec]]) -> None:
    """Keep what the runs of each job are; the job itself makes the run's folder."""
    files.make_folder(folder / "specs")
    for start in range(0, len(packs), SPECS_PER_FILE):
        chunk = {
            spec.folder: spec.to_json() for pack in packs[start : start + SPECS_PER_FILE] for spec in pack
        }
        files.create_once(_specs_path(folder, start), files.encode_json(chunk, indent=None))


def declare_runs(store: Store, submission: str, index: int, folders: Sequence[str]) -> None:
    """Make the folders of a job's runs, where they are not there yet."""
    chunk = files.read_json(_specs_path(store.submission_path(submission), index))
    for name in folders:
        if name in chunk:
            store.folder(name).declare(RunSpec.from_json(chunk[name]))


def needed_weights(array: Array) -> dict[str, list[str]]:
    """Folder → the weights that this array's submission needs of it; nothing where that cannot be read."""
    try:
        data = reading.read_object(array.folder / "submission.json") or {}
    except reading.DamagedFile:
        return {}
    weights = data.get("weights")
    return weights if isinstance(weights, dict) else {}


def _specs_path(folder: Path, index: int) -> Path:
    return folder / "specs" / f"{index // SPECS_PER_FILE:04d}.json"


def known_arrays(store: Store) -> list[Array]:
    """All arrays ever meant to be sent from this store, oldest first; damaged records are skipped."""
    return [array for folder in _submissions(store) for array in arrays_of(folder)]


def log_of(store: Store, folder: str) -> Path | None:
    """What SLURM and the newest job of a run wrote: the only words of one that died before its attempt."""
    for array in reversed(known_arrays(store)):
        for job_id, pack in zip(array.sent, array.packs, strict=False):
            if folder in pack and array.log_of(job_id).exists():
                return array.log_of(job_id)
    return None


def arrays_of(folder: Path) -> Iterator[Array]:
    """The arrays of one submission."""
    for path in sorted((folder / "arrays").glob("*.json")):
        try:
            yield _parse(folder, path, reading.read_object(path) or {})
        except (reading.DamagedFile, KeyError, TypeError, ValueError):
            continue


def _parse(folder: Path, path: Path, data: Mapping[str, Any]) -> Array:
    packs = tuple(tuple(map(str, pack)) for pack in data["packs"])
    after = tuple(tuple(map(str, each)) for each in data["after"])
    if len(packs) != len(after) or not packs:
        raise ValueError("an intent without jobs")
    return Array(
        submission=folder.name,
        number=int(path.stem),
        packs=packs,
        after=after,
        first=int(data["first"]),
        held=bool(data["held"]),
        folder=folder,
    )


def _submissions(store: Store) -> list[Path]:
    """Folders of submissions with arrays, in the order they were made."""
    folders = [path.parent for path in (store.root / "submissions").glob("*/arrays")]
    return sorted(folders, key=lambda folder: ((folder / "submission.json").stat().st_mtime_ns, folder.name))
