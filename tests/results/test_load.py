"""A results folder as pandas frames: documented columns, checked records, tables in three lines."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tfkd_cli import results
from tfkd_cli.errors import RequestError
from tfkd_cli.methods import LOSSES, Distillation, LabelSmoothing, TfReg
from tfkd_cli.results import columns
from tfkd_cli.spec import TRAINER_VERSION, Recipe, RunSpec, Teacher
from tfkd_cli.store import RunFolder, Store, run_state

BASELINE = RunSpec(dataset="digits", student="resnet8", recipe=Recipe().with_epochs(2))
SPECS = (
    BASELINE,
    replace(BASELINE, seed=1),
    replace(BASELINE, loss=LabelSmoothing(alpha=0.2)),
    replace(BASELINE, loss=TfReg(alpha=0.3, temperature=2.0, **TfReg.FORMS["printed"])),
    replace(BASELINE, loss=Distillation(alpha=0.9), teacher=Teacher(run=BASELINE, checkpoint="last")),
    replace(BASELINE, recipe=replace(BASELINE.recipe, lr=0.05)),
)
NUMERICS = {"device": "cuda", "device_name": "NVIDIA A100"}


def finish(store: Store, spec: RunSpec, accuracy: float, **changes: Any) -> RunFolder:
    """A finished run of two epochs, the second the better."""
    folder = store.run(spec)
    folder.declare(spec)
    lines = [line(1, accuracy - 5), line(2, accuracy)]
    best: dict[str, Any] = {"epoch": 2, "accuracy": accuracy, "balanced_accuracy": 50.0, "ece": 3.0}
    best["loss"] = 0.5
    best |= {"val_accuracy": 61.0, "val_loss": 0.4, "top5": 99.0, "confusion": ["3 1", "0 4"]}
    result = {"key": spec.key, "epochs": 2, "best": best, "last": {"epoch": 2, "accuracy": accuracy}}
    result |= {"numerics": NUMERICS, "commit": "c" * 40, "class_names": ["cat", "dog"], "seconds": 4.0}
    folder.start_attempt(owner={}).publish(metrics=lines, weights={}, result={**result, **changes})
    return folder


def line(epoch: int, accuracy: float) -> dict[str, Any]:
    """One line of metrics.jsonl."""
    losses = {"train_loss": 1.0, "test_loss": 0.5, "loss_ce": 0.9, "loss_kl": None, "val_loss": 0.4}
    accuracies = {"train_accuracy": 70.0, "test_accuracy": accuracy, "test_top5": 99.0, "val_accuracy": 61.0}
    more = {"epoch": epoch, "attempt": 1, "lr": 0.1, "seconds": 2.0, "images_per_second": 100.0}
    return {**losses, **accuracies, **more}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Six finished runs: accuracies 80, 82, 84, …"""
    made = Store.open(tmp_path / "results", create=True)
    for number, spec in enumerate(SPECS):
        finish(made, spec, 80.0 + 2 * number)
    return made


@pytest.fixture
def row(store: Store) -> Any:
    """Gives the row of a run."""
    runs, _ = results.load(store.root)
    return lambda spec: runs.set_index("run").loc[spec.folder]


def test_the_columns_are_the_documented_ones(store: Store) -> None:
    runs, epochs = results.load(store.root)
    assert list(runs.columns) == [*columns.RUNS]
    assert list(epochs.columns) == [*columns.EPOCHS]
    page = Path(__file__).parents[2].joinpath("docs", "library.md").read_text(encoding="utf-8")
    assert columns.markdown(columns.RUNS) in page
    assert columns.markdown(columns.EPOCH) in page


def test_every_field_of_a_recipe_and_of_a_loss_has_a_column() -> None:
    assert {each.name for each in fields(Recipe)} <= {*columns.RECIPE}
    of_losses = {each.name for loss in LOSSES.values() for each in fields(loss)}
    assert {"loss_scale" if name == "scale" else name for name in of_losses} == {*columns.LOSS}


def test_three_lines_of_pandas_recompute_a_table(store: Store) -> None:
    runs, _ = results.load(store.root)
    same = runs[(runs["status"] == "done") & (runs["lr"] == 0.1)]
    table = same.groupby(["student", "method", "teacher"], dropna=False)["best_accuracy"].agg(
        ["mean", "count"]
    )
    by_method = table.reset_index().set_index("method")
    assert by_method["mean"].to_dict() == {"baseline": 81.0, "lsr": 84.0, "tf-reg": 86.0, "tf-self": 88.0}
    assert by_method.loc["baseline", "count"] == 2


def test_a_row_says_what_the_run_is_and_what_came_of_it(row: Any) -> None:
    found = row(SPECS[3])
    expected = {
        "method": "tf-reg",
        "form": "printed",
        "alpha": 0.3,
        "temperature": 2.0,
        "lr": 0.1,
        "epochs": 2,
    }
    expected |= {"seed": 0, "best_accuracy": 86.0, "last_accuracy": 86.0, "best_epoch": 2, "seconds": 4.0}
    expected |= {"val_accuracy": 61.0, "balanced_accuracy": 50.0, "ece": 3.0, "test_loss": 0.5}
    expected |= {"device": "cuda", "hardware": "NVIDIA A100", "commit": "c" * 40, "key": SPECS[3].key}
    assert {name: found[name] for name in expected} == expected
    assert pd.isna(found["teacher"])
    taught = row(SPECS[4])
    assert (taught["method"], taught["teacher"], taught["checkpoint"]) == ("tf-self", "resnet8", "last")
    assert row(SPECS[5])["lr"] == 0.05


