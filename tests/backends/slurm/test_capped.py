"""A cap on runs at once: one held array with a dependency per element, or arrays that share it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tfkd_cli.backends.slurm.profile import Profile
from tfkd_cli.backends.slurm.sending import Submitted
from tfkd_cli.spec import RunSpec

Send = Callable[..., Submitted]
Graph = Callable[[int, int], list[RunSpec]]


class DiesError(BaseException):
    """The end of the process."""


def test_a_cap_is_one_held_array_with_a_dependency_per_element(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    sent = send(graph(2, 3), jobs=4)
    assert sent.arrays == (("1", 8),)
    assert fake_slurm.options("1")["array"] == "0-7%4"
    assert fake_slurm.dependencies("1") == ["", "", *["afterok:1_0"] * 3, *["afterok:1_1"] * 3]
    assert {each["reason"] for each in fake_slurm.state["jobs"]["1"]["elements"]} == {"None", "Dependency"}
    assert [call[1] for call in fake_slurm.calls("scontrol") if call[0] == "update"] == [
        "jobid=1_[2-4]",
        "jobid=1_[5-7]",
    ]


def test_a_cap_without_dependencies_needs_no_hold(fake_slurm: Any, send: Send, graph: Graph) -> None:
    send(graph(5, 0), jobs=2)
    assert fake_slurm.options("1")["array"] == "0-4%2"
    assert "hold" not in fake_slurm.options("1")


def test_where_the_site_refuses_element_dependencies_the_limit_is_one_of_each_array_and_said(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    with fake_slurm.edit() as state:
        state["no_element_updates"] = True
    told: list[str] = []
    sent = send(graph(2, 3), jobs=2, on_event=told.append)
    assert {each["state"] for each in fake_slurm.state["jobs"]["1"]["elements"]} == {"CANCELLED"}
    assert sent.arrays == (("9", 2), ("11", 3), ("14", 3))
    assert [fake_slurm.options(job)["array"].split("%")[1] for job in ("9", "11", "14")] == ["2", "2", "2"]
    assert fake_slurm.options("14")["dependency"] == "afterok:9_1"
    assert "--jobs 2 holds for each of 3 arrays, not for all together" in told[-1]


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


def test_a_held_array_whose_sender_died_is_released_by_the_next_command(
    fake_slurm: Any, send: Send, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfkd_cli.backends.slurm import arrays

    def dying(*args: Any, **more: Any) -> None:
        raise DiesError

    with monkeypatch.context() as patched:
        patched.setattr(arrays, "release", dying)
        with pytest.raises(DiesError):
            send(graph(1, 2), jobs=2)
    assert fake_slurm.state["jobs"]["1"]["elements"][0]["reason"] == "JobHeldUser"
    assert send(graph(1, 2), jobs=2).already == 3
    assert fake_slurm.dependencies("1") == ["", "afterok:1_0", "afterok:1_0"]
    assert fake_slurm.state["jobs"]["1"]["elements"][0]["reason"] == "None"
