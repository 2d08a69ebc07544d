"""`tfkd runs` and `tfkd diff`: one line per run, and what differs between two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.__main__ import main
from tfkd_cli.execution import Execution
from tfkd_cli.grid import Axes
from tfkd_cli.methods import Distillation
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher, RunSpec
from tfkd_cli.store import Store


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A store with four runs that have not been started."""
    axes = Axes(dataset="digits", students=("resnet8",), methods=("baseline", "tf-reg"))
    request = requests.for_axes(axes, Request(seeds=(0, 1)), execution=Execution(cache="none"))
    store = Store.open(tmp_path / "results", create=True)
    for spec in request.runs(request.tables[0]):
        store.run(spec).declare(spec)
    return tmp_path / "results"


def runs(results: Path, capfd: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    assert main(["runs", "--json", *more, "--results", str(results)]) == 0
    found: list[dict[str, Any]] = json.loads(capfd.readouterr().out)
    return found


def test_every_run_has_a_line_with_its_short_name(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--results", str(results)]) == 0
    shown = capfd.readouterr()
    assert "digits · tf-reg · s1" in shown.out
    assert "4 runs" in shown.err


def test_runs_are_filtered_by_every_condition(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = runs(results, capfd, "--where", "method=TF-REG,lsr", "--where", "seed=1")
    assert [(each["method"], each["seed"]) for each in found] == [("tf-reg", 1)]
    assert runs(results, capfd, "--where", "alpha=0.7") == []


def test_runs_are_sorted_by_a_column_in_both_directions(
    results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert [each["seed"] for each in runs(results, capfd, "--sort", "seed")] == [0, 0, 1, 1]
    assert [each["seed"] for each in runs(results, capfd, "--sort", "-seed")] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--where", "seed"], 'has no "="'),
        (["--where", "seeds=1"], 'did you mean "seed"?'),
        (["--sort", "-best"], 'did you mean "best_'),
    ],
)
def test_an_unknown_column_is_refused_with_the_nearest(
    arguments: list[str], said: str, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", *arguments, "--results", str(results)]) == 2
    assert said in capfd.readouterr().err


def test_a_folder_without_runs_is_an_empty_list(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert runs(tmp_path, capfd) == []


def test_two_runs_differ_in_what_was_asked_of_them(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    keys = {(each["method"], each["seed"]): each["key"] for each in runs(results, capfd)}

    def different(first: tuple[str, int], second: tuple[str, int]) -> set[str]:
        pair = keys[first], keys[second][:8]
        assert main(["diff", *pair, "--json", "--results", str(results)]) == 0
        return {each["field"] for each in json.loads(capfd.readouterr().out)["different"]}

    assert different(("baseline", 0), ("baseline", 1)) == {"seed"}
    assert different(("baseline", 0), ("baseline", 0)) == set()
    assert {"method", "alpha", "temperature"} <= different(("baseline", 0), ("tf-reg", 0))


def test_a_difference_is_a_row_of_a_table(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second, *_ = runs(results, capfd, "--sort", "seed")
    assert main(["diff", first["run"], second["run"], "--results", str(results)]) == 0
    shown = capfd.readouterr().out
    assert first["run"] in shown
    assert "method" in shown
    assert main(["diff", first["run"], first["run"], "--results", str(results)]) == 0
    assert "alike" in capfd.readouterr().out


def test_two_runs_differ_in_the_images_that_a_teacher_from_a_file_was_given(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(tmp_path, create=True)
    teacher = ForeignTeacher(network="resnet20", digest="a" * 64, mean=(0.5,), std=(0.25,))
    for each in (teacher, replace(teacher, size=24)):
        spec = RunSpec(dataset="digits", student="resnet8", loss=Distillation(), teacher=each)
        store.run(spec).declare(spec)
    keys = [each["key"] for each in runs(tmp_path, capfd)]
    assert main(["diff", *keys, "--json", "--results", str(tmp_path)]) == 0
    (only,) = json.loads(capfd.readouterr().out)["different"]
    told = f"file:{'a' * 12} mean=0.5 std=0.25"
    assert {only["first"], only["second"]} == {told, f"{told} size=24"}


def test_a_run_is_listed_under_the_name_that_its_data_set_was_given(
    results: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "requests", lambda store: [{"id": "1", "data": {"folder:photos": "digits"}}])
    assert main(["runs", "--results", str(results)]) == 0
    assert "folder:photos · tf-reg · s1" in capfd.readouterr().out
