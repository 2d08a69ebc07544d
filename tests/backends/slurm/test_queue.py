"""Knowing: one squeue for all, a cache for many windows, records of what squeue has forgotten."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli.backends.slurm import arrays, queue
from tfkd_cli.backends.slurm import submit as submitting
from tfkd_cli.backends.slurm.sending import Submission
from tfkd_cli.errors import RunError
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store

Send = Callable[..., Submission]
Graph = Callable[[int, int], list[RunSpec]]


def test_one_squeue_call_for_all_runs_and_none_for_the_next_30_seconds(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    send(graph(5, 4))
    for _ in range(5):
        assert len(queue.queue_states(store)) == 25
    assert len(fake_slurm.calls("squeue")) == 1


def test_a_store_without_submissions_asks_nothing(fake_slurm: Any, store: Store) -> None:
    assert len(queue.queue_states(store)) == 0
    assert fake_slurm.state["calls"] == []


def test_states_and_reasons_are_those_of_the_newest_job(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    teacher, student = graph(1, 1)
    send([teacher, student])
    fake_slurm.move("1_0", "FAILED", "NonZeroExitCode")
    fake_slurm.move("1_1", "PENDING", queue.NEVER)
    seen = queue.queue_states(store)
    assert (seen[teacher.folder].state, seen[teacher.folder].job_id) == ("FAILED", "1_0")
    assert seen[student.folder].stuck
    send([teacher, student])
    assert queue.queue_states(store)[teacher.folder].job_id == "3"


def test_when_slurm_is_silent_the_last_known_states_come_back_with_their_age(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    send(graph(1, 1))
    known = dict(queue.queue_states(store))
    with fake_slurm.edit() as state:
        state["down"] = True
    later = queue.queue_states(store, fresh=True)
    assert dict(later) == known
    assert "does not answer" in later.error
    assert "What it said 0 s ago is shown" in later.error
    (store.root / "submissions" / "queue.json").unlink()
    assert not queue.queue_states(store)  # nothing is known; that is not "no such jobs"


def test_a_damaged_cache_costs_one_call(fake_slurm: Any, send: Send, graph: Graph, store: Store) -> None:
    send(graph(1, 0))
    queue.queue_states(store)
    (store.root / "submissions" / "queue.json").write_text('{"asked": "x", "jobs": []}')
    assert len(queue.queue_states(store)) == 1


@given(st.text(max_size=200))
def test_no_output_of_slurm_breaks_the_parsers(text: str) -> None:
    with contextlib.suppress(RunError):  # never anything else
        queue.parse_squeue(text)


def test_cancelling_a_part_of_an_array_names_ranges(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    specs = graph(1, 5)
    send(specs)
    assert submitting.cancel(store, [spec.folder for spec in (specs[1], specs[2], specs[4])]) == 3
    assert fake_slurm.calls("scancel") == [["1_[1-2,4]"]]
    assert submitting.cancel(store, [spec.folder for spec in specs]) == 3
    assert submitting.cancel(store, [spec.folder for spec in specs]) == 0


OUT_OF_MEMORY = "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.0. Some of your processes\n"


def write_log(store: Store, job_id: str, text: str) -> None:
    """What job `job_id` and SLURM wrote."""
    [array] = [each for each in arrays.known_arrays(store) if job_id in each.ids]
    array.log_of(job_id).write_text(text)


def write_lives(store: Store, *lines: dict[str, str]) -> None:
    """What the only job of the only submission noted of its lives."""
    [array] = arrays.known_arrays(store)
    path = arrays.lives_path(array.folder, 0)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_how_a_job_ended_is_known_after_slurm_has_forgotten_it(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    [spec] = graph(1, 0)
    send([spec])
    write_log(store, "1", OUT_OF_MEMORY)
    fake_slurm.move("1", "FAILED", "NonZeroExitCode")
    known = queue.queue_states(store, fresh=True)[spec.folder]
    assert known.reason == "out of memory: ask for more (mem_gb)"
    fake_slurm.forget("1")
    assert queue.queue_states(store, fresh=True)[spec.folder] == known


@pytest.mark.parametrize(
    ("log", "lives", "state", "reason"),
    [
        (OUT_OF_MEMORY, [{"event": "began", "cause": ""}], "FAILED", "out of memory"),
        ("training …\n", [{"event": "began", "cause": ""}], "FAILED", "it was killed, or its node died"),
        ("", [{"event": "began", "cause": ""}, {"event": "ended", "cause": "refused"}], "FAILED", "refused"),
        ("", [{"event": "ended", "cause": "cancelled"}], "VANISHED", "its job ended: cancelled"),
        ("module: command not found\n", [], "FAILED", "before its run began: module: command not found"),
        (
            "sh: /no/python: not found\nsrun: error: n1: task 0: Exited\n",
            [],
            "FAILED",
            "/no/python: not found",
        ),
        ("", [], "FAILED", "it ended before its run began"),
        ("slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2026-11-29T15:00:00 ***\n", [], "VANISHED", ""),
        (None, [], "VANISHED", ""),
    ],
)
def test_a_job_that_nobody_looked_at_in_time_is_judged_by_its_log_and_its_lives(
    fake_slurm: Any,
    send: Send,
    graph: Graph,
    store: Store,
    log: str | None,
    lives: Any,
    state: str,
    reason: str,
) -> None:
    [spec] = graph(1, 0)
    send([spec])
    if log is not None:
        write_log(store, "1", log)
    write_lives(store, *lives)
    fake_slurm.forget("1")
    seen = queue.queue_states(store, fresh=True)[spec.folder]
    assert seen.state == state
    assert reason in seen.reason


@pytest.mark.parametrize(
    "line", ["1|main|me|PENDING", "slurm_load_jobs error: whatever", "x|PENDING|None|(null)|a"]
)
def test_output_of_squeue_that_is_not_understood_is_not_no_jobs(
    fake_slurm: Any, send: Send, graph: Graph, store: Store, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(graph(1, 0))
    monkeypatch.setattr(queue, "FORMAT", line)
    with pytest.raises(RunError, match="none of its format"):
        send(graph(1, 0))
    assert len(fake_slurm.state["jobs"]) == 1


def test_a_job_name_of_another_job_may_hold_any_character() -> None:
    text = "CLUSTER: a\n7|RUNNING|None|a|b | c\n8_1|PENDING|launch failed requeued held|x\n"
    jobs = queue.parse_squeue(text)
    assert jobs["7"][0] == "a|b | c"
    assert "scontrol release 8_1" in jobs["8_1"][1].way_out


@pytest.mark.parametrize(
    ("reasons", "way_out"),
    [
        ("JobHeldUser|REQUEUE_HOLD|SPECIAL_EXIT|JobHoldMaxRequeue", "`scontrol release 12_3`"),
        ("launch failed requeued held|job requeued in held state", "`scontrol release 12_3`"),
        ("PartitionTimeLimit|QOSMaxWallDurationPerJobLimit|AssocMaxCpuMinutesPerJobLimit", "timeout_min"),
        ("MaxMemPerLimit|QOSMaxMemoryPerJob|AssocMaxMemPerNode|QOSMinMemory", "mem_gb"),
        ("QOSMaxCpuPerJobLimit|QOSMaxCpuPerNode|PartitionConfig", "cpus_per_task"),
        ("QOSMaxGRESPerJob|AssocMaxGRESPerNode|QOSMinGRES", "gpus_per_node"),
        ("PartitionNodeLimit|QOSMaxNodePerJobLimit", "nodes"),
        ("InvalidAccount|Job's account not known, so it can't use this partition (a allows b)", "account"),
        ("QOSNotAllowed|InvalidQOS", "slurm_qos"),
        ("RESV_DEL_HOLD|ReservationDeleted", "reservation"),
        ("Priority|Resources|BeginTime|QOSMaxJobsPerUserLimit|QOSMaxCpuPerUserLimit|PartitionDown", ""),
        ("Nodes required for job are DOWN, DRAINED or reserved for jobs in higher priority partitions", ""),
    ],
)
def test_a_job_that_never_starts_has_a_way_out_and_one_that_waits_has_none(
    reasons: str, way_out: str
) -> None:
    for reason in reasons.split("|"):
        held = queue.QueueState("PENDING", reason, "12_3")
        if reason.isupper():
            held = queue.QueueState(reason, "", "12_3")
        assert held.way_out.startswith(f"SLURM holds job 12_3 ({reason}): ") == bool(way_out), reason
        assert way_out in held.way_out
        assert held.status == ("blocked" if way_out else "queued")
        assert "{" not in held.way_out
