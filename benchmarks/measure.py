"""Sides in alternation: A B C, A B C, …; only one works at a time, each in its own long-lived process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.load import Block, Step, judge
from benchmarks.workloads import BATCH, Workload

Report = Callable[[str], None]


class SideFailed(Exception):  # noqa: N818 - it is said in these words
    """A side's process ended."""


class Side:
    """The process of one side."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.side"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
            text=True,
        )
        self._ask(order)

    def play(self) -> list[Step]:
        """A block of steps."""
        answer = self._ask("play")
        return [Step(kind=kind, seconds=seconds, foreign_seconds=other) for kind, seconds, other in answer]

    def _ask(self, order: Any) -> Any:
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
    """The data set of both sides."""

    name: str
    cache: Path


@dataclass(kw_only=True)
class Measured:
    """A workload's blocks, by side and round."""

    workload: Workload
    conventional: str
    blocks: dict[str, list[Block]] = field(default_factory=dict)

    def seconds(self, side: str, *, kept: bool = False) -> list[float]:
        """Seconds per step, one value a round; without asking the teacher where its answers are kept."""
        return [
            block.seconds["step"] + (0.0 if kept else block.seconds.get("ask", 0.0))
            for block in self.blocks[side]
        ]

    def ratio(self, side: str = "fast", *, kept: bool = False) -> float:
        """How many times the conventional loop's images per second: the median over rounds."""
        pairs = zip(self.seconds(self.conventional), self.seconds(side, kept=kept), strict=True)
        return median(theirs / ours for theirs, ours in pairs)

    def to_json(self) -> dict[str, Any]:
        """Ratios, images per second and what disturbed them."""
        kept = self.workload.teacher is not None
        return {
            "ratio": round(self.ratio(), 3),
            **({"ratio_kept": round(self.ratio(kept=True), 3)} if kept else {}),
            **({"ratio_fp32": round(self.ratio("fp32"), 3)} if "fp32" in self.blocks else {}),
            "at_least": self.workload.at_least,
            **({"at_least_kept": self.workload.at_least_kept} if kept else {}),
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
def playing(orders: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Side]]:
    """A process for each side, ended afterwards."""
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        for order in orders:
            side = Side(order)
            stack.callback(side.close)
            sides[order["side"]] = side
        yield sides


def measure(
    workload: Workload,
    *,
    images: Images,
    sides: Sequence[str],
    rounds: int,
    steps: int | None,
    workers: int,
    report: Report,
) -> Measured:
    """Play `rounds` blocks of each side in turn; the first side is the conventional one."""
    counted = steps or workload.steps
    warmup = workload.warmup if steps is None else min(2, workload.warmup)
    orders = [
        {
            "side": side,
            "workload": workload.name,
            "dataset": images.name,
            "cache": str(images.cache),
            "steps": warmup + counted,
            "workers": workers,
        }
        for side in sides
    ]
    measured = Measured(workload=workload, conventional=sides[0])
    with playing(orders) as playing_sides:
        for round_ in range(1, rounds + 1):
            for name, side in playing_sides.items():
                report(f"{workload.name}: round {round_} of {rounds}, {name}")
                block = judge(side.play(), warmup=warmup)
                measured.blocks.setdefault(name, []).append(block)
    return measured
