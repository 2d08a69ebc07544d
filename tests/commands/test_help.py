"""What `--help`, `tfkd help` and the shell's completion offer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from tfkd_cli.__main__ import main
from tfkd_cli.cli import COMMANDS, app


def said(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 0
    return capfd.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_begins_with_what_the_list_says_and_has_an_example(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = said(["help", name], capfd)
    assert COMMANDS[name].does.rstrip(".") in " ".join(shown.split())
    assert f"Example: tfkd {name}" in shown
    assert "<str>" not in shown
    assert "<path>" not in shown
    assert "int" not in re.findall(r"--[a-z-]+ <(\w+)", shown)
    assert max(map(len, shown.splitlines())) <= 80


def test_help_lists_the_commands_in_panels_and_where_the_documentation_is(
    capfd: pytest.CaptureFixture[str],
) -> None:
    shown = said(["help"], capfd)
    assert shown == said(["--help"], capfd)
    assert [line for line in shown.splitlines() if line in ("Train:", "Look at results:", "SLURM:")]
    assert all(re.search(rf"^  {name} ", shown, re.MULTILINE) for name in COMMANDS)
    assert "Documentation:" in shown


def test_the_options_of_a_command_stand_in_panels(capfd: pytest.CaptureFixture[str]) -> None:
    shown = said(["run", "--help"], capfd)
    panels = re.findall(r"^(\w.*):$", shown, re.MULTILINE)
    assert panels[:4] == [
        "What is trained",
        "A teacher from a file",
        "How runs are made",
        "Where runs execute",
    ]
    assert "--student NETWORK" in shown
    assert "--dataset DATASET" in shown
    assert "[required, here or in --from]" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("words", "last", "expected"),
    [
        ("", "com", "compare"),
        ("run --student", "resnet2", "resnet20"),
        ("run --student", "resnet8,mobile", "resnet8,mobilenetv2"),
        ("run --method", "kd,tf-", "kd,tf-self"),
        ("compare --dataset", "fashion", "fashion-mnist"),
        ("plan", "table1", "table11"),
        ("list", "mod", "models"),
        ("run --cluster", "sl", "slurm"),
        ("logs", "digits-res", "digits-resnet8-baseline-s0-0123456789ab"),
        ("show --results results", "digits", "digits-resnet8-baseline-s0-0123456789ab"),
        ("runn --student", "res", ""),
    ],
)
def test_names_are_completed_in_a_shell(
    words: str,
    last: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results/runs/digits-resnet8-baseline-s0-0123456789ab").mkdir(parents=True)
    typed = ["tfkd", *words.split(), last]
    monkeypatch.setenv("_TFKD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(typed))
    monkeypatch.setenv("COMP_CWORD", str(len(typed) - 1))
    main([])
    offered = capfd.readouterr()
    assert expected in offered.out.split("\n")
    assert not offered.err


def test_every_option_has_a_help_text() -> None:
    group: Any = typer.main.get_command(app)
    whole = group.make_context("tfkd", [], resilient_parsing=True)
    bare = [
        (name, each.name)
        for name in COMMANDS
        for each in group.get_command(whole, name).params
        if not each.help and each.name != "help"
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("words", "what", "expected", "hint"),
    [
        ("run", "--student is missing", "A network", "tfkd run --student resnet8"),
        ("diff 3f2a", "RUN is missing", "A run's key", "tfkd diff 3f2a 91c0"),
        ("run --studnt resnet8", "tfkd run has no option --studnt", "", "did you mean --student?"),
        ("run --batch_size 8", "has no option --batch_size", "", "did you mean --batch-size?"),
        ("--results x status", "tfkd has no option --results", "", "options stand after the command"),
        (
            "run --student a --method b --epochs many",
            "--epochs is 'many'",
            "a whole number.",
            "tfkd help run",
        ),
        ("run --student a --method b --lr x", "--lr is 'x'", "a number.", "tfkd help run"),
        (
            "run --student a --method b --jobs 0",
            "--jobs is '0'",
            "a whole number, 1 or more.",
            "tfkd help run",
        ),
        ("show table1 table2", "tfkd show cannot use: table2", "", "tfkd show table1"),
        ("run --epochs", "'--epochs' requires an argument", "", "tfkd help"),
    ],
)
def test_a_command_line_that_does_not_fit_is_refused_in_three_parts(
    words: str, what: str, expected: str, hint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    said = capfd.readouterr()
    assert not said.out
    error, *more = said.err.splitlines()
    assert error.startswith("Error: ")
    assert what in error
    assert any(line.startswith(f"  Expected: {expected}") for line in more) == bool(expected)
    assert hint in more[-1]
    assert more[-1].startswith("  Hint: ")


def test_tfkd_alone_is_its_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert said([], capfd) == said(["--help"], capfd)
