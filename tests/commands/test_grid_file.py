"""`tfkd run --from FILE`: a grid in a file, and the file that every run writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.__main__ import main

GRID = """
student = ["resnet8", "plain-cnn"]
method = "kd"
teacher = "resnet14"
dataset = "digits"
seeds = 2
epochs = 1
batch-size = 64
fast = true
set = ["recipe.weight_decay=0.001"]
"""
TYPED = (
    *("--student", "resnet8,plain-cnn", "--method", "kd", "--teacher", "resnet14", "--dataset", "digits"),
    *("--seeds", "2", "--epochs", "1", "--batch-size", "64", "--fast"),
    *("--set", "recipe.weight_decay=0.001"),
)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text(GRID)
    return path


def planned(capfd: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["run", *arguments, "--dry-run", "--json"]) == 0
    found: dict[str, Any] = json.loads(capfd.readouterr().out)
    return found


def test_a_grid_in_a_file_is_the_grid_that_the_same_options_ask_for(
    grid: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = ("--results", str(tmp_path / "none"))
    assert planned(capfd, "--from", str(grid), *store) == planned(capfd, *TYPED, *store)


def test_what_is_typed_counts_more_than_the_file(
    grid: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = ("--results", str(tmp_path / "none"))
    changed = planned(capfd, "--from", str(grid), "--seeds", "7-7", *store)
    assert changed["seeds"] == [7]
    assert changed["runs"]["wanted"] == 2 + 3  # by KD; the teacher and the baselines that gains refer to


def test_every_run_writes_the_file_that_repeats_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = ("--results", str(tmp_path / "results"))
    asked = ("--student", "plain-cnn", "--method", "lsr", "--dataset", "digits", "--epochs", "1")
    assert main(["run", *asked, "--alpha", "0.2", *store]) == 0
    (written,) = (tmp_path / "results" / "requests").glob("*.toml")
    capfd.readouterr()
    again = planned(capfd, "--from", str(written), *store)
    assert again["runs"]["done"] == again["runs"]["wanted"] == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('studnet = "resnet8"', 'did you mean "student"?'),
        ("[loss]\nalpha = 0.5", "unknown option in "),
        ("student = ", "cannot be read"),
        ("\x00", "cannot be read"),
    ],
)
def test_a_file_that_is_no_grid_is_refused_with_what_to_do(
    text: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    assert main(["run", "--from", str(path)]) == 2
    assert said in " ".join(capfd.readouterr().err.split())


def test_a_value_of_another_type_is_refused_as_if_it_was_typed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "grid.toml"
    path.write_text('student = "resnet8"\nmethod = "lsr"\nepochs = "many"')
    assert main(["run", "--from", str(path)]) == 2
    assert "--epochs is 'many'" in capfd.readouterr().err
