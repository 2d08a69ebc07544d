"""Very many tiny runs, processes killed at random all the while: each run is done once or accounted for."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.drills.conftest import Drill
    from tests.drills.ledger import Ledger

RECIPE = ("--epochs", "1", "--batch-size", "64", "--threads", "1", "--jobs", "2", "--json")  # one step
GROWTH = 1.2  # the parent may hold a little per run, and no more
PAUSES = (0.2, 1.5)  # seconds between two kills
FAKE = "fake_preload"


def soak(runs: int) -> tuple[str, ...]:
    """The command of so many runs."""
    return ("run", "--student", "plain-cnn", "--method", "baseline", "--seeds", f"0-{runs - 1}", *RECIPE)


class Watch:
    """Kills workers now and then, seldom the forkserver; looks at the memory and children of the command."""

    def __init__(self, drill: Drill, ledger: Ledger, play: Any, *, pauses: tuple[float, float]) -> None:
        self.drill, self.ledger, self.play, self.pauses = drill, ledger, play, pauses
        self.chance = random.Random(1)
        self.memory: list[int] = []  # kB of the command, after each kill

    def until_the_end(self, process: subprocess.Popen[bytes]) -> None:
        """Until the command has ended by itself."""
        while process.poll() is None:
            time.sleep(self.chance.uniform(*self.pauses))
            workers, forkservers = self.drill.workers(), self.drill.forkservers()
            if workers and process.poll() is None:
                self.play.kill(self.chance.choice(forkservers if self.chance.random() < 0.05 else workers))
                self.ledger.fault(lost_seconds=1.0)
                self.memory.append(_resident_kb(process.pid))
            ours = {process.pid, *forkservers}
            self.play.until(lambda: not self.play.zombies_of(ours) or process.poll() is not None or None)  # noqa: B023


def _resident_kb(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)


def soaked(
    drill: Drill, ledger: Ledger, play: Any, *, runs: int, pauses: tuple[float, float], **env: str
) -> list[int]:
    """Command after command until one is not disturbed by a failure; the memory of the first."""
    watch = Watch(drill, ledger, play, pauses=pauses)
    for _ in range(5):
        process = drill.start(env=env)
        watch.until_the_end(process)
        ended = drill.ended(process)
        assert ended.clear, ended.err
        drill.check()
        states = list(drill.store.scan().values())
        assert len(states) == runs
        told = sum("FAILED" in line for line in ended.err.splitlines())
        undone = [state.name for state in states if state.status != "done"]
        assert len(undone) <= told, (undone, ended.err[-2000:])
        if ended.code == 0:
            break
    assert ended.code == 0, ended.err[-2000:]
    [table] = json.loads(ended.out)
    assert {cell["measured"]["n"] for cell in table["cells"]} == {runs}
    for run in drill.store.runs():
        assert run.result() is not None
    assert drill.attempts() <= runs + 2 * ledger.tried  # a run is trained again only when it was killed
    return watch.memory


def test_a_soak_of_runs_that_only_count_ends_with_each_done_once(
    drill: Callable[..., Drill], ledger: Ledger, play: Any
) -> None:
    memory = soaked(drill("soak", *soak(200)), ledger, play, runs=200, pauses=(0.05, 0.4), DRILL_PRELOAD=FAKE)
    assert len(memory) > 3


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_a_soak_of_real_runs_ends_with_each_done_once_and_the_memory_stays_flat(
    drill: Callable[..., Drill], ledger: Ledger, play: Any
) -> None:
    runs = int(os.environ.get("TFKD_SOAK_RUNS", "2000"))
    memory = soaked(drill("soak", *soak(runs)), ledger, play, runs=runs, pauses=PAUSES)
    quarter = len(memory) // 4
    early, late = (sorted(part)[len(part) // 2] for part in (memory[:quarter], memory[-quarter:]))
    assert late < GROWTH * early, memory
