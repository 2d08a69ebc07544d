"""Which code, packages, hardware and numerics a run had."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tfkd_cli.errors import RunError
from tfkd_cli.training import provenance


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with a package in it, instead of ours."""
    folder = tmp_path / "repo" / "tfkd_cli"
    folder.mkdir(parents=True)
    (folder / "errors.py").write_text("one = 1\n")
    monkeypatch.setattr(provenance, "PACKAGE", folder)
    provenance.code.cache_clear()
    yield folder
    provenance.code.cache_clear()


def git(package: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    command = ["git", *identity, "-C", str(package.parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def committed(package: Path) -> str:
    git(package, "init", "-q")
    git(package, "add", ".")
    git(package, "commit", "-q", "-m", "first")
    return git(package, "rev-parse", "HEAD")


def test_a_clean_commit_has_no_diff(package: Path) -> None:
    commit = committed(package)
    assert provenance.code() == provenance.Code(commit=commit)


def test_changes_and_new_files_show_in_the_diff(package: Path) -> None:
    committed(package)
    (package / "errors.py").write_text("one = 2\n")
    changed = provenance.code()
    assert "+one = 2" in changed.patch
    provenance.code.cache_clear()
    (package / "new.py").write_text("two = 2\n")
    assert "untracked" in provenance.code().patch
    assert len({changed.diff, provenance.code().diff, ""}) == 3


def test_a_repository_that_only_surrounds_an_installed_package_is_not_ours(package: Path) -> None:
    git(package, "init", "-q")  # the package is not tracked in it
    assert provenance.code().commit.startswith("tfkd ")


def test_a_staged_copy_says_what_it_was_copied_from(package: Path) -> None:
    (package / provenance.STAGED).write_text(json.dumps({"commit": "c" * 40, "diff": "d" * 64}))
    assert provenance.code() == provenance.Code(commit="c" * 40, diff="d" * 64)


def test_an_environment_names_code_packages_and_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    numerics = provenance.numerics_of(torch.device("cpu"), threads=3)
    found = provenance.environment(numerics)
    assert json.loads(json.dumps(found)) == found
    assert (found["slurm"]["SLURM_JOB_ID"], found["numerics"]["threads"]) == ("17", 3)
    assert type(numerics["torch"]) is str  # torch's own type cannot be loaded with weights_only
    assert found["versions"]["torch"]
    assert found["cpu"]
    assert found["cores"] >= 1


def test_a_device_that_is_not_here_is_refused_with_what_there_may_be() -> None:
    for name in ("cuda:99", "tpu", "cpu:x"):
        with pytest.raises(RunError, match=f'the device "{name}" cannot be used'):
            provenance.choose_device(name)
    assert provenance.choose_device("cpu").type == "cpu"


def test_a_slurm_job_uses_the_cores_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert provenance.cores() == 1
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "100000")
    assert 1 <= provenance.cores() < 100000
