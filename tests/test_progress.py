"""The time left is told from what was planned and what has been done of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tfkd_cli.backends import Event
from tfkd_cli.methods import LabelSmoothing
from tfkd_cli.plan import Estimate, Progress, make_plan
from tfkd_cli.progress import Follower, short_names
from tfkd_cli.spec import Recipe, RunSpec

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
    assert follower(monkeypatch).left() == "about 3 min 20 s ahead (estimate)"


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


def test_a_short_name_says_what_tells_runs_apart_and_no_more() -> None:
    smoothed = replace(FIRST, loss=LabelSmoothing(), seed=1)
    names = short_names([FIRST, smoothed], {"digits": "photos"})
    assert [*names.values()] == ["photos · baseline · s0", "photos · lsr · s1"]
    other = replace(FIRST, student="plain-cnn")
    assert short_names([FIRST, other], {})[other.folder] == "digits · plain-cnn · baseline · s0"
    trial = replace(FIRST, recipe=Recipe(lr=0.05))
    assert [*short_names([FIRST, trial], {}).values()] == [
        "digits · baseline · s0 · lr=0.1",
        "digits · baseline · s0 · lr=0.05",
    ]


def test_lines_of_progress_have_the_short_names(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    followed = follower(monkeypatch)
    followed.names = {FIRST.folder: "photos · lsr · s1"}
    followed.tell(Event(kind="finished", folder=FIRST.folder, accuracy=93.0))
    assert "[1/2] done    photos · lsr · s1  93.00 %" in capfd.readouterr().err
