"""The time left is told from what was planned and what has been done of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tfkd_cli.backends import Event
from tfkd_cli.methods import LabelSmoothing
from tfkd_cli.plan import Estimate, make_plan
from tfkd_cli.progress import Follower, short_names
from tfkd_cli.spec import Recipe, RunSpec
from tfkd_cli.store import RunState

FIRST = RunSpec(dataset="digits", student="resnet8")
SECOND = replace(FIRST, seed=1)


def follower(monkeypatch: pytest.MonkeyPatch, *, share: float = 0.0, elapsed: float = 0.0) -> Follower:
    """Two runs of 100 s each, 20 of them for the start, begun together; of the first, `share` was trained."""
    state = RunState(key=FIRST.key, name="", status="resumable", epoch=round(10 * share), epochs=10)
    plan = make_plan(
        {"run": (FIRST, SECOND)},
        states={FIRST.key: state} if share else {},
        cost=lambda spec: Estimate(100.0, "estimate", start_seconds=20.0),
    )
    made = Follower(plan)
    monkeypatch.setattr("time.monotonic", lambda: made.started)
    for spec in (FIRST, SECOND):
        made.tell(Event(kind="started", folder=spec.folder, epochs=10))
    monkeypatch.setattr("time.monotonic", lambda: made.started + elapsed)
    return made


def test_before_anything_has_started_the_whole_plan_is_told() -> None:
    plan = make_plan({"run": (FIRST, SECOND)}, states={}, cost=lambda spec: Estimate(100.0, "estimate"))
    followed = Follower(plan, slots=2)
    assert followed.left() == "about 1 min 40 s left (estimate)"


@pytest.mark.parametrize(
    ("elapsed", "left"), [(0.0, "1 min 40 s"), (10.0, "1 min 30 s"), (20.0, "1 min 20 s")]
)
def test_while_runs_start_the_time_left_is_what_was_planned_less_what_has_passed(
    monkeypatch: pytest.MonkeyPatch, elapsed: float, left: str
) -> None:
    assert follower(monkeypatch, elapsed=elapsed).left() == f"about {left} left (estimate)"


def test_a_start_that_takes_longer_than_planned_never_makes_the_time_left_shrink(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert follower(monkeypatch, elapsed=40.0).left() == "about 2 min left (estimate)"


def test_at_the_planned_pace_the_first_epoch_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = follower(monkeypatch, elapsed=28.0)
    for spec in (FIRST, SECOND):
        followed.tell(Event(kind="progress", folder=spec.folder, epoch=1, epochs=10))
    assert followed.left() == "about 1 min 12 s left"


def test_the_pace_of_the_runs_prevails_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = follower(monkeypatch, elapsed=300.0)
    for spec in (FIRST, SECOND):
        followed.tell(Event(kind="progress", folder=spec.folder, epoch=9, epochs=10))
    assert followed.left() == "about 23 s left"  # 184 s of planned work took 600, and 40 count as planned


def test_what_was_trained_before_does_not_count_as_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    followed = follower(monkeypatch, share=0.5, elapsed=20.0)
    followed.tell(Event(kind="progress", folder=FIRST.folder, epoch=5, epochs=10))
    assert followed.left() == "about 1 min left"  # of 60 and 100 s, both have spent their 20


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
