"""What a user's or a surrounding job's variables may and may not change."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from tfkd_cli.backends.slurm import client
from tfkd_cli.backends.slurm.sending import Submission
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store, lease
from tfkd_cli.training import runner

Send = Callable[..., Submission]
Graph = Callable[[int, int], list[RunSpec]]

OF_AN_ALLOCATION = {
    "SLURM_JOB_ID": "17",
    "SLURM_CPUS_PER_TASK": "2",
    "SLURM_MEM_PER_CPU": "700",
    "SLURMD_NODENAME": "n1",
}


def test_no_variable_of_a_surrounding_allocation_reaches_a_command_and_all_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key, value in {**OF_AN_ALLOCATION, "SLURM_CONF": "/x", "SQUEUE_PARTITION": "a"}.items():
        monkeypatch.setenv(key, value)
    before = dict(os.environ)
    with client.clean_environment():
        left = {key for key in os.environ if key.startswith(("SLURM", "SQUEUE"))}
    assert left == {"SLURM_CONF"}
    assert dict(os.environ) == before


def test_variables_that_would_win_over_the_script_are_ignored_by_name(
    fake_slurm: Any, send: Send, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {
        "SBATCH_JOB_NAME": "mine",
        "SBATCH_TIMELIMIT": "1",
        "SQUEUE_PARTITION": "gpu",
        "SRUN_EXPORT_ENV": "NONE",
    }
    for key, value in own.items():
        monkeypatch.setenv(key, value)
    told: list[str] = []
    send(graph(1, 0), on_event=told.append)
    assert all(key in told[0] for key in own)
    assert fake_slurm.options("1")["job-name"].startswith("tfkd-")
    assert fake_slurm.options("1")["time"] != "1"
    assert len(send(graph(1, 0)).queued) == 1


def test_inside_an_allocation_only_the_users_own_variables_are_named(
    fake_slurm: Any, send: Send, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in {**OF_AN_ALLOCATION, "SBATCH_TIMELIMIT": "1"}.items():
        monkeypatch.setenv(key, value)
    told: list[str] = []
    send(graph(1, 0), on_event=told.append)
    assert told == ["ignored in your environment, for it would win over the profile: SBATCH_TIMELIMIT."]


def test_an_account_of_the_environment_fills_what_the_profile_leaves_open(
    fake_slurm: Any, send: Send, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SBATCH_ACCOUNT", "lab")
    monkeypatch.setenv("SBATCH_PARTITION", "urgent")
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    told: list[str] = []
    send(graph(1, 0), on_event=told.append)
    assert told == ["from your environment: SBATCH_ACCOUNT, SBATCH_EXPORT, SBATCH_PARTITION."]
    found = fake_slurm.options("1")
    assert (found["account"], found["partition"], found["export"]) == ("lab", "urgent", "NONE")
    assert "srun --unbuffered" in fake_slurm.state["jobs"]["1"]["script"]
    assert " --export=ALL " in fake_slurm.state["jobs"]["1"]["script"]


def test_a_command_in_an_allocation_claims_its_run_and_a_job_of_ours_need_not(
    store: Store, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    [spec] = graph(1, 0)
    store.run(spec).declare(spec)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    runner._start_attempt(store.run(spec))
    with pytest.raises(runner.Blocked, match="is being trained by process"):
        runner._start_attempt(store.run(spec))
    monkeypatch.setenv(lease.JOB_VARIABLE, "18_0")
    runner._start_attempt(store.run(spec))
    assert store.run(spec).state().slurm == "18_0"


def test_what_a_command_in_an_allocation_trains_is_not_submitted(
    fake_slurm: Any, send: Send, graph: Graph, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    [spec] = graph(1, 0)
    store.run(spec).declare(spec)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    store.run(spec).start_attempt(owner={})
    sent = send([spec])
    assert (sent.runs, sent.elsewhere) == (0, [spec])
