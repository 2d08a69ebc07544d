"""Links and pipes that somebody planted in the results folder: never followed, never waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tfkd_cli.__main__ import main
from tfkd_cli.spec import Recipe, RunSpec
from tfkd_cli.store import Attempt, Store

SPEC = RunSpec(dataset="digits", student="resnet8", recipe=Recipe(epochs=2).fast())
LOGITS = "0123456789ab-01234567-01234567"


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    """An attempt that failed."""
    folder = Store.open(tmp_path / "results", create=True).run(SPEC)
    folder.declare(SPEC)
    made = folder.start_attempt(owner={})
    made.fail({"kind": "RunError", "message": "it failed"})
    return made


@pytest.mark.parametrize("follow", [[], ["--follow"]])
@pytest.mark.parametrize("linked", ["log", "0001"])
def test_a_log_that_is_a_link_is_not_shown(
    attempt: Attempt, tmp_path: Path, linked: str, follow: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "0001").mkdir()
    (tmp_path / "0001" / "log").write_text("a secret")
    if linked == "log":
        attempt.log_path.symlink_to(tmp_path / "0001" / "log")
    else:
        attempt.path.rename(attempt.path.with_name("aside"))
        attempt.path.symlink_to(tmp_path / "0001")
    results = ["--results", str(tmp_path / "results")]
    if follow and linked == "0001":
        return  # without an attempt the run has not ended, and is waited for
    assert main(["logs", SPEC.folder, *follow, *results]) in (1, 2)
    said = capfd.readouterr()
    assert "a secret" not in said.out
    assert "Traceback" not in said.err


def test_a_log_that_is_a_pipe_is_not_waited_for(
    attempt: Attempt, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(attempt.log_path)
    assert main(["logs", SPEC.folder, "--results", str(tmp_path / "results")]) == 2
    assert "has no log yet" in capfd.readouterr().err


def test_the_escapes_of_a_log_are_shown_and_not_obeyed(
    attempt: Attempt, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    attempt.log_path.write_text("\x1b]0;title\x07\x1b[2Jdone\n")
    assert main(["logs", SPEC.folder, "--results", str(tmp_path / "results")]) == 0
    assert capfd.readouterr().out == "\\x1b]0;title\\x07\\x1b[2Jdone\n"


@pytest.mark.parametrize("inside", [False, True])
def test_nothing_is_deleted_through_a_link(tmp_path: Path, inside: bool) -> None:
    store = Store.open(tmp_path / "results", create=True)
    others = tmp_path / "others" / LOGITS
    others.mkdir(parents=True)
    (others / "epoch-001.npy").write_bytes(b"x")
    if inside:
        store.teacher_logits_path.mkdir()
        (store.teacher_logits_path / LOGITS).symlink_to(others)
    else:
        store.teacher_logits_path.symlink_to(others.parent)
    assert main(["clean", "--yes", "--results", str(store.root)]) == 0
    assert (others / "epoch-001.npy").exists()


def test_files_of_a_report_are_not_deleted_through_a_link(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "results", create=True)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "table1.md").write_text("theirs")
    (tmp_path / "others" / ".files.json").write_text('{"older": ["table1.md"]}')
    (store.root / "report").symlink_to(tmp_path / "others")
    assert main(["clean", "--yes", "--results", str(store.root)]) == 0
    assert (tmp_path / "others" / "table1.md").exists()


def test_a_results_folder_that_is_itself_a_link_is_cleaned(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "real", create=True)
    (store.teacher_logits_path / LOGITS).mkdir(parents=True)
    (tmp_path / "results").symlink_to(tmp_path / "real")
    assert main(["clean", "--yes", "--results", str(tmp_path / "results")]) == 0
    assert not (store.teacher_logits_path / LOGITS).exists()


@pytest.mark.parametrize(
    "name",
    ["spec.json", "result.json", "metrics.jsonl", "attempts/0001/env.json", "attempts/0001/owner.json"],
)
def test_a_pipe_in_the_place_of_a_record_is_not_waited_for(
    attempt: Attempt, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = attempt.path.parents[1] / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    for command in (["status"], ["show", SPEC.folder], ["clean"]):
        assert main([*command, "--results", str(tmp_path / "results")]) in (0, 1, 2)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("command", [["status"], ["clean", "--yes"]])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to(path)])
def test_a_results_folder_that_is_a_pipe_or_a_circle_of_links_is_refused(
    tmp_path: Path, make: object, command: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "results")  # type: ignore[operator]
    assert main([*command, "--results", str(tmp_path / "results")]) == 2
    assert "Traceback" not in capfd.readouterr().err
