"""Who else uses the cores: a step that others disturbed says nothing.

With another busy process a step of two threads takes 3 to 7 times as long, since both threads wait at
each barrier for the one that has to share its core.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

FOREIGN_CORES = 0.12  # more than this used by others, and a window is disturbed
WINDOW_SECONDS = 0.5  # /proc/stat counts in hundredths: shorter windows say nothing
ENOUGH_CLEAN = 0.25  # of a block's steps
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Step:
    """A timed part of a training: a step, or the teacher's forward pass on as many images ("teacher")."""

    kind: str
    seconds: float
    foreign_seconds: float  # of a core, used by others meanwhile

    def to_json(self) -> list[Any]:
        """As it goes through the pipe."""
        return [self.kind, self.seconds, self.foreign_seconds]


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of steps: the median by kind over undisturbed windows.

    Where too few are undisturbed, it is the median of the faster half, which is biased low.
    """

    seconds: dict[str, float]
    disturbed: bool
    foreign_cores: float


def busy_seconds() -> float:
    """Core seconds used on this machine since it started, by anyone (by the host as well)."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:  # not Linux: nothing is filtered
        return 0.0
    user, nice, system, _idle, _iowait, *rest = (int(each) for each in line.split()[1:])
    return (user + nice + system + sum(rest[:3])) / TICKS


def own_seconds() -> float:
    """Core seconds of this process and its living workers."""
    total = time.process_time()
    for each in multiprocessing.active_children():
        try:
            fields = Path(f"/proc/{each.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


class Clock:
    """Times what lies between two calls of `mark`; looking at the load is not counted."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.restart()

    def restart(self) -> None:
        """Begin here."""
        self._busy, self._own = busy_seconds(), own_seconds()
        self._started = time.perf_counter()

    def mark(self, kind: str, *, batches: float = 1.0) -> None:
        """What was done since the last mark was a `kind`, on this many training batches of images."""
        seconds = time.perf_counter() - self._started
        foreign = busy_seconds() - self._busy - (own_seconds() - self._own) if self._busy else 0.0
        self.steps.append(Step(kind=kind, seconds=seconds / batches, foreign_seconds=foreign / batches))
        self.restart()


def judge(steps: Sequence[Step], *, warmup: int) -> Block:
    """The block without the first `warmup` steps of each kind and without what others disturbed."""
    seen: dict[str, int] = {}
    counted: list[tuple[Step, bool]] = []
    for window in windows(steps):
        clean = sum(s.foreign_seconds for s in window) <= FOREIGN_CORES * sum(s.seconds for s in window)
        for step in window:
            seen[step.kind] = seen.get(step.kind, 0) + 1
            if seen[step.kind] > warmup:
                counted.append((step, clean))
    seconds, disturbed = {}, False
    for kind in seen:
        clean_seconds = [step.seconds for step, clean in counted if step.kind == kind and clean]
        all_seconds = sorted(step.seconds for step, _ in counted if step.kind == kind)
        if len(clean_seconds) < max(2, ENOUGH_CLEAN * len(all_seconds)):
            disturbed = True
            clean_seconds = all_seconds[: (len(all_seconds) + 1) // 2]
        seconds[kind] = median(clean_seconds)
    elapsed = sum(step.seconds for step in steps)
    foreign = sum(step.foreign_seconds for step in steps) / elapsed
    return Block(seconds=seconds, disturbed=disturbed, foreign_cores=max(0.0, foreign))


def windows(steps: Sequence[Step]) -> list[list[Step]]:
    """Successive steps, joined until they last long enough to be judged."""
    joined: list[list[Step]] = [[]]
    for step in steps:
        if sum(each.seconds for each in joined[-1]) >= WINDOW_SECONDS:
            joined.append([])
        joined[-1].append(step)
    return joined
