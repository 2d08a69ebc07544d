"""A real SLURM around and beside tfkd: allocations of the user, export=NONE, held jobs, forgotten kills."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.spec import RunSpec
from tfkd_cli.training import provenance

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

Make = Callable[..., RunSpec]


def salloc(*command: str, options: Sequence[str] = ()) -> subprocess.Popen[str]:
    """A command inside an allocation of its own, on this machine."""
    return subprocess.Popen(
        ["salloc", "--quiet", *options, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def run_command(drill: Any, *more: str) -> list[str]:
    """`tfkd run` of one slow run into the drill's store."""
    words = ["run", "--student", "python:slow_networks:slow", "--method", "baseline", "--dataset", "digits"]
    where = ["--results", str(drill.store.root), "--cache-dir", drill.execution.cache, "--device", "cpu"]
    return [sys.executable, "-m", "tfkd_cli", *words, "--seeds", "1", "--epochs", "6", *where, *more]


def test_two_commands_in_allocations_train_a_run_once_and_a_submission_leaves_it_to_them(
    drill: Any, small: str
) -> None:
    both = [salloc(*run_command(drill), options=["--mem=1500"]) for _ in range(2)]
    drill.wait(lambda: list(drill.store.root.glob("runs/*/metrics.jsonl"))
               or list(drill.store.root.glob("runs/*/attempts/0001/metrics.jsonl")))  # fmt: skip
    toml = str(drill.profile(small).path)
    said = subprocess.run(
        run_command(drill, "--cluster", toml), capture_output=True, text=True, check=True, timeout=600
    )
    assert "Submitted 0 runs" in said.stderr
    assert "1 runs are left to the process that trains them" in said.stderr
    told = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    [run] = drill.store.runs()
    assert len(run.attempts()) == 1


def test_a_submission_from_inside_an_allocation_inherits_nothing_of_it(drill: Any, small: str) -> None:
    toml = str(drill.profile(small).path)
    command = [*run_command(drill, "--cluster", toml)]
    command[command.index("6")] = "1"
    inside = salloc(*command, options=["-c", "2", "--mem-per-cpu=700"])
    out, _ = inside.communicate(timeout=600)
    assert "Submitted 1 runs" in out
    drill.wait(lambda: list(drill.store.root.glob("runs/*/result.json")))


def test_a_job_without_the_users_environment_runs_the_code_that_was_submitted(
    drill: Any, run_of: Make, small: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = f'setup = ["export PYTHONPATH={Path(__file__).parent}"]\n'
    profile = networks + small + 'slurm_additional_parameters = { export = "NONE" }\n'
    spec = run_of()
    submitted = provenance.Code(commit="what was submitted", diff="and its changes")
    with monkeypatch.context() as patched:
        patched.setattr(provenance, "code", lambda: submitted)
        drill.submit([spec], profile=profile)
    drill.wait_done(spec)
    result = drill.store.run(spec).result()
    assert (result["commit"], result["diff"]) == (submitted.commit, submitted.diff)


def test_a_held_job_says_how_to_release_it(drill: Any, run_of: Make) -> None:
    held = run_of(seed=2)
    drill.cluster.ask("scontrol", "update", "nodename=localhost", "state=drain", "reason=drill")
    try:
        sent = drill.submit([held])
        job = sent.arrays[0].job
        drill.cluster.ask("scontrol", "uhold", job)
        seen = drill.queue()[held.folder]
        assert (seen.state, seen.reason) == ("PENDING", "JobHeldUser")
        assert f"scontrol release {job}" in seen.way_out
    finally:
        drill.cluster.ask("scontrol", "update", "nodename=localhost", "state=resume")
    drill.cluster.ask("scontrol", "release", job)
    drill.wait_done(held)


def test_a_memory_kill_is_known_without_accounting_when_slurm_has_forgotten_the_job(
    memory_drill: Any, run_of: Make, small: str
) -> None:
    drill, spec = memory_drill, run_of()
    sent = drill.submit([spec], profile=small.replace("1800MB", "100MB"))
    drill.wait(lambda: drill.cluster.states()[sent.arrays[0].job] == "FAILED")
    drill.cluster.forget_all_jobs()
    seen = drill.queue()[spec.folder]
    assert (seen.state, "out of memory" in seen.reason) == ("FAILED", True)
    assert drill.submit([spec]).runs == 1
    drill.wait_done(spec)
