"""`tfkd compare` in the report: its answer comes first, several stand side by side, nothing is left over."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tfkd_cli import report
from tfkd_cli.__main__ import main
from tfkd_cli.commands import session
from tfkd_cli.compare.comparison import UNTAUGHT, Comparison, comparison_request
from tfkd_cli.execution import Execution
from tfkd_cli.reproduction import overrides, requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.store import Store


def compared(stores: ModuleType, root: Path, *, student: str = "resnet8", stages: int = 3) -> Comparison:
    """A comparison on digits that is recorded in a store, so many of its stages done."""
    execution = Execution(cache=str(root / "cache"))
    axes = requests.axes_of(dataset="digits", students=[student], methods=UNTAUGHT)
    changes = overrides.Overrides((("epochs", 4),))
    bare = Request(seeds=(0, 1, 2), overrides=changes)
    made = Comparison(comparison_request(requests.for_axes(axes, bare, execution=execution), trials=2))
    store = Store.open(root, create=True)
    Campaign(made.request, store, execution).record("tfkd compare")
    for number in range(stages):
        finish(stores, store, made, number)
    return made


def finish(stores: ModuleType, store: Store, made: Comparison, stage: int) -> None:
    states = store.scan()
    with stores.in_memory():
        for spec in made.stages(states)[stage].runs:
            for each in spec.lineage:
                if each.key not in states:
                    stores.finish(store, each, best=best(stores, each), chosen_on="validation")
                    states = store.scan()


def best(stores: ModuleType, spec: Any) -> dict[str, Any]:
    scores = stores.result(spec, stores.metrics(spec))["best"]
    accuracy = scores["accuracy"]
    return {
        **scores,
        "val_accuracy": accuracy,
        "val_loss": 0.5,
        "balanced_accuracy": accuracy,
        "loss": 0.6,
        "ece": 3.0,
    }


@pytest.fixture(scope="module")
def results(stores: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished comparisons and a table in one store, and their report."""
    root = tmp_path_factory.mktemp("compared")
    for student in ("resnet8", "plain-cnn"):
        compared(stores, root, student=student)
    stores.finish_all(stores.campaign(root, ["demo"]))
    written = write(root)
    assert not written.left_out
    assert not any("belong" in note for note in written.notes)
    return root


def write(root: Path) -> report.Written:
    store = Store.open(root, create=False)
    campaigns, notes = session.campaigns(store, Execution(cache=str(root / "cache")))
    return report.write(campaigns, store=store, out=root, unreadable=notes)


def test_the_sentences_come_first_on_the_page_and_lead_to_their_runs(results: Path) -> None:
    page = (results / "index.html").read_text()
    record = json.loads((results / "report" / "report.json").read_text())
    assert len(record["comparisons"]) == 2
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    for each in record["comparisons"]:
        assert each["answer"].startswith("tf-reg − lsr = ")
        assert 0 < page.index(each["answer"]) < page.index('id="tables"') < page.index('id="claims"')
        assert (results / "report" / f"{each['slug']}.md").read_text().count(each["answer"]) == 1
        for line in each["methods"]:
            runs = data["cells"][f"{each['slug']}/{line['method']}"]["runs"]
            assert [data["runs"][number]["name"] for number in runs] == line["runs"]
            assert f'href="#cell={each["slug"]}/{line["method"]}"' in page


@pytest.mark.usefixtures("undrawn")
def test_show_status_and_report_know_a_comparison_by_its_name(
    results: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ["--results", str(results)]
    assert main(["show", "compare", *where]) == 0
    assert capfd.readouterr().out.count("tf-reg − lsr = ") == 2
    assert main(["show", "compare-digits-plain-cnn", "--format", "json", *where]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer["name"].startswith("compare-digits-plain-cnn-")
    for form, expected in (("csv", "mean_accuracy"), ("md", "| method |"), ("tex", r"\toprule")):
        assert main(["show", answer["name"], "--format", form, *where]) == 0
        assert expected in capfd.readouterr().out
    assert main(["status", answer["name"], "--json", *where]) == 0
    counted = json.loads(capfd.readouterr().out)
    assert counted["counts"]["done"] == len(counted["runs"]) >= answer["runs"]["wanted"]
    assert {name for run in counted["runs"] for name in run["tables"]} == {answer["name"]}
    assert main(["report", answer["name"], "--out", str(results / "one"), *where]) == 0
    shown = json.loads((results / "one" / "report" / "report.json").read_text())
    assert [each["name"] for each in shown["comparisons"]] == [answer["name"]]
    assert shown["tables"] == []


@pytest.mark.usefixtures("undrawn")
def test_an_unfinished_comparison_says_what_is_missing(
    stores: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = compared(stores, tmp_path, stages=2)
    assert main(["show", "compare", "--results", str(tmp_path)]) == 0
    assert "n = 1: too few seeds to tell" in capfd.readouterr().out
    write(tmp_path)
    record = json.loads((tmp_path / "report" / "report.json").read_text())
    [missing] = record["missing"]
    assert missing["command"] == "tfkd compare"
    finish(stores, Store.open(tmp_path, create=False), made, 2)
    write(tmp_path)
    record = json.loads((tmp_path / "report" / "report.json").read_text())
    assert record["missing"][0]["counts"] == {"done": record["missing"][0]["wanted"]}


@pytest.mark.parametrize("command", [["show"], ["status"], ["report"]])
def test_where_nothing_was_compared_it_says_so(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "compare", "--results", str(tmp_path)]) == 2
    assert "tfkd compare --help" in capfd.readouterr().err
