"""The policy table: what follows from each way a job can end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli.backends.slurm.policy import COME_BACK, Cause, Verdict, cause_of_stop, decide


@pytest.mark.parametrize(
    ("reason", "shown", "cause"),
    [
        ("USR2", {"JobState": "RUNNING", "PreemptTime": "None"}, "time limit"),
        ("USR2", {"JobState": "RUNNING", "PreemptTime": "2026-11-22T18:35:45"}, "preemption"),
        ("TERM", {"JobState": "RUNNING", "PreemptTime": "2026-11-22T18:35:45"}, "preemption"),
        ("TERM", {"JobState": "COMPLETING", "PreemptTime": "None", "Restarts": "0"}, "cancelled"),
        # without a grace time there is no PreemptTime, but SLURM has requeued the job already (seen on 22.05)
        ("TERM", {"JobState": "COMPLETING", "Restarts": "1"}, "preemption"),
        ("TERM", {"JobState": "COMPLETING", "Reason": "TimeLimit", "PreemptTime": "None"}, "time limit"),
        ("TERM", {}, "cancelled"),
        ("USR2", {}, "time limit"),
        ("the process that started this one is gone", {}, "orphaned"),
    ],
)
def test_the_cause_of_a_signal(reason: str, shown: dict[str, str], cause: Cause) -> None:
    assert cause_of_stop(reason, shown, restarts=0) == cause


@pytest.mark.parametrize(
    ("cause", "verdict"),
    [
        ("time limit", Verdict(requeue=True, exit_code=75)),
        ("preemption", Verdict(requeue=True, exit_code=75)),
        ("cancelled", Verdict(requeue=False, exit_code=143)),
        ("crash", Verdict(requeue=True, exit_code=75)),
        ("refused", Verdict(requeue=False, exit_code=1)),
        ("out of memory", Verdict(requeue=False, exit_code=1)),
        ("orphaned", Verdict(requeue=False, exit_code=75)),
        ("lost", Verdict(requeue=True, exit_code=75)),
    ],
)
def test_the_first_end_by_each_cause(cause: Cause, verdict: Verdict) -> None:
    assert decide(cause, [0, 10]) == verdict


def test_two_ends_without_a_newer_checkpoint_are_the_last() -> None:
    assert decide("lost", [0, 10, 10]).requeue
    verdict = decide("time limit", [0, 10, 10, 10])
    assert not verdict.requeue
    assert verdict.exit_code == 1
    assert "without a newer checkpoint" in verdict.given_up


def test_a_job_preempted_before_its_first_step_again_and_again_is_not_at_fault() -> None:
    assert decide("preemption", [0]).requeue
    assert decide("preemption", [0, 0, 0]).requeue  # two crashes before


def test_a_crash_at_the_same_step_is_tried_once_more() -> None:
    assert decide("crash", [0, 0]).requeue
    assert not decide("crash", [0, 0, 0]).requeue


def test_a_job_that_gets_further_each_time_comes_back_however_often_it_crashes() -> None:
    assert decide("crash", range(50)).requeue


@given(st.sampled_from(sorted(COME_BACK)), st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_a_job_never_exits_with_0_and_comes_back_only_with_75(cause: Cause, steps: list[int]) -> None:
    verdict = decide(cause, steps)
    assert verdict.exit_code == (75 if verdict.requeue else 1)
