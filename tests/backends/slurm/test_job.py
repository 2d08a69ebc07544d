"""A job around the worker: lives are counted, signals and crashes answered, nothing is left for submitit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.backends.slurm import client, job
from tfkd_cli.backends.slurm.sending import Submission
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store, lease
from tfkd_cli.training import submission, worker

Start = Callable[..., int]


@pytest.fixture(autouse=True)
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A job takes over signals first thing and says that it is one of ours; the tests get theirs back."""
    monkeypatch.setenv("TFKD_JOB", "")
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def start(
    fake_slurm: Any,
    store: Store,
    send: Callable[..., Submission],
    graph: Callable[[int, int], list[RunSpec]],
    monkeypatch: pytest.MonkeyPatch,
) -> Start:
    """Start job 1 of a submission of one teacher: `start(worker=…)` gives its exit code."""
    sent = send(graph(1, 0))
    monkeypatch.setenv("SLURM_JOB_ID", "1")

    def once(work: Callable[..., int], *, restart: int = 0) -> int:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        monkeypatch.setattr(worker, "do", work)
        with pytest.raises(SystemExit) as caught:
            job.main(str(store.root), sent.name, "0")
        assert isinstance(caught.value.code, int)
        return caught.value.code

    return once


def lives(store: Store) -> list[tuple[str, str]]:
    [path] = store.root.glob("submissions/*/lives/0.jsonl")
    return [(line["event"], line["cause"]) for line in map(json.loads, path.read_text().splitlines())]


def stopped_by(reason: str) -> Callable[..., int]:
    return lambda job, stop, on_stop: on_stop(reason)


def ends_with(code: int) -> Callable[..., int]:
    return lambda job, stop, on_stop: code


def test_a_job_that_is_done_exits_with_0_through_systemexit(start: Start, store: Store) -> None:
    assert start(ends_with(worker.DONE)) == 0
    assert lives(store) == [("began", ""), ("ended", "done")]


def test_a_submission_makes_no_folder_of_a_run(start: Start, store: Store) -> None:
    assert not store.runs_path.exists()


def test_near_the_time_limit_it_requeues_itself(start: Start, fake_slurm: Any) -> None:
    assert start(stopped_by("USR2")) == 75
    assert fake_slurm.state["requeued"] == ["1"]


def test_preempted_by_a_bare_sigterm_it_requeues_itself(start: Start, fake_slurm: Any) -> None:
    fake_slurm.move("1", "RUNNING", PreemptTime="2026-11-22T18:35:45")
    assert start(stopped_by("TERM")) == 75
    assert fake_slurm.state["requeued"] == ["1"]


def test_cancelled_it_does_not_come_back_to_life(start: Start, fake_slurm: Any, store: Store) -> None:
    fake_slurm.move("1", "COMPLETING", PreemptTime="None")
    assert start(stopped_by("TERM")) == 143
    assert fake_slurm.state["requeued"] == []
    assert lives(store)[-1] == ("ended", "cancelled")


