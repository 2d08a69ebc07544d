"""Half a table, damaged records, mixed code, hostile text: the report is made, and says what it left out."""

from __future__ import annotations

import hashlib
import json
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from tfkd_cli import report
from tfkd_cli.report import Written
from tfkd_cli.store import run_state

pytestmark = pytest.mark.usefixtures("undrawn")

AXES = {"dataset": "digits", "students": ["resnet8"], "methods": ["baseline", "lsr"]}
HOSTILE = "</script><script>document.title='pwned'</script><img src=x onerror=alert(1)>{{ 7*7 }}\u2028\x00"


class Grid:
    """A finished grid of two methods and three seeds, to be damaged."""

    def __init__(self, stores: ModuleType, root: Path) -> None:
        self.root = root
        self.campaign = stores.grid(root, seeds=(0, 1, 2), **AXES)
        self.specs = stores.finish_all(self.campaign)

    def path(self, index: int) -> Path:
        """The folder of one run."""
        return self.root / "runs" / str(self.specs[index].folder)

    def change(self, index: int, **changes: Any) -> None:
        """Change a run's result.json, its digest too."""
        path = self.path(index) / "result.json"
        path.write_bytes(run_state.sealed({**json.loads(path.read_text()), **changes}))

    def report(self) -> Written:
        """Its report, beside it."""
        return report.write([self.campaign], store=self.campaign.store, out=self.root)

    def record(self) -> dict[str, Any]:
        """report.json."""
        found: dict[str, Any] = json.loads((self.root / "report" / "report.json").read_text())
        return found

    def statuses(self) -> list[str]:
        """By run, from runs.csv."""
        found: list[str] = pd.read_csv(self.root / "report" / "runs.csv")["status"].tolist()
        return found


@pytest.fixture
def grid(stores: ModuleType, tmp_path: Path) -> Grid:
    """A finished grid."""
    return Grid(stores, tmp_path)


def left_out_once(grid: Grid, written: Written, *words: str) -> None:
    """One run was left out, everywhere, and these words say why."""
    [line] = written.left_out
    assert all(word in line for word in (grid.specs[0].folder, *words))
    assert sorted(grid.statuses()) == ["damaged", *["done"] * 5]
    cells = grid.record()["tables"][0]["cells"]
    assert [cell["measured"]["n"] for cell in cells] == [2, 3]
    epochs = pd.read_csv(grid.root / "report" / "epochs.csv")
    assert grid.specs[0].folder not in set(epochs["run"])
    assert "Left out, and why" in written.index.read_text()


def test_a_truncated_metrics_file_is_left_out(grid: Grid) -> None:
    path = grid.path(0) / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    left_out_once(grid, grid.report(), "wrong digest")


def test_a_missing_metrics_file_is_left_out(grid: Grid) -> None:
    (grid.path(0) / "metrics.jsonl").unlink()
    left_out_once(grid, grid.report(), "is missing")


@pytest.mark.parametrize("accuracy", [99.9, None])
def test_a_result_that_says_other_numbers_than_its_epochs_is_left_out(
    grid: Grid, accuracy: float | None
) -> None:
    grid.change(0, best={"epoch": 1, "accuracy": accuracy})
    left_out_once(grid, grid.report(), "best accuracy")


BROKEN = [b"{", b"[" * 100_000]  # tests/store has every kind


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_result_without_a_sound_copy_is_left_out(grid: Grid, content: bytes) -> None:
    (grid.path(0) / "attempts" / "winner.json").write_bytes(content)
    (grid.path(0) / "result.json").write_bytes(content)
    left_out_once(grid, grid.report(), "result.json")


def test_a_broken_result_is_repaired_from_its_attempt_and_counts(grid: Grid) -> None:
    path = grid.path(0) / "result.json"
    sound = path.read_bytes()
    path.write_bytes(sound.replace(b'"accuracy": ', b'"accuracy": 9', 1))
    assert grid.report().left_out == ()
    assert path.read_bytes() == sound
    assert grid.statuses() == ["done"] * 6


@pytest.mark.parametrize("content", [*BROKEN, None])
def test_a_finished_run_counts_without_its_description_and_that_is_noted(
    grid: Grid, content: bytes | None
) -> None:
    path = grid.path(0) / "spec.json"
    (grid.path(0) / "attempts" / "0001" / "spec.json").unlink()
    path.unlink() if content is None else path.write_bytes(content)
    written = grid.report()
    assert written.left_out == ()
    assert grid.statuses() == ["done"] * 6
    assert any(str(path) in note for note in written.notes)


def test_a_broken_description_is_repaired_from_its_attempt(grid: Grid) -> None:
    path = grid.path(0) / "spec.json"
    sound = path.read_bytes()
    path.write_bytes(sound[:-9])
    written = grid.report()
    assert (written.left_out, written.notes) == ((), ())
    assert path.read_bytes() == sound


def test_damage_that_comes_after_a_good_report_is_seen(grid: Grid) -> None:
    assert grid.report().left_out == ()
    path = grid.path(0) / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    left_out_once(grid, grid.report(), "wrong digest")


def test_a_students_teacher_that_is_damaged_is_named(stores: ModuleType, tmp_path: Path) -> None:
    axes = {"dataset": "digits", "students": ["resnet8"], "methods": ["tf-self"]}
    campaign = stores.grid(tmp_path, seeds=(5,), **axes)
    teacher = next(spec for spec in stores.wanted(campaign) if spec.seed == 0)
    folder = stores.finish(campaign.store, teacher)
    (folder.path / "metrics.jsonl").write_text("")
    written = report.write([campaign], store=campaign.store, out=tmp_path)
    assert teacher.folder in written.left_out[0]
    runs = pd.read_csv(tmp_path / "report" / "runs.csv").set_index("run")["status"]
    assert sorted(runs) == ["blocked", "damaged", "todo"]


