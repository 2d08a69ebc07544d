"""Drills on a real SLURM: each run ends with the numbers it would have had undisturbed, once."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.backends.slurm.submit import cancel
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store
from tfkd_cli.training import runner

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

Make = Callable[..., RunSpec]


def numbers(store: Store, spec: RunSpec) -> tuple[Any, Any, list[Any]]:
    """What must not depend on how often a run was stopped: digests of its weights, its score, its losses."""
    result = store.run(spec).result()
    assert result is not None
    losses = [
        (line["epoch"], line["train_loss"], line["test_accuracy"]) for line in store.run(spec).metrics()
    ]
    return result["weights"]["last.pt"], result["best"], losses


@pytest.fixture
def undisturbed(
    drill: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Any, Any, list[Any]]]:
    """The numbers of a run in this process, with no cluster and no sleep at all."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def here(*specs: RunSpec) -> tuple[Any, Any, list[Any]]:
        store = Store.open(tmp_path / "undisturbed", create=True)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        for spec in specs:
            runner.run(spec, store=store, execution=drill.execution)
        return numbers(store, specs[-1])

    return here


def tfkd(*arguments: str) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "tfkd_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=600).stdout


def test_the_demo_on_slurm_is_the_demo_here_number_for_number(drill: Any, tmp_path: Path, small: str) -> None:
    toml = str(drill.profile(small).path)
    common = [
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--threads",
        "1",
        "--device",
        "cpu",
        "--cache-dir",
        drill.execution.cache,
    ]
    there, here = str(drill.store.root), str(tmp_path / "here")
    tfkd("reproduce", "demo", *common, "--results", there, "--cluster", toml)
    counts = json.loads(tfkd("status", "--results", there, "--json"))["counts"]
    assert (counts["todo"], sum(counts.values())) == (0, 8)
    drill.wait(lambda: len(list(drill.store.root.glob("runs/*/result.json"))) == 8)
    drill.wait(lambda: {each.state for each in drill.queue().values()} == {"COMPLETED"})
    assert not list(drill.store.root.glob("submissions/*/array-*/*_result.pkl"))
    tfkd("reproduce", "demo", *common, "--results", here)
    shown = [
        json.loads(tfkd("show", "demo", "--format", "json", "--results", each)) for each in (there, here)
    ]
    assert shown[0] == shown[1]


def test_two_nodes_come_up_on_one_host(two_nodes: Any) -> None:
    told = two_nodes.ask("srun", "-N2", "-n2", "sh", "-c", "echo $SLURMD_NODENAME")
    assert sorted(told.split()) == ["n1", "n2"]


def test_preemption_on_default_settings_is_a_bare_sigterm_and_costs_nothing(
    drill: Any, run_of: Make, undisturbed: Any, whole: str
) -> None:
    spec = run_of("slow", epochs=4)
    drill.submit([spec], profile=whole)
    drill.wait_epoch(spec)
    drill.cluster.urgent(seconds=1)
    drill.wait_done(spec)
    assert drill.lives()[1]["cause"] == "preemption"
    assert drill.lives()[2]["step"] == drill.lives()[1]["step"] > 12
    assert numbers(drill.store, spec) == undisturbed(spec)


def test_a_cancelled_run_keeps_its_state_and_does_not_come_back_to_life(drill: Any, run_of: Make) -> None:
    spec = run_of("slow", epochs=100)
    sent = drill.submit([spec])
    drill.wait_epoch(spec)
    assert cancel(drill.store, [spec.folder]) == 1
    drill.wait(lambda: drill.cluster.states()[sent.arrays[0].job] == "CANCELLED")
    assert drill.lives()[-1]["cause"] == "cancelled"
    assert drill.cluster.show(sent.arrays[0].job)["Restarts"] == "0"  # nor will it: it has ended
    assert drill.status(spec) == "resumable"


