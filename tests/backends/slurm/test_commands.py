"""`tfkd status`, `logs`, `cancel` and `retry` on runs that SLURM has, and whose folders are not there yet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.__main__ import main
from tfkd_cli.backends.slurm import arrays, queue
from tfkd_cli.backends.slurm import profile as profiles
from tfkd_cli.backends.slurm.sending import Submission
from tfkd_cli.execution import Execution
from tfkd_cli.grid import Axes
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store

Tell = Callable[..., str]


@pytest.fixture
def sent(
    fake_slurm: Any, store: Store, execution: Execution, send: Callable[..., Submission]
) -> tuple[RunSpec, RunSpec]:
    """A teacher (job 1_0) and its student (job 1_1), asked for and submitted, neither of them started."""
    axes = Axes(dataset="digits", students=("plain-cnn",), methods=("kd",), teachers=("resnet8",))
    request = requests.for_axes(axes, Request(seeds=(0,)), execution=execution)
    campaign = Campaign(request, store, execution)
    campaign.record("tfkd run …")
    plan = campaign.plan()
    student = next(each.spec for each in plan.runs.values() if each.spec.parents)
    [teacher] = student.parents
    send([teacher, student])
    return teacher, student


@pytest.fixture
def tfkd(store: Store, capfd: pytest.CaptureFixture[str]) -> Tell:
    """What a command prints."""

    def tell(*arguments: str) -> str:
        capfd.readouterr()
        assert main([*arguments, "--results", str(store.root)]) == 0
        return capfd.readouterr().out

    return tell


def status(tfkd: Tell, spec: RunSpec) -> tuple[str, str]:
    [row] = [each for each in json.loads(tfkd("status", "--json"))["runs"] if each["key"] == spec.key]
    return row["status"], row["message"]


def test_a_job_that_died_before_its_first_attempt_is_failed_and_blocks_its_students(
    fake_slurm: Any, sent: tuple[RunSpec, RunSpec], tfkd: Tell
) -> None:
    teacher, student = sent
    fake_slurm.move("1_0", "OUT_OF_MEMORY", "OutOfMemory")
    fake_slurm.move("1_1", "PENDING", queue.NEVER)
    assert status(tfkd, teacher) == ("failed", "SLURM: OUT_OF_MEMORY, OutOfMemory")
    assert status(tfkd, student) == ("blocked", f"its teacher {teacher.folder} is failed")


def test_a_cancelled_job_is_work_to_do_and_no_failure(
    fake_slurm: Any, sent: tuple[RunSpec, RunSpec], tfkd: Tell
) -> None:
    fake_slurm.move("1_0", "CANCELLED")
    assert status(tfkd, sent[0]) == ("todo", "SLURM: CANCELLED")


def test_logs_of_a_job_that_died_before_its_first_attempt_are_slurms(
    fake_slurm: Any, sent: tuple[RunSpec, RunSpec], store: Store, tfkd: Tell
) -> None:
    [array] = arrays.known_arrays(store)
    Path(array.log_of("1_0")).write_text("module: command not found\n")
    assert tfkd("logs", sent[0].key[:12]) == "module: command not found\n"


def test_a_run_that_never_started_can_be_cancelled_and_sent_again_by_its_key(
    fake_slurm: Any, sent: tuple[RunSpec, RunSpec], tfkd: Tell, tmp_path: Path
) -> None:
    teacher, _ = sent
    assert tfkd("cancel", teacher.key[:12]) == "Cancelled 1 jobs.\n"
    fake_slurm.move("1_1", "PENDING", queue.NEVER)
    profile = tmp_path / "plain.toml"
    told = tfkd("retry", teacher.folder, "--cluster", str(profile))
    submitted = f"Submitted {teacher.folder} again, with the profile {profile}: job 3.\n"
    assert told == f"{submitted}1 waiting jobs point to it now.\n"
    assert int(fake_slurm.options("3")["time"]) < 60  # of the plan
    assert fake_slurm.dependencies("1")[1] == "afterok:3"


def test_retry_of_a_finished_run_submits_nothing_and_says_so(
    sent: tuple[RunSpec, RunSpec],
    store: Store,
    finish: Callable[[RunSpec], None],
    capfd: pytest.CaptureFixture[str],
) -> None:
    finish(sent[0])
    assert main(["retry", sent[0].folder, "--results", str(store.root)]) == 2
    assert f"{sent[0].folder} is done." in capfd.readouterr().err


def test_retry_of_a_run_in_the_queue_submits_nothing_and_says_so(
    fake_slurm: Any, sent: tuple[RunSpec, RunSpec], store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    teacher, _ = sent
    assert main(["retry", teacher.folder, "--results", str(store.root)]) == 2
    said = capfd.readouterr().err
    assert f"{teacher.folder} was not submitted: it is in SLURM's queue already, as job 1_0." in said
    assert len(fake_slurm.state["jobs"]) == 1


def test_a_held_job_is_blocked_with_its_id_and_a_way_out(
    fake_slurm: Any, sent: tuple[RunSpec, RunSpec], tfkd: Tell
) -> None:
    fake_slurm.move("1_0", "PENDING", "JobHeldUser")
    assert status(tfkd, sent[0]) == (
        "blocked",
        "SLURM holds job 1_0 (JobHeldUser): `scontrol release 1_0` lets it go",
    )
    [row] = [each for each in json.loads(tfkd("status", "--json"))["runs"] if each["key"] == sent[0].key]
    assert row["job"] == "1_0"
    assert "scontrol release 1_0" in " ".join(tfkd("status").split())


def test_a_silent_slurmctld_is_a_note_of_status(
    fake_slurm: Any, sent: tuple[RunSpec, RunSpec], tfkd: Tell, store: Store
) -> None:
    tfkd("status")
    queue.forget(store)
    with fake_slurm.edit() as state:
        state["down"] = True
    [note] = json.loads(tfkd("status", "--json"))["notes"]
    assert "SLURM does not answer" in note


def test_a_command_reads_the_profile_once(
    fake_slurm: Any, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, paths = profiles.read, list[Path]()

    def noted(path: Path) -> profiles.Profile:
        paths.append(path)
        return read(path)

    monkeypatch.setattr(profiles, "read", noted)
    path = tmp_path / "plain.toml"
    path.write_text("[submit]\n")
    command = ["run", "--student", "resnet8", "--method", "baseline", "--dataset", "digits", "--epochs", "1"]
    assert main([*command, "--cluster", str(path), "--results", str(store.root)]) == 0
    assert paths == [path]
    assert len(fake_slurm.state["jobs"]) == 1


def test_a_wrong_profile_is_refused_before_anything_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "none"
    command = ["run", "--student", "resnet8", "--method", "baseline", "--dataset", "digits"]
    assert main([*command, "--cluster", "nosuch", "--results", str(results)]) == 2
    said = capfd.readouterr()
    assert 'unknown cluster "nosuch"' in said.err
    assert "Plan" not in said.err
    assert not results.exists()


def test_cancel_run_takes_the_newest_tfkd_run_and_leaves_the_others(
    fake_slurm: Any,
    store: Store,
    execution: Execution,
    send: Callable[..., Submission],
    sent: tuple[RunSpec, RunSpec],
    tfkd: Tell,
) -> None:
    axes = Axes(dataset="digits", students=("plain-cnn",), methods=("baseline",))
    request = requests.for_axes(axes, Request(seeds=(0,)), execution=execution)
    campaign = Campaign(request, store, execution)
    campaign.record("tfkd run …")
    [newest] = campaign.plan().unfinished
    send([newest])
    assert "Cancelled 1 jobs" in tfkd("cancel", "run")
    assert status(tfkd, newest)[0] == "todo"
    assert [status(tfkd, each)[0] for each in sent] == ["queued", "queued"]
