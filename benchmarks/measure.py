"""Sides in alternation: A B C, A B C, …; only one works at a time, each in its own long-lived process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load import Block, Step, judge
from benchmarks.workloads import BATCH, Workload

HERE = Path(__file__).parent.parent
BEFORE = "before"
"""The side of `--against`: the fast path of another checkout."""

Report = Callable[[str], None]


class SideFailed(Exception):  # noqa: N818 - it is said in these words
    """A side's process ended."""


class Side:
    """The process of one side."""

    def __init__(self, order: Mapping[str, Any], *, checkout: Path = HERE) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.side"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            text=True,
        )
        self._send(order)

    def play(self) -> list[Step]:
        """A block of steps."""
        answer = self._send("play")
        return [Step(kind=kind, seconds=seconds, foreign_seconds=other) for kind, seconds, other in answer]

    def _send(self, order: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SideFailed(f"side {order} ended with code {self._process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, kw_only=True)
class Images:
    """The data set of one checkout: its resolved name, and the cache in which that checkout decoded it."""

    name: str
    cache: Path
    checkout: Path = HERE


@dataclass(kw_only=True)
class Measured:
    """A workload's blocks, by side and round."""

    workload: Workload
    conventional: str
    blocks: dict[str, list[Block]] = field(default_factory=dict)

    def seconds(self, side: str, *, cached: bool = False) -> list[float]:
        """Seconds per step, one value a round; `cached`: without running the teacher."""
        return [
            sum(value for kind, value in block.seconds.items() if kind == "step" or not cached)
            for block in self.blocks[side]
        ]

    def ratio(self, side: str = "fast", *, cached: bool = False) -> float:
        """How many times the conventional loop's images per second: the median over rounds."""
        pairs = zip(self.seconds(self.conventional), self.seconds(side, cached=cached), strict=True)
        return median(theirs / ours for theirs, ours in pairs)

    def _ratios(self) -> dict[str, float]:
        """`ratio`, `ratio_fp32`, `ratio_before` and, with a teacher, the same with its logits cached."""
        names = {"fast": "ratio", "fp32": "ratio_fp32", BEFORE: "ratio_before"}
        found = {}
        for side in (each for each in names if each in self.blocks):
            found[names[side]] = round(self.ratio(side), 3)
            if self.workload.teacher is not None and side != "fp32":
                found[f"{names[side]}_cached"] = round(self.ratio(side, cached=True), 3)
        return found

    def to_json(self) -> dict[str, Any]:
        """Ratios, images per second and what disturbed them."""
        return {
            **self._ratios(),
            "at_least": self.workload.at_least,
            "at_least_cached": self.workload.at_least_cached,
            "images_per_second": {side: round(BATCH / median(self.seconds(side)), 1) for side in self.blocks},
            "seconds_per_step": {side: self.seconds(side) for side in self.blocks},
            "disturbed": {
                side: f"{sum(b.disturbed for b in blocks)}/{len(blocks)}"
                for side, blocks in self.blocks.items()
            },
            "foreign_cores": {
                side: [round(block.foreign_cores, 2) for block in blocks]
                for side, blocks in self.blocks.items()
            },
        }


@contextmanager
def playing(orders: Mapping[str, tuple[Mapping[str, Any], Path]]) -> Iterator[dict[str, Side]]:
    """A process for each side (name → its order and its checkout), ended afterwards."""
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name, (order, checkout) in orders.items():
            sides[name] = Side(order, checkout=checkout)
            stack.callback(sides[name].close)
        yield sides


def measure(
    workload: Workload,
    *,
    sides: Mapping[str, Images],
    rounds: int,
    steps: int | None,
    workers: int,
    report: Report,
) -> Measured:
    """Play `rounds` blocks of each side in turn; the first side is the conventional one."""
    counted = steps or workload.steps
    warmup = workload.warmup if steps is None else min(2, workload.warmup)
    orders = {}
    for name, images in sides.items():
        order = {
            "side": "fast" if name == BEFORE else name,
            "workload": workload.name,
            "dataset": images.name,
            "cache": str(images.cache),
            "steps": warmup + counted,
            "workers": workers,
        }
        orders[name] = (order, images.checkout)
    measured = Measured(workload=workload, conventional=next(iter(sides)))
    with playing(orders) as playing_sides:
        for round_ in range(1, rounds + 1):
            for name, side in playing_sides.items():
                report(f"{workload.name}: round {round_} of {rounds}, {name}")
                block = judge(side.play(), warmup=warmup)
                measured.blocks.setdefault(name, []).append(block)
    return measured
