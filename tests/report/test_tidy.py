"""runs.csv and epochs.csv: their columns, their identity, and the tables recomputed from them alone."""

from __future__ import annotations

import csv
import itertools
import json
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tfkd_cli import report
from tfkd_cli.report.runs import COLUMNS
from tfkd_cli.results import columns

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Made  # type: ignore[import-not-found, unused-ignore]

METRICS = [
    *("epoch", "attempt", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_top5"),
    *("loss_ce", "loss_kl", "seconds", "images_per_second"),
]


@pytest.mark.parametrize(
    ("name", "known"), [("runs.csv", {**columns.RUNS, **COLUMNS}), ("epochs.csv", columns.EPOCHS)]
)
def test_the_columns_are_the_documented_ones(demo: Made, name: str, known: columns.Columns) -> None:
    assert (demo.folder / name).read_text().splitlines()[0] == ",".join(known)
    text = (demo.folder / "COLUMNS.md").read_text()
    assert all(f"| `{column}` |" in text for column in known)


def test_no_digit_of_the_metrics_is_lost(demo: Made) -> None:
    with (demo.folder / "epochs.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for name, lines in itertools.groupby(rows, key=lambda row: row["run"]):
        text = (demo.out / "runs" / name / "metrics.jsonl").read_text()
        recorded = [json.loads(line) for line in text.splitlines()]
        ours = [{column: float(row[column]) if row[column] else None for column in METRICS} for row in lines]
        assert ours == [{column: line[column] for column in METRICS} for line in recorded]


def test_means_spreads_and_counts_follow_from_epochs_csv(demo: Made) -> None:
    epochs = pd.read_csv(demo.folder / "epochs.csv")
    by_run = epochs.groupby("run")["test_accuracy"].agg(best="max", last="last")
    for cell in demo.record["tables"][0]["cells"]:
        own = by_run.loc[cell["measured"]["runs"]]
        for epoch in ("best", "last"):
            assert cell["measured"][epoch]["mean"] == pytest.approx(own[epoch].mean(), abs=1e-9)
            assert cell["measured"][epoch]["std"] == pytest.approx(own[epoch].std(), abs=1e-9)
        assert cell["measured"]["n"] == len(own)


def test_gains_and_their_intervals_follow_from_epochs_csv(demo: Made) -> None:
    """The definition of STATISTICS.md for one student: a paired t interval over seeds."""
    epochs = pd.read_csv(demo.folder / "epochs.csv", keep_default_na=False)
    best = epochs.groupby(["student", "method", "seed"])["test_accuracy"].max()
    seen = 0
    for cell in demo.record["tables"][0]["cells"]:
        setting, reading = cell["setting"], cell["measured"]["best"]
        if setting["method"] == "baseline":
            continue
        differences = best[setting["student"], setting["method"]] - best[setting["student"], "baseline"]
        low, high = stats.t.interval(
            0.95, len(differences) - 1, loc=differences.mean(), scale=stats.sem(differences)
        )
        assert reading["gain"] == pytest.approx(differences.mean(), abs=1e-9)
        assert reading["gain_low"] == pytest.approx(low, abs=1e-9)
        assert reading["gain_high"] == pytest.approx(high, abs=1e-9)
        seen += 1
    assert seen == 6


def test_runs_csv_says_what_epochs_csv_says(demo: Made) -> None:
    runs = pd.read_csv(demo.folder / "runs.csv").set_index("run")
    epochs = pd.read_csv(demo.folder / "epochs.csv")
    best = epochs.sort_values(["test_accuracy", "epoch"], ascending=[False, True]).groupby("run").first()
    assert (runs["best_accuracy"] == best["test_accuracy"].reindex(runs.index)).all()
    assert (runs["best_epoch"] == best["epoch"].reindex(runs.index)).all()
    seconds = epochs.groupby("run")["seconds"].sum().reindex(runs.index)
    np.testing.assert_allclose(runs["seconds"], seconds, rtol=1e-9)


def test_the_demo_is_named_as_it_was_asked_for(demo: Made) -> None:
    runs = pd.read_csv(demo.folder / "runs.csv")
    assert set(runs["method"]) == {"baseline", "lsr", "kd", "re-kd", "de-kd", "tf-self", "tf-reg"}
    assert set(runs["scale"]) == {"demo"}
    assert set(runs["wanted_by"]) == {"demo"}
    assert set(runs["augment_stream"]) == {"shared"}
    assert set(runs.loc[runs["method"] == "de-kd", "checkpoint"]) == {"1"}
    assert set(runs.loc[runs["method"] == "tf-self", "teacher"]) == {"resnet8"}


@pytest.mark.usefixtures("undrawn")
def test_scale_and_form_tell_other_recipes_from_the_papers(stores: ModuleType, tmp_path: Path) -> None:
    changed = stores.Overrides(recipe=(("epochs", 3),))
    campaigns = [
        stores.campaign(tmp_path, ["table9"], seeds=(0,)),
        stores.campaign(tmp_path, ["table9"], seeds=(0,), scale="quick"),
        stores.campaign(tmp_path, ["table9"], seeds=(0,), form="printed"),
        stores.campaign(tmp_path, ["table9"], seeds=(0,), overrides=changed),
    ]
    written = report.write(campaigns, store=campaigns[0].store, out=tmp_path)
    runs = pd.read_csv(tmp_path / "report" / "runs.csv")
    assert runs["run"].is_unique
    by_scale = runs.groupby("scale")["precision"].unique().map(list)
    assert dict(by_scale) == {"custom": ["fp32"], "paper": ["fp32"], "quick": ["bf16"]}
    by_form = runs[runs["scale"] == "paper"].groupby("form")["method"].agg(set)
    assert "baseline" in by_form["released"]  # shared by both forms, it is counted once
    assert by_form["printed"] == {"lsr", "kd", "tf-reg"}
    names = {name for name in written.files if name.startswith("table9") and name.endswith(".md")}
    assert names == {
        "table9.md",
        "table9-quick.md",
        "table9-printed-form.md",
        "table9-recipe.epochs-3.md",
    }


def test_only_finished_runs_have_epochs(paper: Made) -> None:
    runs = pd.read_csv(paper.folder / "runs.csv")
    epochs = pd.read_csv(paper.folder / "epochs.csv")
    assert set(epochs["run"]) == set(runs.loc[runs["status"] == "done", "run"])
    assert set(runs["status"]) == {"done", "todo"}
