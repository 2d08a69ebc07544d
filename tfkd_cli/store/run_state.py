"""What the store says of a run: its state, and the validation of `result.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from tfkd_cli.schema import Count, Digest, FileName, Number, Positive, Record
from tfkd_cli.store import files, reading
from tfkd_cli.store.reading import DamagedFile, as_kind

SCHEMA = 2  # of a result: 2 carries its own digest
METRICS = "metrics.jsonl"
NO_DIGEST = b"0" * 64  # stands in the place of a record's own digest while that is computed

Status = Literal["done", "running", "resumable", "todo", "failed", "damaged"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """What the folder of a run says about it, derived at each look and stored nowhere.

    `missing`: weight files the result vouches for that are not there. `heartbeat_age` in seconds, of a
    running run. `damage`: what cannot be believed, in words.
    """

    key: str
    name: str
    status: Status
    epoch: int | None = None
    epochs: int | None = None
    result: dict[str, Any] | None = None
    failure: dict[str, Any] | None = None
    attempts: int = 0
    missing: tuple[str, ...] = ()
    damage: str = ""
    heartbeat_age: float | None = None
    slurm: str | None = None

    def can_teach(self, checkpoint: str | int = "best") -> bool:
        """Whether the run is done and these weights of it are there: "best", "last", or an epoch's."""
        name = f"epoch-{checkpoint:03d}.pt" if isinstance(checkpoint, int) else f"{checkpoint}.pt"
        return self.result is not None and name in self.result["weights"] and name not in self.missing


def found_in(states: Mapping[str, RunState], key: str) -> RunState | None:
    """The state of the run with this key; where its records are damaged, 12 digits of the key may be left."""
    return states.get(key) or states.get(key[:12])


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
    digest: Digest | None = None  # none where an earlier tfkd wrote it


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


def sealed(record: Mapping[str, Any]) -> bytes:
    """The bytes of a record, with the sha256 of all of them (its own 64 digits as zeros) as `digest`."""
    blank = files.encode_json({**record, "digest": NO_DIGEST.decode()})
    return blank.replace(NO_DIGEST, hashlib.sha256(blank).hexdigest().encode())


def unsealed(data: bytes, kind: Any, *, path: Path) -> dict[str, Any]:
    """The record in these bytes, which fits `kind` and its own digest, if it has one; DamagedFile if not."""
    found: dict[str, Any] = reading.parse_json(data, path=path)
    digest = as_kind(found, kind, path=path).digest
    if digest is not None:
        check_seal(data, digest, path=path)
    return {name: each for name, each in found.items() if name != "digest"}


def check_seal(data: bytes, digest: str, *, path: Path) -> None:
    """DamagedFile unless a record was written with this digest."""
    if hashlib.sha256(data.replace(digest.encode(), NO_DIGEST)).hexdigest() != digest:
        raise DamagedFile(
            path,
            "does not hold what was written (wrong digest).",
            expected="the bytes whose digest stands in it.",
        )


def check_result(data: Any, *, path: Path, key: str) -> dict[str, Any]:
    """`data` as a result of the run whose key begins with `key`; DamagedFile for anything else."""
    newer = data.get("schema") if isinstance(data, dict) else None
    if isinstance(newer, int) and newer > SCHEMA:
        raise DamagedFile(
            path,
            f"has schema {newer}, a newer tfkd wrote it.",
            expected=f"schema {SCHEMA}.",
            hint="use the newer tfkd; nothing was changed.",
        )
    if not as_kind(data, _Result, path=path).key.startswith(key):
        raise DamagedFile(path, f"belongs to run {data['key'][:12]}.", expected=f"key {key[:12]}.")
    found: dict[str, Any] = data
    return found
