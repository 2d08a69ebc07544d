"""Where runs execute: `local` here, `slurm` on a cluster. What both report: events and outcomes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

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


@dataclass(kw_only=True)
class Outcome:
    """What became of the runs, by folder name; what is in none of these is still to do."""

    done: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)  # of those that failed: why
    blocked: list[str] = field(default_factory=list)
    interrupted: bool = False

    @property
    def failed(self) -> list[str]:
        """Those that failed."""
        return list(self.reasons)
