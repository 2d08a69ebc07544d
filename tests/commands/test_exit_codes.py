"""The exit code a shell sees: 0 done, 1 a run failed; a reader who has gone is no failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tfkd_cli.__main__ import main
from tfkd_cli.backends import Outcome, local

RUN = ["run", "--student", "resnet8", "--method", "baseline", "--dataset", "digits", "--epochs", "1"]
FAILED = "digits-resnet8-baseline-s0-8d4c1185ab12"


@pytest.mark.parametrize(("failed", "code"), [((), 0), ((FAILED,), 1)])
def test_a_failed_run_is_seen_in_the_exit_code(
    failed: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = Outcome(reasons=dict.fromkeys(failed, "exit code 1"))
    monkeypatch.setattr(local, "run_local", lambda *specs, **how: outcome)
    assert main([*RUN, "--json", "--results", str(tmp_path / "results")]) == code


def test_a_failed_run_says_what_to_do_where_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    message = "best.pt: does not hold the weights its result vouches for.\n  Hint: remove it"
    outcome = Outcome(reasons={FAILED: message})
    monkeypatch.setattr(local, "run_local", lambda *specs, **how: outcome)
    assert main([*RUN, "--json", "--results", str(tmp_path / "results")]) == 1
    said = capfd.readouterr().err
    assert f"Failed: {FAILED}\n  best.pt: does not hold" in said
    assert "Hint: remove it" in said


def test_a_reader_who_has_gone_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*texts: object, **how: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("tfkd_cli.console.print_json", gone)
    monkeypatch.setattr("os.dup2", lambda *files: None)
    assert main(["list", "methods", "--json"]) == 0
