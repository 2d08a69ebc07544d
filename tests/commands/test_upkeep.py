"""`tfkd clean` in a shell: what is still needed, or may be, is not offered."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tfkd_cli.__main__ import main
from tfkd_cli.backends import Outcome, local
from tfkd_cli.methods import Distillation
from tfkd_cli.spec import Recipe, RunSpec, Teacher
from tfkd_cli.store import Store

RUN = ["run", "--student", "resnet8", "--method", "baseline", "--dataset", "digits", "--epochs", "1"]
FAST = Recipe(epochs=3).fast()
TEACHER = RunSpec(dataset="digits", student="resnet14", recipe=FAST)
STUDENT = RunSpec(
    dataset="digits", student="resnet8", loss=Distillation(), teacher=Teacher(run=TEACHER), recipe=FAST
)


def test_with_a_damaged_request_cleaning_keeps_what_it_may_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "run_local", lambda *specs, **how: Outcome())
    main([*RUN, "--json", "--results", str(tmp_path)])
    (request,) = (tmp_path / "requests").glob("*.json")
    request.write_bytes(request.read_bytes()[:200])
    teacher_logits = tmp_path / "teacher-logits" / "0123456789ab-11111111-22222222"
    teacher_logits.mkdir(parents=True)
    assert main(["clean", "--yes", "--results", str(tmp_path)]) == 0
    assert f"mv '{request}'" in capfd.readouterr().err
    assert teacher_logits.exists()
    assert main(["status", "--results", str(tmp_path)]) == 0
    said = capfd.readouterr()
    assert "There are no runs" not in said.out
    assert str(request) in said.err
    request.rename(request.with_suffix(".bad"))
    assert main(["clean", "--yes", "--results", str(tmp_path)]) == 0
    assert not teacher_logits.exists()


def test_teacher_logits_of_an_unfinished_run_are_not_freed_whoever_started_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = Store.open(tmp_path, create=True)
    run = store.run(STUDENT)
    run.declare(STUDENT)
    run.start_attempt(owner={}).fail({"kind": "Error", "message": "it failed"})
    for mark in (TEACHER.key[:12], "0123456789ab"):
        (store.teacher_logits_path / f"{mark}-11111111-22222222").mkdir(parents=True)
    assert main(["clean", "--json", "--results", str(tmp_path)]) == 0
    found = json.loads(capfd.readouterr().out)["items"]
    assert [Path(each["path"]).name for each in found] == ["0123456789ab-11111111-22222222"]


@pytest.mark.parametrize("cap", ["inf", "nan"])
def test_a_cap_that_is_no_number_of_gigabytes_is_refused(
    cap: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main([*RUN, "--teacher-cache-gb", cap, "--results", str(tmp_path)]) == 2
    assert re.search(f"teacher.cache.gb is '?{cap}", capfd.readouterr().err)


def test_a_pack_of_nothing_is_refused_and_a_pack_says_what_it_does_not_hold(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results, pack = ["--results", str(tmp_path / "results")], tmp_path / "records.tar.gz"
    (tmp_path / "results").mkdir()
    for what in ([], ["table1"]):
        assert main(["pack", *what, "--out", str(pack), *results]) == 2
        assert f"there is no {(what or ['run'])[0]} in" in capfd.readouterr().err
    store = Store.open(tmp_path / "results", create=True)
    store.run(TEACHER).declare(TEACHER)
    assert main(["pack", "--out", str(pack), *results]) == 0
    key, packed = TEACHER.key[:12], ["--results", str(pack)]
    for command, missing in (
        (["logs", key], "logs"),
        (["export", key], "weights"),
        (["predict", "--run", key, "x.png"], "weights"),
    ):
        assert main([*command, *packed]) == 2
        assert f"holds no {missing}" in capfd.readouterr().err
