"""The policy table: what follows from each way a job can end."""

from __future__ import annotations

import pytest

from tfkd_cli.backends.slurm.job import COME_BACK, Cause, cause_of_stop, comes_back


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


@pytest.mark.parametrize("cause", ["cancelled", "refused", "out of memory", "orphaned"])
def test_a_job_that_would_end_the_same_again_does_not_come_back(cause: Cause) -> None:
    assert not comes_back(cause, [0, 10])


@pytest.mark.parametrize("cause", sorted(COME_BACK))
def test_two_ends_without_a_newer_checkpoint_are_the_last_but_for_preemptions(cause: Cause) -> None:
    assert comes_back(cause, [0, 10])
    assert comes_back(cause, [0, 10, 10])
    assert comes_back(cause, [0, 10, 10, 10]) == (cause == "preemption")


def test_a_job_that_gets_further_each_time_comes_back_however_often_it_crashes() -> None:
    assert comes_back("crash", range(50))