def test_students_of_a_crashed_teacher_wait_visibly_and_run_after_retry(
    drill: Any, run_of: Make, student_of: Make
) -> None:
    teacher = run_of()
    student = student_of(teacher)
    drill.crash.touch()
    drill.submit([teacher, student])
    drill.wait(lambda: drill.queue()[student.folder].stuck)
    assert drill.status(teacher) == "failed"
    assert [life["cause"] for life in drill.lives() if life["event"] == "ended"] == ["crash", "crash"]
    assert not drill.store.run(student).attempts()
    drill.crash.unlink()
    sent = drill.submit([teacher])
    assert (sent.runs, sent.repointed) == (1, 1)
    drill.wait_done(teacher, student)


def test_a_slurmd_that_is_killed_in_mid_run_and_comes_back_costs_nothing(drill: Any, run_of: Make) -> None:
    spec = run_of("slow", epochs=4)
    drill.submit([spec])
    drill.wait_epoch(spec)
    drill.cluster.daemon("kill", "slurmd-localhost")
    time.sleep(1)
    drill.cluster.daemon("start", "slurmd-localhost")
    drill.wait_done(spec)
    drill.wait(lambda: drill.queue()[spec.folder].state == "COMPLETED")
    assert [life["event"] for life in drill.lives()] == ["began", "ended"]


SUBMIT = """
    import os, signal, sys
    from pathlib import Path
    from tests.planning import planned
    from tfkd_cli.backends.slurm import profile, sbatch, submit
    from tfkd_cli.execution import Execution
    from tfkd_cli.store import Store
    root, toml, cache, folders, die_after = sys.argv[1:]
    store = Store.open(Path(root), create=False)
    specs = [store.folder(name).spec() for name in folders.split(",")]
    real = sbatch.submit
    def submit_or_die(array, *args, **more):
        ids = real(array, *args, **more)
        if array.number == int(die_after):
            os.kill(os.getpid(), signal.SIGKILL)
        return ids
    sbatch.submit = submit_or_die
    sent = submit.submit(planned(specs, store), store=store, profile=profile.read(Path(toml)),
                         execution=Execution(cache=cache, threads=1, device="cpu"))
    print(sent.runs)
"""


def submitter(drill: Any, specs: list[RunSpec], *, die_after: int = 0) -> subprocess.Popen[str]:
    """The same submission in a process of its own."""
    for spec in specs:
        drill.store.run(spec).declare(spec)
    toml = drill.profile().path
    folders = ",".join(spec.folder for spec in specs)
    strings = [str(drill.store.root), str(toml), drill.execution.cache, folders, str(die_after)]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SUBMIT), *strings], stdout=subprocess.PIPE, text=True
    )


def test_a_submitter_killed_between_sbatch_calls_submits_every_run_once(
    drill: Any, run_of: Make, student_of: Make
) -> None:
    teacher = run_of()
    specs = [teacher, *(student_of(teacher, seed=seed) for seed in range(2))]
    before = len(drill.cluster.states())
    dying = submitter(drill, specs, die_after=1)
    dying.communicate(timeout=600)
    assert dying.returncode == -9
    again = submitter(drill, specs)
    out, _ = again.communicate(timeout=600)
    assert (again.returncode, out.strip()) == (0, "0")
    assert len(drill.cluster.states()) - before == 3
    drill.wait_done(*specs)
    assert [spec for spec in specs if len(drill.store.run(spec).attempts()) != 1] == []


def test_the_same_command_typed_twice_at_once_submits_every_run_once(
    drill: Any, run_of: Make, student_of: Make
) -> None:
    teacher = run_of()
    specs = [teacher, student_of(teacher)]
    both = [submitter(drill, specs) for _ in range(2)]
    counts = [int(process.communicate(timeout=600)[0]) for process in both]
    assert sorted(counts) == [0, 2]
    drill.wait_done(*specs)


def test_a_cap_holds_over_teachers_and_students_in_one_array(
    drill: Any, run_of: Make, student_of: Make
) -> None:
    teachers = [run_of("quick", seed=seed) for seed in range(2)]
    students = [student_of(teacher) for teacher in teachers]
    sent = drill.submit([*teachers, *students], jobs=2)
    assert len(sent.arrays) == 1
    drill.wait_done(*teachers, *students)
    at_once, most = 0, 0
    for life in drill.lives():
        at_once += 1 if life["event"] == "began" else -1
        most = max(most, at_once)
    assert most == 2
    ends = {line["job"]: line["at"] for line in drill.lives() if line["event"] == "ended"}
    begins = {line["job"]: line["at"] for line in drill.lives() if line["event"] == "began"}
    array = sent.arrays[0].job
    assert begins[f"{array}_2"] > ends[f"{array}_0"]
    assert begins[f"{array}_3"] > ends[f"{array}_1"]


