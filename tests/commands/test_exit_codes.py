"""The exit code a shell sees: 0 done, 1 a run failed; a reader who has gone is no failure."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tfkd_cli.__main__ import NoRoom, main
from tfkd_cli.backends import Outcome, local
from tfkd_cli.training import provenance, worker

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


@pytest.mark.parametrize(
    "words", ["status", "runs", "report", "clean --yes", "pack --out a.tar.gz", "logs 8d4c", "cancel run"]
)
def test_a_results_folder_that_is_not_there_is_an_error_and_is_not_made(
    words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), "--results", str(tmp_path / "nothere")]) == 2
    said = capfd.readouterr().err
    assert f"there is no results folder {tmp_path / 'nothere'}" in said
    assert "Expected:" in said
    assert "Hint: name it with --results" in said
    assert not (tmp_path / "nothere").exists()


def test_an_option_that_does_not_exist_is_answered_with_where_the_others_are(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["data", "digits", "-y"]) == 2
    assert "Hint: `tfkd help data` lists all options." in capfd.readouterr().err


def test_a_command_asks_nvidia_smi_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
    program.write_text(f"#!/bin/sh\necho once >> {asked}\necho 'GPU 0: one'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(local, "run_local", lambda *specs, **how: Outcome())
    assert main([*RUN, "--json", "--results", str(tmp_path / "results")]) == 0
    assert asked.read_text() == "once\n"


def test_a_reader_who_has_gone_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*texts: object, **how: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("tfkd_cli.console.print_json", gone)
    monkeypatch.setattr("os.dup2", lambda *files: None)
    assert main(["list", "methods", "--json"]) == 0


def test_a_reader_of_a_table_who_has_gone_is_no_failure() -> None:
    asked = [sys.executable, "-m", "tfkd_cli", "list", "models"]
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(asked, env=worker.environment(), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(("megabytes", "module"), [(200, "numpy"), (3000, "torch")])
def test_a_library_that_a_limit_on_memory_would_end_is_not_loaded(megabytes: int, module: str) -> None:
    refusal = NoRoom(megabytes << 20)
    refusal.find_spec("json")
    if version(module).endswith("+cpu"):
        return
    with pytest.raises(ImportError, match=f"{module} needs about .* MB of address space"):
        refusal.find_spec(module)
    NoRoom(4000 << 20).find_spec(module)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
@pytest.mark.parametrize("megabytes", [200, 300])
def test_under_a_limit_on_memory_a_table_is_shown_or_an_error(tmp_path: Path, megabytes: int) -> None:
    limit = megabytes << 20
    ended = subprocess.run(
        [sys.executable, "-m", "tfkd_cli", "runs", "--results", str(tmp_path)],
        env=worker.environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert ended.returncode == (1 if megabytes == 200 else 0), ended.stderr
    assert "Traceback" not in ended.stderr
    assert ("numpy needs about" in ended.stderr) == (megabytes == 200)


def test_a_device_that_is_asked_for_and_missing_is_named_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(provenance, "device_count", lambda kind: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main([*RUN, "--device", "cuda", "--results", str(tmp_path / "results")]) == 2
    assert "torch sees 0 of its kind: " in (said := capfd.readouterr().err)
    assert 'CUDA_VISIBLE_DEVICES is ""' in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a file that is always full")
def test_errors_that_cannot_be_printed_leave_the_exit_code_as_it_is() -> None:
    command = f"{sys.executable} -m tfkd_cli show nothing 2>/dev/full"
    assert subprocess.run(command, shell=True, env=worker.environment()).returncode == 2


@pytest.mark.parametrize("closed", ["", ">&-", ">&- 2>&-", "</dev/null >&- 2>&-"])
def test_output_that_is_closed_or_ascii_is_no_failure(tmp_path: Path, closed: str) -> None:
    command = f"{sys.executable} -m tfkd_cli list datasets {closed}"
    environment = worker.environment(PYTHONIOENCODING="ascii")
    ended = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ("\\xd7" in ended.stdout) == (not closed)  # ×, as in 32×32


def test_json_is_json_in_any_encoding() -> None:
    command = [sys.executable, "-m", "tfkd_cli", "list", "methods", "--json"]
    said = [
        subprocess.run(
            command, env=worker.environment(PYTHONIOENCODING=each), capture_output=True, check=True
        )
        for each in ("ascii", "utf-8")
    ]
    ascii_, utf8 = (json.loads(each.stdout.decode()) for each in said)
    assert ascii_ == utf8


CTRL_C = """
import os, signal, sys, threading
from tfkd_cli.__main__ import main
try:
    threading.Timer(float(sys.argv.pop(1)), os.kill, (os.getpid(), signal.SIGINT)).start()
except KeyboardInterrupt:
    sys.exit(130)  # it came before there was a command
sys.exit(main())
"""


@pytest.mark.parametrize("seconds", [0.001, 0.05, 0.1, 0.3, 0.6])
def test_an_early_ctrl_c_ends_without_a_traceback(tmp_path: Path, seconds: float) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CTRL_C, str(seconds), *RUN, "--results", str(tmp_path / "results")],
        env=worker.environment(),
        capture_output=True,
        text=True,
    )
    # Python ends by the signal itself where exec() of a text was interrupted; to a shell, both are 130.
    assert ended.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in ended.stderr


def test_a_library_that_cannot_be_loaded_is_a_message_and_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def short(*arguments: object, **options: object) -> None:
        raise ImportError("libblas.so: failed to map segment from shared object")

    monkeypatch.setattr("tfkd_cli.console.print_json", short)
    assert main(["list", "methods", "--json"]) == 1
    said = capfd.readouterr().err
    assert "failed to map segment" in said
    assert "ulimit -v" in said


def test_a_home_folder_that_nobody_has_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = main([*RUN, "--dry-run", "--cache-dir", "~nosuchuser/x", "--results", str(tmp_path / "results")])
    assert (code, "no home folder to put for ~nosuchuser" in capfd.readouterr().err) == (2, True)


def test_without_home_and_account_the_cache_must_be_named(tmp_path: Path) -> None:
    script = """
import os, pwd, sys
from tfkd_cli.__main__ import main
for name in ("HOME", "TFKD_CACHE", "XDG_CACHE_HOME"):
    os.environ.pop(name, None)
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
sys.exit(main())
"""
    results = ["--results", str(tmp_path)]
    for more, code in ([], 2), (["--cache-dir", str(tmp_path)], 0):
        ended = subprocess.run(
            [sys.executable, "-c", script, "status", *results, *more],
            env=worker.environment(),
            capture_output=True,
            text=True,
        )
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_class_name_with_escapes_is_shown_and_not_obeyed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "photos\x1b[31m"
    folder.mkdir()
    assert main(["data", f"folder:{folder}"]) == 2
    said = capfd.readouterr().err
    assert "\x1b" not in said
    assert r"\x1b[31m" in said
