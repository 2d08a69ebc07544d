"""What is said beside measured numbers that are not what they seem."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tfkd_cli.data import DATASETS, ResolvedData
from tfkd_cli.execution import Execution
from tfkd_cli.grid import Axes
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.measure import cut_down, measure, seed_value
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.results import frames

EXECUTION = Execution(cache="no-such-cache")
AXES = Axes(dataset="digits", students=("resnet8",), methods=("baseline",))


def said(**manner: object) -> str:
    """The warnings beside the one number of a grid."""
    asked = Request(seeds=(0,), **manner)  # type: ignore[arg-type]
    request = requests.for_axes(AXES, asked, execution=EXECUTION)
    (measured,) = measure(request, request.tables[0], frames.runs_frame([])).by_setting.values()
    return "; ".join(measured.warnings)


def test_the_numbers_of_a_grid_at_paper_scale_stand_by_themselves() -> None:
    assert said() == ""


@pytest.mark.parametrize(("manner", "mark"), [({"scale": "quick"}, "quick scale"), ({"fast": True}, "bf16")])
def test_quick_and_fast_numbers_of_a_grid_are_marked(manner: dict[str, object], mark: str) -> None:
    assert mark in said(**manner)


def test_runs_with_a_teacher_per_seed_are_not_judged_by_the_paper_and_those_without_a_teacher_are() -> None:
    bare = Request(seeds=(0, 1), teacher_seeds="paired")
    request = requests.for_names(["table5"], bare, execution=EXECUTION)
    found = measure(request, request.tables[0], frames.runs_frame([])).by_setting
    assert {setting.method for setting, each in found.items() if each.unlike_paper} == {"kd", "tf-self"}


@pytest.mark.parametrize(("teacher_seeds", "teachers"), [("one", 1), ("paired", 2)])
def test_each_value_names_the_run_that_taught_it(teacher_seeds: str, teachers: int) -> None:
    axes = replace(AXES, methods=("tf-self",))
    bare = Request(seeds=(0, 1), teacher_seeds=teacher_seeds)  # type: ignore[arg-type]
    request = requests.for_axes(axes, bare, execution=EXECUTION)
    row = {"best_accuracy": 70.0, "last_accuracy": 70.0, "commit": ""}
    values = [seed_value(spec, row) for spec in request.runs(request.tables[0]) if spec.teacher]
    assert len({value.teacher for value in values}) == teachers


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, "not the full data set"),
        ({"unchecked": True}, "an unchecked full copy"),
        (None, "not known to be the full data set"),
    ],
)
def test_content_that_is_not_the_official_one_is_marked_in_a_grid_and_own_images_are_not(
    known: dict[str, Any] | None, words: str
) -> None:
    request = requests.for_axes(AXES, Request(seeds=(0,)), execution=EXECUTION)
    (spec,) = request.runs(request.tables[0])
    other = replace(spec, dataset="tiny-imagenet@81b7ede71283")
    if known is not None:
        facts = replace(DATASETS["tiny-imagenet"], name=other.dataset, full=False, **known)
        request = replace(request, data={"tiny-imagenet": ResolvedData(facts=facts, available=True)})
    assert f": {words}" in "; ".join(cut_down(request, request.tables[0], other))
    assert not cut_down(request, request.tables[0], replace(spec, dataset="folder@81b7ede71283"))
