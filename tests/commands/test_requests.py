"""Bad requests get one clear message, exit code 2 and no traceback; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paper_tables import hyperparameters
from tfkd_cli.__main__ import main
from tfkd_cli.reproduction.paper import paper

RUN = ["run", "--student", "resnet8", "--method", "baseline", "--dataset", "digits"]


def refused(arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """What is said when these arguments are refused; checks the exit code and that nothing was made."""
    results = tmp_path / "results"
    assert main([*arguments, "--results", str(results)]) == 2
    assert not results.exists()
    said = capfd.readouterr().err
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--student", "resnet-18x", "--method", "lsr"], 'did you mean "resnet18"?'),
        (["run", "--student", "mobilenet_v3_small", "--method", "lsr"], '"torchvision:mobilenet_v3_small"?'),
        (["run", "--student", "resnet8", "--method", "tfself2"], 'did you mean "tf-self"?'),
        (["run", "--student", "resnet8", "--method", "lsr", "--dataset", "cifar1000"], "cifar100"),
        ([*RUN[:4], "kd", "--dataset", "digits"], "needs a teacher"),
        ([*RUN[:4], "tf-self", "--teacher", "resnet20", "--dataset", "digits"], "takes no teacher"),
        ([*RUN, "--seeds", "0"], "names no seed"),
        ([*RUN, "--name", "table1"], "cannot be the name of a grid"),
        ([*RUN, "--name", "compare-mine"], "cannot be the name of a grid"),
        ([*RUN, "--name", "../up"], "cannot be the name of a grid"),
        ([*RUN[:2], "python:no_such_module:net", *RUN[3:], "--dry-run"], "no_such_module"),
        ([*RUN[:4], "lsr", "--dataset", "digits", "--alpha", "1.5"], "from 0 to 1"),
        ([*RUN[:4], "lsr", "--dataset", "digits", "--alpha", "0.95"], "at most (K-1)/K = 0.9"),
        ([*RUN[:4], "python:os:system", "--dataset", "digits"], "names no code of your own"),
        ([*RUN[:4], "tf-reg", "--dataset", "digits", "-T", "0"], "from 0.1 to 1000"),
        ([*RUN, "--alpha", "0.5"], "reaches none of these runs"),
        ([*RUN, "--set", "recipe.epoch=3"], 'did you mean "epochs"?'),
        ([*RUN, "--set", "recipe.epochs=three"], "a whole number"),
        (["plan", "table7", "--set", "teacher.weights=best"], "trained"),
        ([*RUN, "--set", "teacher.weights=trained"], "reaches none of these runs"),
        (["plan", "table5", "--set", "teacher.weights=pretrained"], "torchvision:resnet18"),
        (["plan", "table7", "--teacher-seeds", "paired"], "--set teacher.weights=trained"),
        ([*RUN, "--set", "epochs=3"], "recipe.FIELD=VALUE"),
        ([*RUN, "--epochs", "0"], "recipe.epochs"),
        ([*RUN, "--set", "recipe.augment=rotate90"], "crop-flip-rotate15"),
        ([*RUN, "--set", "recipe.milestones=0,4"], "recipe.milestones"),
        ([*RUN, "--set", "recipe.milestones=9,3"], "--set recipe.milestones=3,9"),
        ([*RUN, "--epochs", "5", "--set", "recipe.milestones=3,9"], "ends after 5"),
        ([*RUN, "--epochs", "5", "--set", "recipe.warmup_epochs=6"], "ends after 5"),
        ([*RUN, "--set", "recipe.lr_factor=-1"], "recipe.lr_factor"),
        ([*RUN, "--set", "recipe.momentum=1"], "recipe.momentum"),
        ([*RUN[:4], "baseline", "--dataset", "digits", "--set", "loss.scale=0.5"], "reaches none"),
        ([*RUN, "--device", "tpu", "--dry-run"], "cuda:1"),
        ([*RUN, "--scale", "huge"], "quick"),
        ([*RUN, "--cluster", "nowhere"], "tfkd list clusters"),
        (["run", "--student", ",", "--method", "lsr", "--dataset", "digits"], "--student names nothing"),
        (["reprodce", "demo"], 'did you mean "reproduce"?'),
        (["report", "demo"], "there is no results folder"),
        (["reproduce", "table12"], "table1"),
        (["show", "tabel1"], "table1"),
        (["show", "no-such-run-8d4c1185ab12"], "neither a table"),
        (["show", "run"], "there is no run in"),
        (["show", "run", "--epochs", "2"], "does not change them"),
        (["logs", "8d4c1185ab12"], "there is no results folder"),
    ],
)
def test_a_bad_request_is_refused_with_what_to_do(
    arguments: list[str], expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert expected in refused(arguments, tmp_path, capfd)


def test_a_results_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main([*RUN, "--results", str(blocked / "results")]) == 2
    assert "--results" in capfd.readouterr().err


def test_a_dry_run_finds_folders_that_cannot_be_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main([*RUN, "--dry-run", "--results", str(blocked / "results")]) == 2
    assert "cannot write the results folder" in capfd.readouterr().err
    there = ["--results", str(tmp_path / "results"), "--cache-dir", str(blocked / "cache")]
    assert main([*RUN, "--dry-run", *there]) == 2
    assert "--cache-dir" in capfd.readouterr().err


def test_a_dry_run_builds_own_networks_and_passes_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dry_networks.py").write_text(
        "from torch import nn\n"
        "def wrong(num_classes): return nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, num_classes + 1))\n"
    )
    monkeypatch.chdir(tmp_path)
    asked = ["run", "--student", "python:dry_networks:wrong", *RUN[3:], "--dry-run"]
    assert "logits of shape (2, 10)" in refused(asked, tmp_path, capfd)


def test_files_that_are_not_in_the_data_folder_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ["--data-dir", str(tmp_path), "--cache-dir", str(tmp_path / "cache")]
    said = refused(["run", "--student", "resnet8", "--method", "lsr", *where], tmp_path, capfd)
    assert f"CIFAR-100 is not in {tmp_path}." in said
    assert "cifar-100-python.tar.gz" in said
    assert main(["data", "cifar100", "--from", str(tmp_path)]) == 2
    assert "cifar-100-python.tar.gz" in capfd.readouterr().err


def test_a_data_set_that_is_not_here_is_refused_offline_with_three_ways_on(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "run",
        "--student",
        "mobilenetv2",
        "--method",
        "tf-self",
        "--cache-dir",
        str(tmp_path / "cache"),
    ]
    assert main([*arguments, "--results", str(tmp_path / "results")]) == 2
    said = capfd.readouterr().err
    assert all(way in said for way in ("tfkd data cifar100", "--from", "--dataset digits"))


def test_hyperparameters_that_name_an_unknown_network_are_refused_and_not_left_aside(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    misspelt = tmp_path / "hyperparameters.toml"
    misspelt.write_text('[[entry]]\nstudent = "resnet18x"\nfrom = "released"\nloss = { alpha = 0.1 }\n')
    check = hyperparameters.check
    monkeypatch.setattr(hyperparameters, "check", lambda names: check(names, misspelt))
    paper.cache_clear()
    try:
        said = refused(["plan", "table9"], tmp_path, capfd)
    finally:
        paper.cache_clear()
    assert 'entry 1, key "student"' in said
    assert 'unknown network "resnet18x"' in said


def test_a_dry_run_writes_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results"
    assert main([*RUN, "--dry-run", "--results", str(results)]) == 0
    assert not results.exists()
    assert "wanted" in capfd.readouterr().out


def test_a_plan_is_the_dry_run_of_reproduce(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    where = ["--results", str(tmp_path / "results"), "--json"]
    assert main(["plan", "table9", *where]) == 0
    planned = json.loads(capfd.readouterr().out)
    assert main(["reproduce", "table9", "--dry-run", *where]) == 0
    assert json.loads(capfd.readouterr().out) == planned


def planned(arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> str:
    assert main([*arguments, "--dry-run", "--results", str(tmp_path / "results")]) == 0
    return " ".join(capfd.readouterr().out.split())


def test_a_device_that_is_not_here_is_refused_before_anything_starts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfkd_cli.training.provenance.device_count", lambda kind: 1)
    said = refused([*RUN, "--epochs", "1", "--device", "cuda:1"], tmp_path, capfd)
    assert 'the device "cuda:1" is not on this machine: torch sees 1 of its kind' in said


def test_a_device_that_is_elsewhere_can_be_planned_for(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = json.loads(planned([*RUN, "--device", "cuda", "--json"], tmp_path, capfd))
    assert made["device"] == "cuda"


def test_a_plan_names_the_device_and_the_runs_at_once_behind_its_hours(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = json.loads(
        planned([*RUN, "--seeds", "4", "--jobs", "1", "--device", "cpu", "--json"], tmp_path, capfd)
    )
    assert (made["device"], made["runs_at_once"]) == ("cpu", 1)
    assert made["wall_hours"] == pytest.approx(made["gpu_hours"] + made["command_hours"], abs=1e-3)


def test_a_plan_shows_the_teacher_logits_that_students_share_and_their_size(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shared = ["reproduce", "table1", "--fast", "--teacher-cache-gb", "5"]
    made = json.loads(planned([*shared, "--json"], tmp_path, capfd))
    assert made["teacher_logits"]
    assert all(len(each["students"]) > 1 and each["disk_gb"] == 2.0 for each in made["teacher_logits"])
    said = planned(shared, tmp_path, capfd)
    assert "Cached teacher logits: those of" in said
    assert "limited to 5 GB by --teacher-cache-gb" in said
    alone = json.loads(planned(["reproduce", "table1", "--json"], tmp_path, capfd))
    assert alone["teacher_logits"] == []


def test_a_table_with_its_own_recipe_is_not_said_to_be_at_paper_scale(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "Plan (demo: its own recipe, fast; released form" in planned(
        ["reproduce", "demo"], tmp_path, capfd
    )
    both = planned(["reproduce", "demo", "table9"], tmp_path, capfd)
    assert "Plan (paper scale; demo: its own recipe, fast; " in both


def test_a_plan_says_what_the_request_changed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = planned(["reproduce", "table9", "--epochs", "2", "--alpha", "0.3"], tmp_path, capfd)
    assert "paper scale; changed: recipe.epochs=2, loss.alpha=0.3; released form" in said


def test_devices_and_clusters_ignore_case_as_all_names_do(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    made = json.loads(planned([*RUN, "--cluster", "Local", "--device", "CPU", "--json"], tmp_path, capfd))
    assert made["device"] == "cpu"


def test_a_value_of_the_command_line_is_not_called_assumed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = planned([*RUN, "--epochs", "3", "--lr", "0.2"], tmp_path, capfd)
    assert "learning rate 0.2, augmentation shift (assumed: batch 128, augmentation shift);" in said


def test_a_plan_says_how_many_cells_rest_on_an_assumption(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "table1", "controls-cifar10", "--results", str(tmp_path / "results")]) == 0
    said = capfd.readouterr().out
    assert "table1: 1 of 16 cells (baselines apart) rest on an assumed setting" in said
    assert "controls-cifar10: " in said


def test_names_ignore_case_dashes_and_underscores_before_hashing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plans = []
    for student, method in (("MobileNet_V2", "TF-Self"), ("mobilenetv2", "tf_self")):
        arguments = ["run", "--student", student, "--method", method, "--dry-run", "--json"]
        assert main([*arguments, "--results", str(tmp_path / "r")]) == 0
        plans.append(capfd.readouterr().out)
    assert plans[0] == plans[1]


@pytest.mark.parametrize("what", ["methods", "models", "datasets", "tables", "figures", "clusters"])
def test_everything_there_is_can_be_listed(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)


@pytest.mark.parametrize(("scale", "name"), [("paper", "imagenet"), ("quick", "imagenet-quick")])
def test_without_imagenets_files_its_tables_are_refused_before_anything_starts(
    scale: str, name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said = refused(["reproduce", "table11", "--scale", scale, "--yes"], tmp_path, capfd)
    assert "is not on this machine" in said
    assert f"`tfkd data {name} --from PATH` takes the official files" in said


def test_a_plan_of_more_than_an_hour_on_a_cpu_says_what_is_sooner(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for device, expected in (("cpu", True), ("cuda", False)):
        assert main(["plan", "table11", "--device", device, "--results", str(tmp_path / "r")]) == 0
        assert ("That is long on this CPU" in capfd.readouterr().out) is expected


def test_what_is_listed_for_scripts_has_numbers(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "models", "--json"]) == 0
    (resnet18,) = [each for each in json.loads(capfd.readouterr().out) if each["model"] == "resnet18"]
    assert (resnet18["parameters"], resnet18["multiply-adds"]) == (11_220_132, 555_468_800)


def test_status_of_an_empty_store_says_how_to_start(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--results", str(tmp_path)]) == 0
    assert "tfkd reproduce demo" in capfd.readouterr().out