def test_a_scontrol_that_the_jobs_own_signal_kills_is_asked_again(
    start: Start, fake_slurm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_slurm.move("1", "COMPLETING", Restarts="1")
    real, first, killed = fake_slurm.home / "bin" / "scontrol", tmp_path / "first", tmp_path / "scontrol"
    killed.write_text(f'#!/bin/sh\n[ -e {first} ] || {{ touch {first}; kill $$; }}\nexec {real} "$@"\n')
    killed.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(client, "KILLED_PAUSES", (0.0, 0.0))
    assert start(stopped_by("TERM")) == 75
    assert first.exists()


def test_an_element_of_an_array_requeues_itself_alone(
    start: Start, fake_slurm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    start(stopped_by("USR2"))
    assert fake_slurm.state["requeued"] == ["1_0"]


def test_a_signal_that_comes_first_of_all_reaches_the_worker(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_job = submission.read_job

    def preempted_meanwhile(*args: str) -> submission.Job:
        os.kill(os.getpid(), signal.SIGTERM)
        return read_job(*args)

    monkeypatch.setattr(submission, "read_job", preempted_meanwhile)
    assert start(lambda job, stop, on_stop: 75 if stop.reason == worker.TERMINATED else 0) == 75


def test_where_requeue_is_refused_it_ends_with_75_for_the_next_reproduce(
    start: Start, fake_slurm: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_slurm.edit() as state:
        state["no_requeue"] = True
    assert start(stopped_by("USR2")) == 75
    assert "presently disabled" in capsys.readouterr().err


def test_a_job_that_is_given_up_at_its_time_limit_ends_once(
    start: Start, store: Store, fake_slurm: Any
) -> None:
    for restart in range(2):
        code = start(stopped_by("USR2"), restart=restart)
    assert (code, len(fake_slurm.state["requeued"])) == (1, 1)
    assert lives(store) == [("began", ""), ("ended", "time limit")] * 2


def test_a_crash_comes_back_until_it_makes_no_progress(start: Start, fake_slurm: Any) -> None:
    assert start(ends_with(worker.CRASHED)) == 75
    assert start(ends_with(worker.CRASHED), restart=1) == 1
    assert fake_slurm.state["requeued"] == ["1"]


@pytest.mark.parametrize(("kind", "code"), [("RunError", 1), ("OutOfMemoryError", 1), ("ValueError", 75)])
def test_only_errors_that_may_pass_are_tried_again(
    start: Start, store: Store, graph: Callable[[int, int], list[RunSpec]], kind: str, code: int
) -> None:
    def failing(job: Any, stop: Any, on_stop: Any) -> int:
        store.run(graph(1, 0)[0]).start_attempt(owner={}).fail({"kind": kind, "message": "…"})
        return worker.CRASHED

    assert start(failing) == code


def test_a_life_that_ended_without_a_word_is_counted_as_lost(start: Start, store: Store) -> None:
    def killed(job: Any, stop: Any, on_stop: Any) -> int:
        raise SystemExit(137)

    start(killed)
    start(ends_with(worker.DONE), restart=1)
    assert lives(store) == [("began", ""), ("ended", "lost"), ("began", ""), ("ended", "done")]


def test_a_job_lost_twice_without_progress_is_given_up_and_says_so(
    start: Start, store: Store, graph: Callable[[int, int], list[RunSpec]], capsys: pytest.CaptureFixture[str]
) -> None:
    def killed(job: Any, stop: Any, on_stop: Any) -> int:
        store.run(graph(1, 0)[0]).start_attempt(owner={}).release()
        raise SystemExit(137)

    start(killed)
    start(killed, restart=1)
    assert start(ends_with(worker.DONE), restart=2) == 1
    failure = store.run(graph(1, 0)[0]).failure()
    assert failure is not None
    assert "without a newer checkpoint" in failure["message"]


def test_a_submission_that_is_not_there_is_a_bad_spec(store: Store) -> None:
    with pytest.raises(SystemExit) as caught:
        job.main(str(store.root), "20260101-000000-0123456789", "0")
    assert caught.value.code == worker.BAD_SPEC


def test_a_blocked_run_is_not_requeued(start: Start, fake_slurm: Any, store: Store) -> None:
    assert start(ends_with(worker.TRY_AGAIN)) == 75
    assert fake_slurm.state["requeued"] == []
    assert lives(store)[-1] == ("ended", "blocked")


def test_lives_survive_a_line_that_was_cut(start: Start, store: Store) -> None:
    start(ends_with(worker.TRY_AGAIN))
    [path] = store.root.glob("submissions/*/lives/0.jsonl")
    with Path(path).open("a") as stream:
        stream.write('{"event": "beg')
    assert start(ends_with(worker.DONE), restart=1) == 0


def test_a_warning_in_the_last_moment_does_not_fail_a_finished_job(start: Start) -> None:
    assert start(ends_with(worker.DONE)) == 0
    assert {signal.getsignal(number) for number in worker.HEARD} == {signal.SIG_IGN}


def test_a_job_says_that_it_is_one_of_ours(start: Start) -> None:
    start(ends_with(worker.DONE))
    assert os.environ[lease.JOB_VARIABLE] == "1"


def test_a_stopped_job_whose_runs_are_all_done_has_succeeded(
    start: Start,
    graph: Callable[[int, int], list[RunSpec]],
    finish: Callable[[RunSpec], None],
    fake_slurm: Any,
) -> None:
    finish(graph(1, 0)[0])
    assert start(stopped_by("USR2")) == 0
    assert fake_slurm.state["requeued"] == []
