"""Knowing: one squeue for all, a cache for many windows, sacct only for what squeue has forgotten."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli.backends.slurm import cancel, queue
from tfkd_cli.backends.slurm import submit as submitting
from tfkd_cli.backends.slurm.profile import Profile
from tfkd_cli.backends.slurm.sending import Submitted
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.execution import Execution
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store

Send = Callable[..., Submitted]
Graph = Callable[[int, int], list[RunSpec]]


def test_one_squeue_call_for_all_runs_and_none_for_the_next_30_seconds(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    send(graph(5, 4))
    for _ in range(5):
        assert len(queue.queue_states(store)) == 25
    assert len(fake_slurm.calls("squeue")) == 1
    assert fake_slurm.calls("sacct") == []


def test_a_store_without_submissions_asks_nothing(fake_slurm: Any, store: Store) -> None:
    assert len(queue.queue_states(store)) == 0
    assert fake_slurm.state["calls"] == []


def test_states_and_reasons_are_those_of_the_newest_job(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    teacher, student = graph(1, 1)
    send([teacher, student])
    fake_slurm.move("1", "FAILED", "NonZeroExitCode")
    fake_slurm.move("2", "PENDING", queue.NEVER)
    seen = queue.queue_states(store)
    assert (seen[teacher.folder].state, seen[teacher.folder].job_id) == ("FAILED", "1")
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
    assert later.age_seconds >= 0


def test_sacct_is_asked_only_for_vanished_ids_and_in_chunks(
    fake_slurm: Any, send: Send, graph: Graph, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "SACCT_IDS", 2)
    for spec in graph(5, 0):
        send([spec])
    with fake_slurm.edit() as state:
        state["accounting"] = {str(job): "CANCELLED by 0" for job in (1, 2, 3)}
    for job in ("1", "2", "3"):
        fake_slurm.forget(job)
    seen = queue.queue_states(store, fresh=True)
    states = [seen[spec.folder].state for spec in graph(5, 0)]
    assert states == ["CANCELLED"] * 3 + ["PENDING"] * 2
    assert [call[-1] for call in fake_slurm.calls("sacct")] == ["1,2", "3"]


def test_runs_that_are_done_are_not_asked_of_sacct(
    fake_slurm: Any, send: Send, graph: Graph, store: Store, finish: Callable[[RunSpec], None]
) -> None:
    send(graph(1, 0))
    finish(graph(1, 0)[0])
    fake_slurm.forget("1")
    queue.queue_states(store, fresh=True)
    assert fake_slurm.calls("sacct") == []


def test_a_damaged_cache_costs_one_call(fake_slurm: Any, send: Send, graph: Graph, store: Store) -> None:
    send(graph(1, 0))
    queue.queue_states(store)
    (store.root / "submissions" / "queue.json").write_text('{"asked": "x", "jobs": []}')
    assert len(queue.queue_states(store)) == 1


@given(st.text(max_size=200))
def test_no_output_of_slurm_breaks_the_parsers(text: str) -> None:
    queue.parse_sacct(text)
    with contextlib.suppress(RunError):  # never anything else
        queue.parse_squeue(text)


def test_cancelling_a_part_of_an_array_names_ranges(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    specs = graph(1, 5)
    send(specs)
    assert cancel.cancel(store, [spec.key for spec in (specs[1], specs[2], specs[4])]) == 3
    assert fake_slurm.calls("scancel") == [["2_[0-1,3]"]]
    assert cancel.cancel(store, [spec.key for spec in specs]) == 3
    assert cancel.cancel(store, [spec.key for spec in specs]) == 0


def test_retry_points_waiting_students_to_the_new_attempt(
    fake_slurm: Any, send: Send, graph: Graph, store: Store, profile: Profile, execution: Execution
) -> None:
    teacher, *students = graph(1, 2)
    send([teacher, *students])
    fake_slurm.move("1", "FAILED", "NonZeroExitCode")
    fake_slurm.move("2", "PENDING", queue.NEVER)
    sent = submitting.retry(teacher, store=store, execution=execution, profile=profile)
    assert (sent.runs, sent.repointed) == (1, 2)
    assert fake_slurm.dependencies("2") == ["afterok:4"] * 2


def test_a_finished_run_is_not_retried(
    fake_slurm: Any,
    graph: Graph,
    finish: Callable[[RunSpec], None],
    store: Store,
    profile: Profile,
    execution: Execution,
) -> None:
    finish(graph(1, 0)[0])
    with pytest.raises(RequestError, match="is done"):
        submitting.retry(graph(1, 0)[0], store=store, execution=execution, profile=profile)
