"""What is missing, in order, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli.errors import RequestError
from tfkd_cli.methods import Distillation
from tfkd_cli.plan import Estimate, Plan, make_plan
from tfkd_cli.spec import RunSpec, Teacher
from tfkd_cli.store import RunState

TEACHER = RunSpec(dataset="digits", student="resnet20")
BASELINE = RunSpec(dataset="digits", student="resnet8")
STUDENT = replace(BASELINE, loss=Distillation(), teacher=Teacher(run=TEACHER))
DONE = RunState(key="", name="", status="done")


def plan(wanted: dict[str, list[RunSpec]], **states: RunState) -> Plan:
    by_name = {"teacher": TEACHER.key, "baseline": BASELINE.key, "student": STUDENT.key}
    by_key = {by_name[name]: each for name, each in states.items()}
    return make_plan(wanted, states=by_key, cost=lambda spec: Estimate(60.0, "estimate", 1000))


def test_a_student_brings_its_teacher_first() -> None:
    assert plan({"t": [STUDENT]}).unfinished == (TEACHER, STUDENT)


def test_a_finished_teacher_is_not_planned_again() -> None:
    assert plan({"t": [STUDENT]}, teacher=DONE).unfinished == (STUDENT,)


def test_finished_students_do_not_need_a_missing_teacher() -> None:
    made = plan({"t": [STUDENT]}, student=DONE)
    assert made.unfinished == ()
    assert made.counts().wanted == 1


def test_a_finished_teacher_without_weights_is_trained_again_when_a_student_needs_it() -> None:
    made = plan({"t": [STUDENT]}, teacher=replace(DONE, missing=("best.pt", "last.pt")))
    assert made.unfinished == (TEACHER, STUDENT)


def test_a_finished_teacher_without_weights_is_left_alone_when_nobody_needs_it() -> None:
    record_only = replace(DONE, missing=("best.pt", "last.pt"))
    assert plan({"t": [STUDENT, TEACHER]}, teacher=record_only, student=DONE).unfinished == ()


def test_a_freed_snapshot_that_no_student_needs_costs_nothing() -> None:
    cleaned = replace(DONE, missing=("epoch-001.pt",))
    assert plan({"t": [STUDENT]}, teacher=cleaned).unfinished == (STUDENT,)


def test_a_run_of_an_older_trainer_version_is_never_planned() -> None:
    with pytest.raises(RequestError, match="made by trainer version 1"):
        plan({"t": [replace(BASELINE, trainer=1)]})


def test_two_tables_share_a_run() -> None:
    made = plan({"one": [STUDENT], "two": [STUDENT, BASELINE]})
    assert made.counts().wanted == 3
    assert made.counts("one").shared == 2
    assert made.counts("two").wanted == 3


def test_a_resumable_run_costs_what_is_left_of_it() -> None:
    made = plan({"t": [BASELINE]}, baseline=replace(DONE, status="resumable", epoch=3, epochs=4))
    assert made.counts().resumable == 1
    assert made.counts().seconds == 15.0


def test_the_critical_path_is_teacher_then_student() -> None:
    made = plan({"t": [STUDENT, BASELINE]})
    assert made.counts().critical_path_seconds == 120.0
    assert made.counts().seconds == 180.0
    assert made.wall_seconds(1) == 180.0
    assert made.wall_seconds(2) == 120.0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=20), st.integers(1, 4))
def test_any_plan_holds_each_run_once_with_parents_first(wanted: list[tuple[bool, int]], slots: int) -> None:
    runs = [replace(STUDENT if taught else BASELINE, seed=seed) for taught, seed in wanted]
    made = plan({"t": runs})
    keys = list(made.runs)
    assert len(set(keys)) == len(keys)
    for item in made.runs.values():
        assert all(keys.index(parent.key) < keys.index(item.spec.key) for parent in item.spec.parents)
    assert made.wall_seconds(slots) >= made.counts().critical_path_seconds - 1e-9
    assert made.wall_seconds(slots) * slots >= made.counts().seconds - 1e-9


FAST = STUDENT.recipe.fast()
FAST_TEACHER = replace(TEACHER, recipe=FAST)


def taught(*, seed: int = 0, epochs: int | None = None, temperature: float = 4) -> RunSpec:
    recipe = FAST if epochs is None else FAST.with_epochs(epochs)
    loss, teacher = Distillation(temperature=temperature), Teacher(run=FAST_TEACHER)
    return replace(STUDENT, recipe=recipe, loss=loss, teacher=teacher, seed=seed)


def test_teacher_logits_that_runs_share_are_listed_with_students_epochs_and_size() -> None:
    same = [taught(), taught(temperature=20), taught(seed=1)]
    alone = replace(taught(seed=2), teacher=Teacher(run=FAST_TEACHER, checkpoint=3))
    paper = [STUDENT, replace(STUDENT, seed=1)]  # each seed has views of its own
    made = make_plan(
        {"t": [*same, alone, *paper]},
        states={},
        cost=lambda spec: Estimate(3600.0, "estimate", 1000, 50_000_000 * spec.recipe.epochs, 360.0),
        cached_epochs=lambda teacher: FAST.epochs // 4,
    )
    assert made.to_json()["teacher_logits"] == [
        {
            "teacher": "resnet20",
            "teacher_key": FAST_TEACHER.key,
            "students": [spec.key for spec in same],
            "epochs": FAST.epochs,
            "epochs_cached": FAST.epochs // 4,
            "disk_gb": 0.05 * FAST.epochs,
            "gpu_hours": 0.075,
        }
    ]


def test_teacher_logits_no_unfinished_run_uses_are_not_planned() -> None:
    same = [taught(), taught(seed=1)]
    for states, wanted in (
        ({}, 1),
        ({same[0].key: DONE}, 1),
        (dict.fromkeys((s.key for s in same), DONE), 0),
    ):
        made = make_plan({"t": same}, states=states, cost=lambda spec: Estimate(1.0, "estimate"))
        assert len(made.teacher_logits) == wanted


def with_teacher(spec: RunSpec) -> Estimate:
    """50 seconds of training and 10 of the teacher's forward passes; 60 for a run without teacher."""
    return Estimate(60.0, "estimate", teacher_seconds=10.0 if spec.teacher else 0.0)


