"""`tfkd logs` and `tfkd status` of runs that wait, go on and end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tfkd_cli.__main__ import main
from tfkd_cli.commands import store as commands
from tfkd_cli.reproduction.overview import Overview, RunStatus
from tfkd_cli.spec import Recipe, RunSpec
from tfkd_cli.store import Store

SPEC = RunSpec(dataset="digits", student="resnet8", recipe=Recipe(epochs=9).fast())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run that was asked for and has not started."""
    made = Store.open(tmp_path / "results", create=True)
    made.run(SPEC).declare(SPEC)
    return made


def test_following_waits_for_the_start_goes_on_with_later_attempts_and_ends_with_the_run(
    store: Store, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def life() -> Iterator[None]:
        yield  # it has not started
        first = store.run(SPEC).start_attempt(owner={})
        first.heartbeat({"epoch": 0})
        first.log_path.write_text("one\n")
        yield
        with first.log_path.open("a") as log:
            log.write("two\n")
        first.release()  # its job was requeued
        yield
        second = store.run(SPEC).start_attempt(owner={})
        second.heartbeat({"epoch": 1})
        second.log_path.write_text("three\n")
        yield
        with second.log_path.open("a") as log:
            log.write("four\n")
        second.fail({"kind": "RunError", "message": "it failed"})

    pauses = life()
    monkeypatch.setattr("time.sleep", lambda seconds: next(pauses, None))
    assert main(["logs", SPEC.folder, "--follow", "--results", str(store.root)]) == 0
    said = capfd.readouterr()
    assert said.out == "one\ntwo\nthree\nfour\n"
    assert "is not running; waiting for its next attempt" in said.err
    assert "The next log, " in said.err


def test_a_run_that_has_failed_is_followed_to_the_end_of_its_log(
    store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    attempt = store.run(SPEC).start_attempt(owner={})
    attempt.log_path.write_text("last words\n")
    attempt.fail({"kind": "RunError", "message": "it failed"})
    assert main(["logs", SPEC.folder, "-f", "--results", str(store.root)]) == 0
    assert capfd.readouterr().out == "last words\n"


def test_status_shows_the_epoch_that_an_attempt_resumes_from_before_it_has_said_anything(
    store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    first = store.run(SPEC).start_attempt(owner={})
    first.save_state(b"state", step=40, epoch=5)
    first.release()
    store.run(SPEC).start_attempt(owner={}).heartbeat({"epochs": 9})
    assert main(["status", SPEC.folder, "--json", "--results", str(store.root)]) == 0
    [run] = json.loads(capfd.readouterr().out)["runs"]
    assert (run["status"], run["epoch"]) == ("running", 5)
    assert 0 <= run["age_seconds"] < 300
    assert main(["status", SPEC.folder, "--results", str(store.root)]) == 0
    said = capfd.readouterr().out
    assert "5/9" in said
    assert "s ago" in said


def seen(count: int) -> Overview:
    """A request of which every run waits in the queue."""
    reasons = ["Priority", "Dependency"]
    made = (
        RunStatus(run=f"run-{i}", key=f"{i}", status="queued", tables=("run",), message=reasons[i % 3 == 0])
        for i in range(count)
    )
    return Overview(tuple(made), 0.0)


def test_the_runs_of_a_long_queue_are_counted_by_reason_and_can_be_listed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    commands._print_overview(seen(30), Path("results"), every=False)
    said = " ".join(capfd.readouterr().out.split())
    assert "Queued: 20 Priority, 10 Dependency. `tfkd status --all` lists them." in said
    assert "run-7" not in said
    commands._print_overview(seen(30), Path("results"), every=True)
    said = capfd.readouterr().out
    assert "run-7 " in said
    assert "--all" not in said