def test_mixed_code_in_a_cell_is_warned_about_and_listed(grid: Grid) -> None:
    grid.change(0, commit="a" * 40)
    written = grid.report()
    [warning] = grid.record()["tables"][0]["cells"][0]["warnings"]
    assert "mixed code versions" in warning
    assert warning in written.index.read_text()
    assert written.left_out == ()


def test_code_that_changed_during_a_training_is_warned_about(grid: Grid) -> None:
    path = grid.path(0) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    later = "".join(json.dumps({**line, "attempt": 1 + (line["epoch"] > 2)}) + "\n" for line in lines)
    path.write_text(later)
    digest = {"metrics.jsonl": hashlib.sha256(later.encode()).hexdigest()}
    grid.change(0, records=digest, commits={"1": "a" * 40, "2": "b" * 40 + "+" + "c" * 8, "3": "d" * 40})
    written = grid.report()
    warnings = grid.record()["tables"][0]["cells"][0]["warnings"]
    assert any(
        "the code changed during the training" in each and "bbbb+cccccccc" in each for each in warnings
    )
    assert f"{'a' * 40}; {'b' * 40}+{'c' * 8}" in written.index.read_text()


def test_a_cut_line_of_a_run_under_way_is_a_note_and_no_damage(stores: ModuleType, tmp_path: Path) -> None:
    campaign = stores.grid(tmp_path, seeds=(0,), **AXES)
    spec = stores.wanted(campaign)[0]
    folder = campaign.store.run(spec)
    folder.declare(spec)
    attempt = folder.start_attempt(owner={})
    attempt.append_metrics({"epoch": 1, "attempt": 1, "seconds": 3600.0, "test_accuracy": 50.0})
    with (attempt.path / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"epoch": 2, "att')
    written = report.write([campaign], store=campaign.store, out=tmp_path)
    assert written.left_out == ()
    assert any("cut off" in note for note in written.notes)
    runs = pd.read_csv(tmp_path / "report" / "runs.csv").set_index("run")
    assert runs.loc[spec.folder, "seconds"] == 3600
    assert pd.isna(runs.loc[spec.folder, "best_accuracy"])


def test_a_failed_run_is_listed_with_its_reason(stores: ModuleType, tmp_path: Path) -> None:
    campaign = stores.grid(tmp_path, seeds=(0,), **AXES)
    spec = stores.wanted(campaign)[0]
    folder = campaign.store.run(spec)
    folder.declare(spec)
    attempt = folder.start_attempt(owner={})
    attempt.log_path.write_text("the log's last words\n")
    attempt.fail({"kind": "RunError", "message": "out of memory: tried to allocate 9 GB", "traceback": "T"})
    written = report.write([campaign], store=campaign.store, out=tmp_path)
    page = written.index.read_text()
    assert written.left_out == ()
    assert "out of memory: tried to allocate 9 GB" in page
    assert "the log's last words".replace("'", "\\u0027") in page


def test_a_failed_run_whose_note_has_no_message_is_listed_as_such(stores: ModuleType, tmp_path: Path) -> None:
    campaign = stores.grid(tmp_path, seeds=(0,), **AXES)
    spec = stores.wanted(campaign)[0]
    folder = campaign.store.run(spec)
    folder.declare(spec)
    folder.start_attempt(owner={}).fail({"kind": "RunError"})
    written = report.write([campaign], store=campaign.store, out=tmp_path)
    assert "it left no reason" in written.index.read_text()


def test_runs_nobody_asked_for_are_mentioned(grid: Grid, stores: ModuleType) -> None:
    other = stores.grid(grid.root, seeds=(9,), **AXES)
    stores.finish_all(other)
    [note] = grid.report().notes
    assert "2 runs in the results folder belong to nothing that is shown here" in note


def test_a_request_that_could_not_be_read_is_named_on_the_page(grid: Grid) -> None:
    line = "request 20261122-090000-0123456789: it is no JSON."
    written = report.write([grid.campaign], store=grid.campaign.store, out=grid.root, unreadable=[line])
    assert written.left_out == (line,)
    assert line in written.index.read_text()


def test_a_request_that_is_no_json_is_named(grid: Grid) -> None:
    (grid.root / "requests" / "20261122-090000-0123456789.json").write_text("{")
    [line] = grid.report().left_out
    assert "20261122-090000-0123456789.json" in line


class Elements(HTMLParser):
    """Which elements and attributes a page really has."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_hostile_text_stays_text(grid: Grid) -> None:
    clean = Elements()
    clean.feed(grid.report().index.read_text())
    grid.change(0, hardware=HOSTILE, commit=HOSTILE, versions={HOSTILE: HOSTILE}, finished_at=HOSTILE)
    (grid.path(0) / "attempts" / "0001" / "log").write_text(HOSTILE)
    (grid.path(1) / "result.json").write_text(json.dumps({"schema": 1, "key": HOSTILE}))
    page = grid.report().index.read_text()
    hostile = Elements()
    hostile.feed(page)
    assert hostile.tags.count("script") == clean.tags.count("script") == 2
    assert hostile.tags.count("img") == clean.tags.count("img")
    assert "onerror" not in hostile.attributes
    assert "<script>document" not in page


def test_text_that_is_no_unicode_is_no_obstacle(grid: Grid) -> None:
    grid.change(0, hardware="\ud800")
    assert grid.report().left_out == ()
