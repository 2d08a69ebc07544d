"""Ctrl-C once and twice, kills of every process, two commands at once: nothing is lost, nothing is left."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from subprocess import Popen

    from tests.drills.conftest import Drill, Ended
    from tests.drills.ledger import Ledger

    MakeDrill = Callable[..., Drill]
    Recovers = Callable[[Drill], None]
    Act = Callable[[Any, Drill], None]

INTERRUPTED = 130


@pytest.fixture
def acts(play: Any, ledger: Ledger, undisturbed: Callable[..., Any]) -> Acts:
    return Acts(play, ledger, undisturbed)


class Acts:
    """What may happen to a command in the middle of its work, and what must hold at once."""

    def __init__(self, play: Any, ledger: Ledger, undisturbed: Callable[..., Any]) -> None:
        self._play, self._ledger, self._undisturbed = play, ledger, undisturbed
        self.chance = random.Random(0)

    def ctrl_c(self, drill: Drill) -> None:
        """The workers save and end; the message says how to go on."""
        process = self._at_work(drill)
        os.killpg(process.pid, signal.SIGINT)
        ended = drill.ended(process)
        self._interrupted(drill, ended, lost_seconds=0.0)
        assert "the same command goes on from there" in ended.err
        states = drill.store.scan().values()
        assert all(state.status in ("todo", "resumable", "done") for state in states)
        assert any(state.status == "resumable" for state in states)

    def ctrl_c_twice(self, drill: Drill) -> None:
        """Workers that cannot save (stopped here) hold up a first Ctrl-C; a second one ends them."""
        process = self._at_work(drill)
        workers = drill.workers()
        for pid in workers:
            self._play.kill(pid, signal.SIGSTOP)
        os.killpg(process.pid, signal.SIGINT)
        # Two signals that are sent before the command has taken the first are one: it passes that on.
        self._play.until(lambda: any(map(self._play.is_to_end, workers)) or None)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)
        self._interrupted(drill, drill.ended(process), lost_seconds=1.0)

    def kill_the_command(self, drill: Drill) -> None:
        """The workers see the pipe of the command close, save and end."""
        process = self._at_work(drill)
        process.kill()
        assert drill.ended(process).code == -signal.SIGKILL
        drill.check()
        assert any(state.status == "resumable" for state in drill.store.scan().values())
        self._ledger.fault(lost_seconds=0.0)

    def kill_all_but_workers(self, drill: Drill) -> None:
        """Orphans notice, save and end."""
        process = self._at_work(drill)
        for pid in drill.forkservers():
            self._play.kill(pid)
        process.kill()
        drill.ended(process)
        drill.check()
        self._ledger.fault(lost_seconds=0.0, times=2)

    def kill_everything(self, drill: Drill) -> None:
        """As when the machine stops."""
        process, since = self._at_work(drill), time.monotonic()
        for pid in drill.processes():
            self._play.kill(pid)
        drill.ended(process)
        drill.check()
        self._ledger.fault(lost_seconds=time.monotonic() - since + 1.0)

    def kill_the_forkserver(self, drill: Drill) -> None:
        """The command starts another one, and ends as if nothing had happened."""
        process = self._at_work(drill)
        for pid in drill.forkservers():
            self._play.kill(pid)
        ended = drill.ended(process)
        assert ended.code == 0, ended.err
        self._ledger.fault(lost_seconds=0.0)

    def two_at_once(self, drill: Drill) -> None:
        """Both end with the table of one that was alone."""
        processes = [drill.start(), drill.start()]
        both = [drill.ended(process) for process in processes]
        outcome, table = self._undisturbed(drill.command)
        self._ledger.fault(lost_seconds=0.0)
        self._ledger.lost += drill.outcome() != outcome
        assert [ended.code for ended in both] == [0, 0], both
        assert [json.loads(ended.out) for ended in both] == [table, table]
        assert drill.outcome() == outcome

    def _at_work(self, drill: Drill) -> Popen[bytes]:
        """The command, after some epochs more than were done before; no process is left unreaped by it."""
        before = drill.epochs()
        process = drill.start()
        wanted = before + self.chance.randint(1, 6)
        self._play.until(lambda: drill.epochs() >= wanted or process.poll() is not None or None, pause=0.005)
        assert process.poll() is None, drill.ended(process)
        ours = {process.pid, *drill.forkservers()}
        self._play.until(lambda: not self._play.zombies_of(ours) or None)
        return process

    def _interrupted(self, drill: Drill, ended: Ended, *, lost_seconds: float) -> None:
        assert (ended.code, ended.clear) == (INTERRUPTED, True), ended.err
        drill.check()
        self._ledger.fault(lost_seconds=lost_seconds)


def test_whatever_happens_to_a_command_the_same_command_goes_on(drill: MakeDrill, acts: Acts) -> None:
    disturbed = drill()
    acts.ctrl_c(disturbed)
    acts.kill_the_command(disturbed)
    acts.two_at_once(disturbed)


@pytest.mark.drill
@pytest.mark.timeout(0)
@pytest.mark.parametrize("repetition", range(10))
@pytest.mark.parametrize(
    "act",
    [Acts.ctrl_c, Acts.ctrl_c_twice, Acts.kill_the_command, Acts.kill_all_but_workers, Acts.kill_everything],
)
def test_a_command_stopped_at_any_moment_goes_on(
    drill: MakeDrill, acts: Acts, recovers: Recovers, act: Act, repetition: int
) -> None:
    acts.chance = random.Random(repetition)
    disturbed = drill()
    act(acts, disturbed)
    recovers(disturbed)


@pytest.mark.drill
@pytest.mark.timeout(0)
@pytest.mark.parametrize("repetition", range(10))
@pytest.mark.parametrize("act", [Acts.kill_the_forkserver, Acts.two_at_once])
def test_a_command_that_is_disturbed_ends_by_itself(
    drill: MakeDrill, acts: Acts, recovers: Recovers, act: Act, repetition: int
) -> None:
    acts.chance = random.Random(repetition)
    disturbed = drill()
    act(acts, disturbed)
    recovers(disturbed)
