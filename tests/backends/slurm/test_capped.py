"""A cap on runs at once: one held array with a dependency per element, or arrays that share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tfkd_cli.backends.slurm.submission import Submitted
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


def test_where_the_site_refuses_element_dependencies_the_cap_is_divided_and_told(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    with fake_slurm.edit() as state:
        state["no_element_updates"] = True
    told: list[str] = []
    sent = send(graph(2, 3), jobs=2, on_event=told.append)
    assert {each["state"] for each in fake_slurm.state["jobs"]["1"]["elements"]} == {"CANCELLED"}
    assert sent.arrays == (("9", 2), ("11", 3), ("14", 3))
    assert [fake_slurm.options(job)["array"].split("%")[1] for job in ("9", "11", "14")] == ["1", "1", "1"]
    assert fake_slurm.options("14")["dependency"] == "afterok:9_1,afterany:9"
    assert "divided" in told[0]


def test_a_cap_holds_over_arrays_split_at_max_array_size(fake_slurm: Any, send: Send, graph: Graph) -> None:
    with fake_slurm.edit() as state:
        state["config"]["MaxArraySize"] = "5"
    send(graph(2, 3), jobs=3)
    caps = [int(job["options"]["array"].split("%")[1]) for job in fake_slurm.state["jobs"].values()]
    assert caps == [2, 1]


def test_a_held_array_whose_sender_died_is_released_by_the_next_command(
    fake_slurm: Any, send: Send, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfkd_cli.backends.slurm import held

    def dying(*args: Any, **more: Any) -> None:
        raise DiesError

    with monkeypatch.context() as patched:
        patched.setattr(held, "release", dying)
        with pytest.raises(DiesError):
            send(graph(1, 2), jobs=2)
    assert fake_slurm.state["jobs"]["1"]["elements"][0]["reason"] == "JobHeldUser"
    assert send(graph(1, 2), jobs=2).already == 3
    assert fake_slurm.dependencies("1") == ["", "afterok:1_0", "afterok:1_0"]
    assert fake_slurm.state["jobs"]["1"]["elements"][0]["reason"] == "None"
