"""A command, its forkserver and its workers die at any write; the same command ends the same, bit for bit."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.drills.conftest import Drill
    from tests.drills.ledger import Ledger

    MakeDrill = Callable[..., Drill]
    Recovers = Callable[[Drill], None]

COMMAND, WORKERS = "DRILL_KILL_COMMAND", "DRILL_KILL_WORKERS"
AT_ONCE = 2


@pytest.fixture
def dies(drill: MakeDrill, recovers: Recovers, ledger: Ledger) -> Callable[[str, int], bool]:
    """A process of the grid dies at this write point; whether there was one to die."""

    def die(who: str, point: int) -> bool:
        disturbed = drill(f"{who}-{point}")
        ended = disturbed(env={who: str(point)})
        assert ended.code in (-signal.SIGKILL, 0, 1), ended.err
        assert ended.clear, ended.err
        disturbed.check()
        if ended.code == -signal.SIGKILL:
            ledger.fault(lost_seconds=0.0)
        disturbed.count_kills(ledger)
        recovers(disturbed)
        shutil.rmtree(disturbed.root)
        return ended.code != 0

    return die


def test_a_kill_at_a_write_of_the_workers_costs_nothing_but_time(dies: Callable[[str, int], bool]) -> None:
    assert dies(WORKERS, 47)


@pytest.mark.drill
@pytest.mark.timeout(0)
@pytest.mark.parametrize("who", [COMMAND, WORKERS])
def test_a_kill_at_every_write_costs_nothing_but_time(
    dies: Callable[[str, int], bool], undisturbed: Callable[..., Any], who: str
) -> None:
    undisturbed()
    with ThreadPoolExecutor(AT_ONCE) as both:
        for first in itertools.count(1, AT_ONCE):
            points = range(first, first + AT_ONCE)
            if not all(both.map(dies, [who] * AT_ONCE, points)):
                break
    assert first > (10 if who == COMMAND else 60)
