"""`tfkd show`: every item that is named, in every format; what is not there is said."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paper_tables.spec import PaperTablesError
from tests.report import stores
from tfkd_cli.__main__ import main
from tfkd_cli.execution import Execution
from tfkd_cli.grid import Axes
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A store with one run, of which nothing is done."""
    axes = Axes(dataset="digits", students=("resnet8",), methods=("baseline",))
    request = requests.for_axes(axes, Request(seeds=(0,)), execution=Execution(cache="none"))
    (spec,) = request.runs(request.tables[0])
    Store.open(tmp_path / "results", create=True).run(spec).declare(spec)
    return tmp_path / "results"


def shown(item: str, form: str, results: Path, capfd: pytest.CaptureFixture[str]) -> str:
    assert main(["show", item, "--format", form, "--results", str(results)]) == 0
    return capfd.readouterr().out


def test_all_tables_and_figures_of_a_name_are_shown(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = shown("controls", "md", results, capfd)
    assert "Controls on CIFAR10" in said
    assert "Controls on CIFAR100" in said
    figures = json.loads(shown("fig2", "json", results, capfd))
    assert [each["name"] for each in figures] == ["fig2a", "fig2b"]


def test_the_seeds_that_are_named_are_shown_whatever_was_asked_before(
    results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store, execution = Store.open(results, create=False), Execution(cache="none")
    asked = requests.for_names(["table9"], Request(seeds=(0, 1, 2)), execution=execution)
    Campaign(asked, store, execution).record("tfkd reproduce table9")

    def wanted(*more: str) -> set[int]:
        assert main(["show", "table9", "--format", "json", *more, "--results", str(results)]) == 0
        return {each["measured"]["wanted"] for each in json.loads(capfd.readouterr().out)["cells"]}

    assert wanted() == {3}
    assert wanted("--seeds", "5") == {5}


def test_one_table_is_one_json_object(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert json.loads(shown("table4", "json", results, capfd))["table"] == "table4"


@pytest.mark.parametrize("item", ["digits-resnet8-baseline", "errata", "fig3"])
@pytest.mark.parametrize(("form", "mark"), [("md", "| --- |"), ("tex", r"\toprule"), ("csv", ",")])
def test_runs_errata_and_figures_have_every_format(
    item: str, form: str, mark: str, results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = shown(item, form, results, capfd)
    assert mark in said
    if form == "csv":
        assert len({len(line) for line in csv.reader(io.StringIO(said))}) == 1


def test_the_eight_slips_of_the_paper_are_errata(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = json.loads(shown("errata", "json", results, capfd))
    assert sum(each["arithmetic"] is not None for each in found) == 8


@pytest.mark.parametrize("command", ["show", "status", "plan"])
def test_a_table_that_cannot_be_read_is_not_taken_for_an_unknown_name(
    command: str, results: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def damaged(self: object, name: str) -> list[str]:
        raise PaperTablesError("table9.toml, row 1, cell tf-reg: the mean is 700.", expected="1 to 100.")

    monkeypatch.setattr("paper_tables.reader.Paper._meant", damaged)
    assert main([command, "table9", "--results", str(results)]) == 2
    assert "row 1, cell tf-reg: the mean is 700" in capfd.readouterr().err


RUN = ["run", "--student", "plain-cnn", "--method", "baseline", "--dataset", "digits", "--epochs", "2"]


def test_a_named_grid_is_shown_again_by_its_name_and_the_name_means_no_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ["--results", str(tmp_path / "results")]
    named = [*RUN, "--name", "first", *where]
    assert main(named) == 0
    assert main(named) == 0  # the same grid
    assert main([*RUN, "--seeds", "0-1", "--name", "first", *where]) == 0  # one more seed of it
    capfd.readouterr()
    assert main(["show", "first", "--format", "json", *where]) == 0
    made = json.loads(capfd.readouterr().out)
    assert (made["table"], made["cells"][0]["measured"]["n"]) == ("first", 2)
    assert main(["status", "first", *where]) == 0
    assert "2 runs: 2 done" in capfd.readouterr().out
    assert main([*RUN, "--lr", "0.3", "--name", "first", *where]) == 2
    assert "name of another grid" in capfd.readouterr().err
    assert main(["show", "first", "--lr", "0.3", *where]) == 2
    assert "does not change them" in capfd.readouterr().err
    run = next((tmp_path / "results/runs").iterdir()).name
    assert main(["show", run, "--plot", *where]) == 0
    shown = capfd.readouterr().out
    assert "* test accuracy (%) by epoch" in shown
    for command in ("show", "status", "report", "cancel"):
        assert main([command, "frist", *where]) == 2
        assert 'did you mean "first"?' in capfd.readouterr().err
    assert main(["show", "first", "--plot", *where]) == 2
    assert main(["show", run, "--plot", "--format", "json", *where]) == 2
    assert "no learning curve of its own" in capfd.readouterr().err


def test_an_unknown_format_is_refused_whatever_the_item(
    results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for item in ("table1", "errata", "digits-resnet8-baseline"):
        assert main(["show", item, "--format", "xls", "--results", str(results)]) == 2
        assert "unknown format" in capfd.readouterr().err


def test_a_figure_is_drawn_into_the_cache_folder_and_where_is_said(
    results: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    assert main(["show", "fig3", "--results", str(results), "--cache-dir", str(cache)]) == 0
    assert f"Picture: {cache / 'figures' / 'fig3.png'}" in capfd.readouterr().err
    assert (cache / "figures" / "fig3.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_written_is_a_clear_error(
    results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", "fig3", "--results", str(results), "--cache-dir", "/proc/nowhere"]) == 1
    said = capfd.readouterr().err
    assert "the system refused" in said
    assert "--cache-dir" in said


def test_runs_of_an_older_trainer_version_are_named_by_status_runs_and_show(
    results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    old = replace(RunSpec(dataset="digits", student="resnet8"), trainer=1)
    Store.open(results, create=False).run(old).declare(old)
    words = ("made by trainer version 1, this", "is version 2; not comparable")  # a table may wrap between
    for command in (["status"], ["runs"], ["show", old.folder], ["status", old.folder]):
        assert main([*command, "--results", str(results)]) == 0
        said = capfd.readouterr()
        shown = " ".join((said.out + said.err).split())
        assert all(each in shown for each in words), command


def test_status_of_a_table_that_nobody_asked_for_says_so(
    results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "table1", "--results", str(results)]) == 2
    assert "tfkd reproduce table1" in capfd.readouterr().err


def test_a_damaged_run_is_called_so_everywhere_and_its_hint_taken_literally_has_it_trained_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = stores.grid(tmp_path, seeds=(0,), dataset="digits", students=["resnet8"], methods=["lsr"])
    damaged = stores.finish_all(made)[1].folder
    for path in (tmp_path / "runs" / damaged).rglob("metrics.jsonl"):
        path.unlink()

    def said() -> tuple[Any, Any, Any, str]:
        where = ["--results", str(tmp_path)]
        plan = [
            "run",
            "--student",
            "resnet8",
            "--method",
            "lsr",
            "--dataset",
            "digits",
            "--dry-run",
            "--json",
        ]
        shown, hints = [], ""
        for words in (["status", "--json"], plan, ["runs", "--json"]):
            assert main([*words, *where]) == 0
            out, err = capfd.readouterr()
            shown.append(json.loads(out))
            hints += err
        return shown[0]["counts"], shown[1]["runs"], shown[2], hints

    status, plan, runs, hint = said()
    assert (status["done"], status["damaged"], status["todo"]) == (1, 1, 0)
    assert (plan["done"], plan["damaged"], plan["todo"]) == (1, 1, 1)
    row = next(each for each in runs if each["run"] == damaged)
    assert row["status"] == "damaged"
    assert "\n" not in row["problem"]
    move = re.search(r"Hint: move the run away \((mv .*?)\), then give the command", hint)
    assert move is not None
    assert move[1] in row["problem"]
    subprocess.run(shlex.split(move[1]), check=True)
    status, plan, runs, _ = said()
    assert (status["done"], status["damaged"], status["todo"]) == (1, 0, 1)
    assert (plan["damaged"], plan["todo"], len(runs)) == (0, 1, 1)


def test_a_table_that_no_command_asked_for_is_reported_with_the_runs_that_others_have_finished(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = stores.campaign(tmp_path / "results", ["table9"], seeds=(0,))
    with stores.in_memory():
        for spec in stores.wanted(made):
            if spec.student == "resnet18" and spec.method == "baseline":
                stores.finish(made.store, spec)
    where = ("--results", str(tmp_path / "results"), "--out", str(tmp_path / "page"))
    assert main(["report", "table5", *where]) == 0
    assert "n=1/3" in (tmp_path / "page/report/table5.md").read_text()
    assert main(["report", "table6", *where]) == 2
    assert "there is no table6 in" in capfd.readouterr().err
