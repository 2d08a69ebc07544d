"""A cap on runs at once, and arrays on hold until it is set what waits for what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.backends.slurm import profile as profiles
from tfkd_cli.backends.slurm.profile import Profile
from tfkd_cli.backends.slurm.sending import Submission
from tfkd_cli.methods import CrossEntropy
from tfkd_cli.spec import RunSpec

Send = Callable[..., Submission]
Graph = Callable[[int, int], list[RunSpec]]


class DiesError(BaseException):
    """The end of the process."""


def test_a_cap_holds_over_teachers_and_students_in_one_array(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    assert send(graph(2, 3), jobs=4).by_array == {"1": 8}
    assert fake_slurm.options("1")["array"] == "0-7%4"


def test_a_limit_over_several_arrays_is_one_of_each_and_said(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    told: list[str] = []
    with fake_slurm.edit() as state:
        state["config"]["MaxArraySize"] = "5"
    send(graph(2, 3), jobs=2, on_event=told.append)
    limits = [job["options"]["array"] for job in fake_slurm.state["jobs"].values()]
    assert limits == ["0-4%2", "0-2%2"]
    assert "--jobs 2 holds for each of 2 arrays" in told[0]


def test_a_limit_counts_the_runs_of_a_pack(
    fake_slurm: Any, send: Send, graph: Graph, profile: Profile
) -> None:
    send(graph(8, 0), jobs=4, profile=replace(profile, runs_per_job=2))
    assert fake_slurm.options("1")["array"] == "0-3%2"


def test_an_array_on_hold_whose_sender_died_is_released_by_the_next_command(
    fake_slurm: Any, send: Send, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfkd_cli.backends.slurm import arrays

    def dying(*args: Any, **more: Any) -> None:
        raise DiesError

    with monkeypatch.context() as patched:
        patched.setattr(arrays, "release", dying)
        with pytest.raises(DiesError):
            send(graph(1, 2))
    assert fake_slurm.state["jobs"]["1"]["elements"][0]["reason"] == "JobHeldUser"
    assert len(send(graph(1, 2)).queued) == 3
    assert fake_slurm.dependencies("1") == ["", "afterok:1_0", "afterok:1_0"]
    assert fake_slurm.state["jobs"]["1"]["elements"][0]["reason"] == "None"


def test_students_on_hold_whose_teacher_never_reached_slurm_are_sent_again_with_it(
    fake_slurm: Any, send: Send, graph: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from tfkd_cli.backends.slurm import sbatch

    path = tmp_path / "shapes.toml"
    path.write_text('[submit]\n[[resources]]\nstudent = "plain-cnn"\nsubmit = { gpus_per_node = 2 }\n')
    teacher, *students = graph(1, 2)
    shapes = profiles.read(path)
    real = sbatch.submit

    def dying(array: Any, *args: Any, **more: Any) -> Any:
        if array.number == 2:
            raise DiesError
        return real(array, *args, **more)

    first = graph(2, 0)[1]  # asks for what a teacher does, so that students with a teacher go before it
    student_first = [replace(students[0], teacher=None, loss=CrossEntropy()), teacher, first, *students]
    with monkeypatch.context() as patched:
        patched.setattr(sbatch, "submit", dying)
        with pytest.raises(DiesError):
            send(student_first, profile=shapes)
    assert len(fake_slurm.state["jobs"]) == 1
    send(student_first, profile=shapes)
    states = [each["state"] for each in fake_slurm.state["jobs"]["1"]["elements"]]
    assert states == ["PENDING", "CANCELLED", "CANCELLED"]
    assert fake_slurm.dependencies("6") == ["afterok:4_0"] * 2