def test_an_epoch_has_its_validation_accuracy_and_the_parts_of_its_loss(store: Store) -> None:
    finish(store, replace(BASELINE, seed=7), 90.0)
    _, epochs = results.load(store.root)
    own = epochs[(epochs["seed"] == 7) & (epochs["method"] == "baseline")]
    assert own["epoch"].tolist() == [1, 2]
    assert own["test_accuracy"].tolist() == [85.0, 90.0]
    assert own["val_accuracy"].tolist() == [61.0, 61.0]
    assert own["loss_ce"].tolist() == [0.9, 0.9]


def test_parts_of_a_loss_that_are_not_ours_get_columns_of_their_own(store: Store) -> None:
    spec = replace(BASELINE, seed=8)
    attempt = store.run(spec)
    attempt.declare(spec)
    lines = [{**line(1, 50.0), "loss_target": 0.25}]
    scores = {"epoch": 1, "accuracy": 50.0}
    result = {"key": spec.key, "epochs": 1, "best": scores, "last": scores}
    attempt.start_attempt(owner={}).publish(metrics=lines, weights={}, result=result)
    _, epochs = results.load(store.root)
    assert epochs.loc[epochs["seed"] == 8, "loss_target"].tolist() == [0.25]


def test_a_pack_is_loaded_like_the_folder_it_came_from(store: Store, tmp_path: Path) -> None:
    store.pack(None, tmp_path / "all.tar.gz")
    for ours, theirs in zip(results.load(tmp_path / "all.tar.gz"), results.load(store.root), strict=True):
        pd.testing.assert_frame_equal(ours, theirs)


def test_an_empty_folder_gives_empty_frames_with_all_columns(tmp_path: Path) -> None:
    runs, epochs = results.load(tmp_path)
    assert (len(runs), len(epochs)) == (0, 0)
    assert [*runs.columns, *epochs.columns] == [*columns.RUNS, *columns.EPOCHS]
    assert runs.groupby("method")["best_accuracy"].mean().empty


@pytest.mark.parametrize(("name", "said"), [("file", "cannot read"), ("nowhere", "no results folder")])
def test_what_is_neither_a_folder_nor_a_pack_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "file").write_text("no results")
    with pytest.raises(RequestError, match=said):
        results.load(tmp_path / name)
    assert not (tmp_path / "nowhere").exists()


def test_runs_that_are_not_finished_have_a_status_and_no_accuracy(store: Store) -> None:
    begun, failed = replace(BASELINE, seed=2), replace(BASELINE, seed=3)
    for spec in (begun, failed):
        store.run(spec).declare(spec)
    attempt = store.run(failed).start_attempt(owner={})
    attempt.append_metrics(line(1, 40.0))
    attempt.fail({"message": "out of memory"})
    runs, epochs = results.load(store.root)
    found = runs.set_index("run")
    assert found.loc[begun.folder, "status"] == "todo"
    assert found["status"][failed.folder] == "failed"
    assert found["problem"][failed.folder] == "out of memory"
    assert found.loc[failed.folder, "seconds"] == 2.0
    unknown = set(runs.loc[runs["best_accuracy"].isna(), "run"])
    assert unknown == {begun.folder, failed.folder}
    assert failed.folder not in set(epochs["run"])


def test_a_run_that_contradicts_its_metrics_is_damaged_and_has_no_number(store: Store) -> None:
    folder = store.run(SPECS[0])
    path = folder.path / "result.json"
    forged = {**json.loads(path.read_text()), "best": {"epoch": 2, "accuracy": 99.0}}
    path.write_bytes(run_state.sealed(forged))
    runs, epochs = results.load(store.root)
    found = runs.set_index("run").loc[folder.name]
    assert found["status"] == "damaged"
    assert "80.0 % as its best accuracy, and 99.0 % in the result" in found["problem"]
    assert runs.loc[runs["best_accuracy"].isna(), "run"].tolist() == [folder.name]
    assert folder.name not in set(epochs["run"])


def test_a_run_of_an_older_trainer_version_has_its_numbers_its_version_and_a_word_of_warning(
    store: Store,
) -> None:
    old = replace(BASELINE, trainer=1)
    finish(store, old, 75.0)
    runs, epochs = results.load(store.root)
    found = runs.set_index("run").loc[old.folder]
    assert (found["trainer"], found["status"], found["best_accuracy"]) == (1, "done", 75.0)
    assert found["problem"] == "made by trainer version 1, this is version 2; not comparable"
    assert (epochs["run"] == old.folder).sum() == 2
    current = runs[runs["trainer"] == TRAINER_VERSION]
    assert len(current) == len(SPECS)
    assert current["problem"].isna().all()


def test_the_confusion_matrix_has_true_classes_as_rows(store: Store) -> None:
    found = results.read(store)
    matrix = results.confusion_matrix(found[SPECS[0].folder])
    assert matrix is not None
    assert matrix.index.tolist() == matrix.columns.tolist() == ["cat", "dog"]
    assert matrix.to_numpy().tolist() == [[3, 1], [0, 4]]


def test_commands_that_only_look_do_not_wait_for_pandas(store: Store) -> None:
    script = (
        "import sys; from tfkd_cli.__main__ import main\n"
        f"for words in (['status'], ['plan', 'demo'], ['--help']):\n"
        f"    try: main([*words, *(['--results', {str(store.root)!r}] if words != ['--help'] else [])])\n"
        "    except SystemExit: pass\n"
        "assert 'pandas' not in sys.modules and 'torch' not in sys.modules, 'imported'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
