"""A process may die, stop or be refused at any write: every write point is tried, none is picked by hand."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.errors import RunError
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store, files


@pytest.fixture
def expected(tmp_path: Path, tiny_spec: RunSpec, play: Any) -> dict[str, bytes]:
    """What a run that nothing happened to publishes."""
    assert play.train(tmp_path / "undisturbed", tiny_spec)
    published: dict[str, bytes] = play.outcome(tmp_path / "undisturbed", tiny_spec)
    return published


def test_a_kill_at_any_write_point_costs_nothing_but_time(
    tmp_path: Path, tiny_spec: RunSpec, play: Any, expected: Any
) -> None:
    for point in itertools.count(1):
        root = tmp_path / str(point)
        child = play.Child(lambda: _train_until(root, tiny_spec, play=play, point=point))  # noqa: B023
        ended = child.wait()
        assert ended in (0, -signal.SIGKILL)
        assert Store(root).scan([tiny_spec.key])[tiny_spec.key].status in ("todo", "resumable", "done")
        play.train(root, tiny_spec)
        assert play.outcome(root, tiny_spec) == expected, f"killed at write point {point}"
        if ended == 0:
            break
    assert point > 100


def _train_until(root: Path, spec: RunSpec, *, play: Any, point: int, flavour: str = "") -> object:
    play.at_point(point, play.signal_self(signal.SIGKILL))
    return play.train(root, spec, flavour=flavour)


def test_repeated_kills_at_random_points_cost_nothing_but_time(
    tmp_path: Path, tiny_spec: RunSpec, play: Any, expected: Any
) -> None:
    chance = random.Random(7)
    for number in range(10):
        root = tmp_path / str(number)
        for _ in range(6):
            point = chance.randrange(1, 120)
            play.Child(lambda: _train_until(root, tiny_spec, play=play, point=point)).wait()  # noqa: B023
        play.train(root, tiny_spec)
        assert play.outcome(root, tiny_spec) == expected


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.drill)])
def test_an_owner_stopped_at_any_write_point_does_no_harm_when_it_wakes(
    tmp_path: Path, tiny_spec: RunSpec, play: Any, stride: int
) -> None:
    for point in itertools.count(1, stride):
        root = tmp_path / str(point)
        sleeper = play.Child(lambda: _train_and_stop(root, tiny_spec, play=play, point=point))  # noqa: B023
        if not sleeper.is_stopped():
            break
        play.train(root, tiny_spec, flavour="other numerics")
        before = play.outcome(root, tiny_spec)
        result = (Store(root).run(tiny_spec).path / "result.json").read_bytes()
        assert sleeper.wake() in (0, 3)
        assert play.outcome(root, tiny_spec) == before, f"stopped at write point {point}"
        assert (Store(root).run(tiny_spec).path / "result.json").read_bytes() == result
    assert point > 100


def _train_and_stop(root: Path, spec: RunSpec, *, play: Any, point: int) -> object:
    play.at_point(point, play.signal_self(signal.SIGSTOP))
    return play.train(root, spec, flavour="sleeper")


@pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.drill)])
def test_a_kill_while_weights_are_given_back_leaves_them_missing_or_sound(
    tmp_path: Path, tiny_spec: RunSpec, play: Any, stride: int
) -> None:
    for point in itertools.count(1, stride):
        root = tmp_path / str(point)
        play.train(root, tiny_spec)
        run = Store(root).run(tiny_spec)
        result = (run.path / "result.json").read_bytes()
        (run.path / "weights/best.pt").unlink()
        ended = play.Child(lambda: _train_until(root, tiny_spec, play=play, point=point, flavour="x")).wait()  # noqa: B023
        play.train(root, tiny_spec, flavour="y")
        play.outcome(root, tiny_spec)
        assert (run.path / "result.json").read_bytes() == result
        if ended == 0:
            break


@pytest.mark.parametrize("stride", [3, pytest.param(1, marks=pytest.mark.drill)])
def test_a_full_disk_at_any_write_point_is_one_clear_error_and_the_run_goes_on_later(
    tmp_path: Path,
    tiny_spec: RunSpec,
    play: Any,
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
    stride: int,
) -> None:
    monkeypatch.setattr(files, "at_write_point", files.at_write_point)  # to be put back
    for point in itertools.count(1, stride):
        root = tmp_path / str(point)
        disk = _FullDisk()
        play.at_point(point, disk.refuse)
        try:
            play.train(root, tiny_spec)
        except RunError as error:
            assert "No space left on device" in str(error)  # noqa: PT017 - hints are not always an error
        files.at_write_point = lambda name: None
        play.train(root, tiny_spec)
        assert play.outcome(root, tiny_spec) == expected, f"refused at write point {point}"
        assert not list(root.rglob("*.tmp"))
        if not disk.asked:
            break
    assert point > 100


class _FullDisk:
    asked = False

    def refuse(self) -> None:
        self.asked = True
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
