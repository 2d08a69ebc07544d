"""One run in two tasks of a real SLURM: the numbers of one process, and no task is waited for in vain."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store
from tfkd_cli.training import runner

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

TWO = """
[submit]
tasks_per_node = 2
gpus_per_node = 2
cpus_per_task = 1
slurm_mem = "3600MB"
timeout_min = 10
"""
Make = Callable[..., RunSpec]


def losses(store: Store, spec: RunSpec) -> list[float]:
    return [line[name] for line in store.run(spec).metrics() for name in ("train_loss", "test_loss")]


def processes(drill: Any, spec: RunSpec) -> list[int]:
    """The process ids of the ranks of a run that is at work."""
    drill.wait_epoch(spec)
    log = (drill.store.run(spec).attempts()[-1] / "log").read_text()
    return [int(pid) for pid in re.findall(r"rank \d \(process (\d+)", log)]


def told(drill: Any) -> str:
    """What the tasks of the jobs have printed."""
    return "\n".join(path.read_text() for path in drill.store.root.glob("submissions/*/array-*/*.out"))


def test_two_tasks_train_one_run_to_the_losses_of_one_process(
    drill: Any, run_of: Make, student_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    teacher = run_of("quick", epochs=2)
    student = student_of(teacher)
    drill.submit([teacher, student], profile=TWO)
    here = Store.open(tmp_path / "here", create=True)
    for spec in (teacher, student):
        runner.run(spec, store=here, execution=drill.execution)
    drill.wait_done(teacher, student)
    for spec in (teacher, student):
        assert losses(drill.store, spec) == pytest.approx(losses(here, spec), rel=1e-5)
        result = drill.store.run(spec).result()
        assert (result["numerics"]["processes"], result["attempts"]) == (2, 1)
    drill.wait(lambda: {each.state for each in drill.queue().values()} == {"COMPLETED"})


def test_a_time_limit_saves_once_and_both_tasks_go_on_together(drill: Any, run_of: Make) -> None:
    spec = run_of("slow", epochs=6)
    sent = drill.submit([spec], profile=TWO)
    drill.wait_epoch(spec)
    drill.cluster.ask("scancel", "--signal=USR2", sent.arrays[0].job)
    drill.wait_done(spec)
    drill.wait(lambda: drill.lives()[-1]["event"] == "ended")  # a moment after the result
    assert [life["cause"] for life in drill.lives() if life["event"] == "ended"] == ["time limit", "done"]
    logs = [(attempt / "log").read_text() for attempt in drill.store.run(spec).attempts()]
    assert len(logs) == 2
    assert "continuing in epoch" in logs[1]


@pytest.mark.parametrize(
    ("rank", "number"),
    [
        pytest.param(0, signal.SIGKILL, id="0-killed"),
        pytest.param(1, signal.SIGKILL, id="1-killed"),
        # A minute each; in tests/backends/test_data_parallel.py a rank of a local run is stopped.
        pytest.param(0, signal.SIGSTOP, id="0-stopped", marks=pytest.mark.drill),
        pytest.param(1, signal.SIGSTOP, id="1-stopped", marks=pytest.mark.drill),
    ],
)
def test_a_task_that_is_lost_ends_the_job(
    drill: Any, run_of: Make, rank: int, number: signal.Signals
) -> None:
    spec = run_of("slow", epochs=100)
    sent = drill.submit([spec], profile=TWO)
    os.kill(processes(drill, spec)[rank], number)
    job = sent.arrays[0].job
    drill.wait(lambda: drill.cluster.states()[job] != "RUNNING")
    if rank == 1:  # rank 0 has said what happened
        failure = drill.store.run(spec).failure() or {}
        assert "rank 1 (process" in failure["message"]
    else:
        assert "rank 1 has lost another rank" in told(drill)
