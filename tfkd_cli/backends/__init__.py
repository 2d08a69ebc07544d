"""Where runs execute: `local` here, `slurm` on a cluster. What backends share: submissions and events."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tfkd_cli.execution import Execution
from tfkd_cli.plan import same_teacher_logits
from tfkd_cli.spec import RunSpec, Teacher
from tfkd_cli.store import Store

EventKind = Literal["started", "progress", "finished", "failed", "blocked", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened to a run. `waiting`: another process works on it. `message`: who, or why it failed."""

    kind: EventKind
    folder: str
    epoch: int = 0  # epochs done
    epochs: int = 0
    accuracy: float | None = None  # percent: of the newest epoch; of the best one when finished
    seconds_left: float | None = None
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the runs, by folder name; what is in none of these is still to do."""

    done: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)  # of those that failed: why
    blocked: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def failed(self) -> tuple[str, ...]:
        """Those that failed."""
        return tuple(self.reasons)


def sharing_logits(specs: Sequence[RunSpec]) -> tuple[str, ...]:
    """The students (folder names) that cache teacher logits: other runs of the request use the same."""
    return tuple(sorted(spec.folder for group in same_teacher_logits(specs) for spec in group))


def taught_with(specs: Sequence[RunSpec]) -> dict[str, list[str]]:
    """Folder of a teacher → the files of its weights that students among `specs` need ("best.pt")."""
    needed: dict[str, set[str]] = {}
    for spec in specs:
        if isinstance(spec.teacher, Teacher):
            needed.setdefault(spec.teacher.run.folder, set()).add(spec.teacher.weights)
    return {folder: sorted(names) for folder, names in needed.items()}


def submit(
    packs: Sequence[Sequence[str]],
    *,
    store: Store,
    execution: Execution,
    teacher_logits: Sequence[str],
    backend: str,
    weights: Mapping[str, Sequence[str]] | None = None,
    **more: str,
) -> str:
    """Write what workers are to do (index → folder names of its runs); the submission's id.

    `weights`: what finished runs must be able to teach with (folder → files), or are trained again.
    `more` is kept beside it: the profile, the staged code.
    """
    return store.add_submission(
        {
            "schema": 1,
            "backend": backend,
            **more,
            "created": time.time(),
            "execution": execution.to_json(),
            "runs": [list(pack) for pack in packs],
            "teacher_logits": list(teacher_logits),
            "weights": {folder: list(names) for folder, names in (weights or {}).items()},
        }
    )
