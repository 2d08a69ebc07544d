"""The time left is told from what was planned and what has been done of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tfkd_cli.backends import Event
from tfkd_cli.plan import Estimate, Progress, make_plan
from tfkd_cli.progress import Follower
from tfkd_cli.spec import RunSpec

FIRST = RunSpec(dataset="digits", student="resnet8")
SECOND = replace(FIRST, seed=1)


def follower(monkeypatch: pytest.MonkeyPatch, *, share: float = 0.0) -> Follower:
    """Two runs of 100 s each, begun 10 s ago; of the first, `share` was trained before."""
    plan = make_plan(
        {"run": (FIRST, SECOND)},
        progress={FIRST.key: Progress("resumable", share)} if share else {},
        cost=lambda spec: Estimate(100.0, "estimate"),
    )
    made = Follower(plan, {spec.folder: spec for spec in (FIRST, SECOND)})
    monkeypatch.setattr("time.monotonic", lambda: made.started + 10.0)
    return made


def test_before_anything_is_done_the_estimate_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert follower(monkeypatch).left() == "about 3 min 20 s of work ahead (estimate)"


def test_the_epochs_of_a_run_under_way_count(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = follower(monkeypatch)
    followed.tell(Event(kind="progress", folder=FIRST.folder, epoch=1, epochs=10))
    assert followed.left() == "about 3 min 10 s left"  # 10 s of 200 took 10 s


def test_what_was_trained_before_does_not_count_as_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = follower(monkeypatch, share=0.5)
    followed.tell(Event(kind="progress", folder=FIRST.folder, epoch=5, epochs=10))
    assert "(estimate)" in followed.left()
    followed.tell(Event(kind="progress", folder=FIRST.folder, epoch=6, epochs=10))
    assert followed.left() == "about 2 min 20 s left"  # 10 s of 150 took 10 s
