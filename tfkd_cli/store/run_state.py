"""What the store says of a run: its state, and the validation of `result.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from tfkd_cli.schema import Count, Digest, FileName, Number, Positive, Record
from tfkd_cli.store.reading import DamagedFile, as_kind

SCHEMA = 2  # of a result: 2 carries its own digest
METRICS = "metrics.jsonl"

Status = Literal["done", "running", "resumable", "todo", "failed", "damaged"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What the folder of a run says about it, derived at each look and stored nowhere.

    `weights`: every weight file the result vouches for is there (`missing` names the others); such a run
    can teach. `heartbeat_age` in seconds, of a running run. `damage`: what cannot be believed, in words.
    """

    key: str
    name: str
    status: Status
    epoch: int | None = None
    epochs: int | None = None
    result: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    attempts: int = 0
    weights: bool = False
    missing: tuple[str, ...] = ()
    damage: str = ""
    heartbeat_age: float | None = None
    slurm: str | None = None

    def can_teach(self, checkpoint: str | int = "best") -> bool:
        """Whether the run is done and these weights of it are there: "best", "last", or an epoch's."""
        name = f"epoch-{checkpoint:03d}.pt" if isinstance(checkpoint, int) else f"{checkpoint}.pt"
        return self.result is not None and name in self.result["weights"] and name not in self.missing


class NewerFile(DamagedFile):
    """A file that seems to be of a later version of tfkd."""


class _Line(msgspec.Struct):
    epoch: Positive


LINE = (dict[str, Count | Number | None], _Line)
"""What a line of the metrics is: numbers, of an epoch."""


class _Scores(msgspec.Struct):
    """The part `best` or `last`: percent and nats, empty where training diverged."""

    epoch: Count
    accuracy: Number | None
    confusion: list[str] = []
    loss: Number | None = None
    top5: Number | None = None
    balanced_accuracy: Number | None = None
    ece: Number | None = None
    val_accuracy: Number | None = None
    val_loss: Number | None = None


class Numerics(msgspec.Struct):
    """What two computations must share to be promised equal bit for bit."""

    device: str | None = None
    device_name: str | None = None
    threads: Positive | None = None
    torch: str | None = None
    arithmetic: str | None = None
    processes: Positive | None = None  # of a data-parallel run
    sync_batch_norm: bool | None = None


class SealedNumerics(Numerics, forbid_unknown_fields=True):
    """numerics.json; without key and digest where an earlier tfkd wrote it."""

    key: str | None = None
    digest: Digest | None = None


class Failure(msgspec.Struct):
    """failure.json of an attempt."""

    kind: str = ""
    message: str = ""
    traceback: str = ""


class Environment(msgspec.Struct):
    """env.json of an attempt: what readers need of it."""

    commit: str | None = None
    diff: str | None = None
    cpu: str | None = None
    numerics: Numerics | None = None
    versions: dict[str, Any] | None = None


class _Records(Record):
    metrics: Digest = msgspec.field(name=METRICS)


class _Result(msgspec.Struct):
    """result.json; keys that no reader needs may stand there besides."""

    schema: Literal[2]
    key: Digest
    digest: Digest
    epochs: Count
    best: _Scores
    last: _Scores
    records: _Records
    weights: dict[FileName, Digest]
    attempt: Positive | None = None
    attempts: Count | None = None
    seconds: Number | None = None
    teacher_seconds: Number | None = None
    start_seconds: Number | None = None
    images_per_second: Number | None = None
    soft_targets: dict[str, list[Number]] | None = None
    chosen_on: str | None = None
    folder: str | None = None
    numerics: Numerics | None = None
    versions: dict[str, Any] | None = None
    hardware: str | dict[str, Any] | None = None
    commit: str | None = None
    commits: dict[str, str] | None = None
    class_names: list[str] | None = None
    skipped: list[str] | None = None
    diff: str | None = None
    finished_at: str | Number | None = None


def check_result(data: Any, *, path: Path, key: str) -> dict[str, Any]:
    """`data` as a result of the run whose key begins with `key`; DamagedFile for anything else."""
    newer = data.get("schema") if isinstance(data, dict) else None
    if isinstance(newer, int) and newer > SCHEMA:
        raise NewerFile(
            path,
            f"has schema {newer}, a newer tfkd wrote it.",
            expected=f"schema {SCHEMA}.",
            hint="use the newer tfkd; nothing was changed.",
        )
    if not as_kind(data, _Result, path=path).key.startswith(key):
        raise DamagedFile(path, f"belongs to run {data['key'][:12]}.", expected=f"key {key[:12]}.")
    found: dict[str, Any] = data
    return found