def test_runs_packed_into_one_job_are_all_done(
    drill: Any, run_of: Make, student_of: Make, small: str
) -> None:
    teachers = [run_of(seed=seed) for seed in range(2)]
    student = student_of(teachers[0])
    sent = drill.submit([*teachers, student], profile="runs_per_job = 2\n" + small)
    assert [*sent.by_array.values()] == [3]
    drill.wait_done(*teachers, student)


def test_with_slurmctld_down_messages_are_clear_and_nothing_is_lost(drill: Any, run_of: Make) -> None:
    first, second = run_of("slow", epochs=3), run_of(seed=1)
    drill.submit([first])
    drill.wait_epoch(first)
    known = dict(drill.queue())
    drill.cluster.daemon("stop", "slurmctld")
    try:
        with pytest.raises(SlurmError, match="SLURM does not answer"):
            drill.submit([first, second])
        seen = drill.queue()
        assert "Unable to contact slurm controller" in seen.error
        assert dict(seen) == known
    finally:
        drill.cluster.daemon("start", "slurmctld")
    sent = drill.submit([first, second])
    assert sent.runs + len(sent.queued) <= 2
    drill.wait_done(first, second)


def test_a_real_submit_limit_leaves_the_rest_in_the_plan(accounting_drill: Any, run_of: Make) -> None:
    drill = accounting_drill
    others = len(drill.cluster.ask("squeue", "-h").splitlines())
    limit = f"MaxSubmitJobs={others + 2}"
    drill.cluster.ask("sacctmgr", "-i", "modify", "user", drill.cluster.user, "set", limit)
    specs = [run_of(seed=seed) for seed in range(4)]
    sent = drill.submit(specs)
    assert 2 <= sent.runs < 4
    assert sent.runs + len(sent.left_in_plan) == 4
    drill.wait_done(*(spec for spec in specs if spec not in sent.left_in_plan))
    drill.wait(lambda: not [each for each in drill.queue().values() if each.active])
    assert drill.submit(specs).runs == len(sent.left_in_plan)
    drill.wait_done(*specs)


def test_a_run_at_its_time_limit_comes_back_and_goes_on_at_the_exact_step(
    limited: Any, run_of: Make, undisturbed: Any
) -> None:
    spec = run_of("slow", epochs=40, seed=9)
    limited.wait_done(spec)
    limited.wait(lambda: limited.lives()[-1]["cause"] == "done")
    lives = limited.lives()
    assert len(lives) >= 4
    assert {life["cause"] for life in lives if life["event"] == "ended"} == {"time limit", "done"}
    for ended, began in zip(lives[1::2], lives[2::2], strict=False):
        assert (ended["event"], began["event"]) == ("ended", "began")
        assert began["step"] == ended["step"] > 0
    assert numbers(limited.store, spec) == undisturbed(spec)


@pytest.mark.drill
def test_a_node_that_is_lost_for_good_in_mid_run_costs_no_more_than_one_more_command(
    lossy_drill: Any, run_of: Make, undisturbed: Any
) -> None:
    drill = lossy_drill
    spec = run_of("slow", epochs=30)
    drill.submit([spec])
    drill.wait_epoch(spec)
    drill.cluster.daemon("kill", "slurmd-localhost")
    drill.wait(lambda: "down" in drill.cluster.ask("sinfo", "-h", "-o", "%T"))
    drill.cluster.daemon("start", "slurmd-localhost")
    # The requeued job may start at the moment its orphan is killed, and fail without having run.
    deadline = time.monotonic() + 600
    while drill.status(spec) != "done" and time.monotonic() < deadline:
        drill.submit([spec])
        time.sleep(2)
    assert numbers(drill.store, spec) == undisturbed(spec)