def test_cached_forward_passes_are_paid_for_once() -> None:
    fast, paper = [taught(), taught(seed=1)], [STUDENT, replace(STUDENT, seed=1)]
    for runs, seconds in ((fast, 10 + 2 * 50), (paper, 2 * 60)):
        made = make_plan({"t": runs}, states={}, cost=with_teacher)
        assert made.counts().seconds == seconds + 60  # and the teacher's own training


def test_the_critical_path_holds_the_forward_passes_which_every_student_waits_for() -> None:
    made = make_plan({"t": [taught(), taught(seed=1)]}, states={}, cost=with_teacher)
    assert made.teacher_logits[0].seconds_left == 10
    assert made.counts().critical_path_seconds == made.wall_seconds(2) == 60 + 10 + 50
    assert made.wall_seconds(1) == 60 + 10 + 2 * 50


def test_epochs_that_are_cached_or_that_all_runs_have_passed_cost_no_forward_pass() -> None:
    same = [taught(), taught(seed=1)]
    half = {spec.key: replace(DONE, status="resumable", epoch=1, epochs=2) for spec in same}
    for states, epochs, left in (
        ({}, 0, 10.0),
        ({}, FAST.epochs // 4, 7.5),
        (half, 0, 5.0),
        (half, FAST.epochs, 0.0),
        ({same[0].key: DONE}, 0, 10.0),  # its teacher's logits were not cached, or are deleted
    ):
        cached = lambda teacher, cached=epochs: cached  # noqa: E731
        made = make_plan({"t": same}, states=states, cost=with_teacher, cached_epochs=cached)
        assert made.teacher_logits[0].seconds_left == left


def test_beyond_the_cap_every_student_runs_its_teacher_itself() -> None:
    sized = lambda spec: with_teacher(spec)._replace(logits_bytes=1000)  # noqa: E731
    for limit, seconds in ((1000, 10), (500, 5 + 2 * 5), (0, 2 * 10)):
        made = make_plan(
            {"t": [taught(), taught(seed=1)]},
            states={},
            cost=sized,
            cache_limit=limit,
        )
        assert made.counts().seconds == 60 + 2 * 50 + seconds


def test_a_run_alone_may_have_to_run_its_teacher_for_every_epoch() -> None:
    made = make_plan({"t": [taught(), taught(seed=1)]}, states={}, cost=with_teacher)
    students = [item for item in made.runs.values() if item.spec.teacher]
    assert [(item.seconds_left, item.seconds_left_alone) for item in students] == [(60, 60), (50, 60)]


def test_a_run_of_the_plan_says_which_weights_its_students_need_of_it() -> None:
    early = replace(STUDENT, teacher=Teacher(run=TEACHER, checkpoint=1))
    finished = replace(STUDENT, seed=1, teacher=Teacher(run=TEACHER, checkpoint="last"))
    made = make_plan(
        {"t": [STUDENT, early, finished]},
        states={finished.key: DONE},
        cost=lambda spec: Estimate(1.0, "estimate"),
    )
    weights = {run.spec.key: run.weights for run in made.todo}
    assert weights == {TEACHER.key: ("best.pt", "epoch-001.pt"), STUDENT.key: (), early.key: ()}


def test_logits_are_cached_by_runs_that_use_the_same_and_no_others() -> None:
    same = [taught(), taught(temperature=20), taught(seed=1)]
    alone = replace(taught(seed=2), teacher=Teacher(run=FAST_TEACHER, checkpoint=3))
    wanted = [*same, alone, STUDENT, replace(STUDENT, seed=1)]
    for states in ({}, {same[0].key: DONE}):  # a finished run has cached some: the rest go on with them
        made = make_plan({"t": wanted}, states=states, cost=with_teacher)
        caching = {run.spec.key for run in made.todo if run.caches_logits}
        assert caching == {spec.key for spec in same} - states.keys()
