"""A real SLURM around and beside tfkd: allocations of the user, export=NONE, held jobs, forgotten kills."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.spec import RunSpec

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(240)]

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
        run_command(drill, "--cluster", toml), capture_output=True, text=True, check=True, timeout=100
    )
    assert "Submitted 0 runs" in said.stderr
    assert "1 runs are left to the process that trains them" in said.stderr
    told = [process.communicate(timeout=150)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    [run] = drill.store.runs()
    assert len(run.attempts()) == 1


def test_a_submission_from_inside_an_allocation_inherits_nothing_of_it(drill: Any, small: str) -> None:
    toml = str(drill.profile(small).path)
    command = [*run_command(drill, "--cluster", toml)]
    command[command.index("6")] = "1"
    inside = salloc(*command, options=["-c", "2", "--mem-per-cpu=700"])
    out, _ = inside.communicate(timeout=100)
    assert "Submitted 1 runs" in out
    drill.wait(lambda: list(drill.store.root.glob("runs/*/result.json")))


def test_jobs_run_where_nothing_of_the_environment_is_exported(
    drill: Any, run_of: Make, student_of: Make, small: str
) -> None:
    networks = f'setup = ["export PYTHONPATH={Path(__file__).parent}"]\n'
    teacher = run_of()
    specs = [teacher, student_of(teacher)]
    profile = networks + small + 'slurm_additional_parameters = { export = "NONE" }\n'
    drill.submit(specs, profile=profile)
    drill.wait_done(*specs)


def test_a_held_job_says_how_to_release_it(drill: Any, run_of: Make, whole: str) -> None:
    first, held = run_of("slow", epochs=100, seed=1), run_of(seed=2)
    drill.submit([first], profile=whole)
    drill.wait_epoch(first)
    sent = drill.submit([held], profile=whole)
    job = sent.arrays[0][0]
    drill.cluster.ask("scontrol", "uhold", job)
    seen = drill.queue()[held.folder]
    assert (seen.state, seen.reason) == ("PENDING", "JobHeldUser")
    assert f"scontrol release {job}" in seen.way_out
    drill.cluster.ask("scancel", drill.queue()[first.folder].job_id)
    drill.cluster.ask("scontrol", "release", job)
    drill.wait_done(held)


def test_a_memory_kill_is_known_without_accounting_when_slurm_has_forgotten_the_job(
    forgetful_drill: Any, run_of: Make, small: str
) -> None:
    drill, spec = forgetful_drill, run_of()
    sent = drill.submit([spec], profile=small.replace("1800MB", "100MB"))
    drill.wait(lambda: sent.arrays[0][0] not in drill.cluster.states(), seconds=150)
    seen = drill.queue()[spec.folder]
    assert (seen.state, "out of memory" in seen.reason) == ("FAILED", True)
    assert drill.submit([spec]).runs == 1
    drill.wait_done(spec)
