"""What a `result.json` must hold before anybody believes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tfkd_cli.store.reading import DamagedFile, is_digest, is_safe_name

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


def check_result(data: Any, *, path: Path, key: str) -> dict[str, Any]:
    """`data` as a result of the run whose key begins with `key`; DamagedFile for anything else."""
    if not isinstance(data, dict):
        raise DamagedFile(path, f"holds a {type(data).__name__}.", expected="a run's result.")
    if isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
        raise DamagedFile(
            path,
            f"has schema {data['schema']}, a newer tfkd wrote it.",
            expected=f"schema {SCHEMA}.",
            hint="use the newer tfkd; nothing was changed.",
        )
    for name, fits in _FIELDS.items():
        if not fits(data.get(name)):
            shown = str(data.get(name, "nothing"))[:60]
            raise DamagedFile(path, f'"{name}" is {shown!r}.', expected="the result.json that tfkd wrote.")
    if not data["key"].startswith(key):
        raise DamagedFile(path, f"belongs to run {data['key'][:12]}.", expected=f"key {key[:12]}.")
    return data


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _scores(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _count(value.get("epoch"))
        and "accuracy" in value
        and all(_number(each) for name, each in value.items() if name != "confusion")
        and _texts(value.get("confusion", ()))
    )


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def _digests(value: Any) -> bool:
    return isinstance(value, dict) and all(is_safe_name(k) and is_digest(v) for k, v in value.items())


def _records(value: Any) -> bool:
    return _digests(value) and set(value) == {METRICS}


def _optional(kind: type) -> Any:
    return lambda value: value is None or isinstance(value, kind)


_FIELDS: Mapping[str, Any] = {
    "schema": lambda value: value == SCHEMA and not isinstance(value, bool),
    "key": is_digest,
    "digest": is_digest,
    "attempt": lambda value: value is None or (_count(value) and value > 0),
    "epochs": _count,
    "best": _scores,
    "last": _scores,
    "records": _records,
    "weights": _digests,
    "seconds": _number,
    "teacher_seconds": _number,
    "chosen_on": _optional(str),
    "folder": _optional(str),
    "attempts": lambda value: value is None or _count(value),
    "numerics": _optional(dict),
    "versions": _optional(dict),
    "hardware": lambda value: value is None or isinstance(value, str | dict),
    "commit": _optional(str),
    "commits": _optional(dict),
    "class_names": lambda value: value is None or _texts(value),
    "diff": _optional(str),
    "finished_at": lambda value: value is None or isinstance(value, str | int | float),
}
