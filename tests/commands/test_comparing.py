"""`tfkd compare`, from a folder of photographs to its sentence; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfkd_cli.__main__ import main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes that differ in brightness, 20 images each, no split."""
    numbers = np.random.default_rng(0)
    for label, level in (("cat", 60), ("dog", 190)):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(20):
            pixels = numbers.integers(level - 55, level + 55, (28, 28, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / label / f"{number}.png")
    return tmp_path / "photos"


def asked(photos: Path, *more: str) -> list[str]:
    where = ["--results", str(photos.parent / "results"), "--cache-dir", str(photos.parent / "cache")]
    fixed = ["--dataset", f"folder:{photos}", "--student", "plain-cnn", "--threads", "1", *where]
    return ["compare", *fixed, "--epochs", "1", "--trials", "1", "--seeds", "2", *more]


def test_a_folder_of_photographs_ends_in_one_sentence(
    photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(photos)) == 0
    said = capfd.readouterr()
    shown, warned = said.out, " ".join(said.err.split())
    assert "Warning: each training has 1 steps × 1 epochs" in warned
    assert warned.index("Warning: ") < warned.index("Stage 1 of 3")
    assert shown.splitlines()[-1].startswith("tf-reg − lsr = ")
    assert "n = 2" in shown.splitlines()[-1]
    words = " ".join(shown.split())
    assert all(each in words for each in ("balanced", "NLL", "ECE", "cost", "The validation part chose"))

    assert shown.splitlines()[-1] in (photos.parent / "results" / "index.html").read_text()

    assert main(asked(photos, "--json")) == 0  # everything is done: nothing is trained again
    said = capfd.readouterr()
    answer = json.loads(said.out)
    assert [line["method"] for line in answer["methods"]] == ["baseline", "lsr", "tf-reg", "tf-self"]
    assert {each["method"] for each in answer["trials"]} == {"baseline", "lsr", "tf-reg", "tf-self"}
    assert answer["chosen_on"] == "validation"
    assert answer["answer"] == answer["differences"][0]["sentence"] + "."
    assert "Stage" not in said.err

    results = [json.loads(path.read_text()) for path in photos.parent.glob("results/runs/*/result.json")]
    assert len(results) == 8  # four methods, two seeds: the trials are among them
    assert {result["chosen_on"] for result in results} == {"validation"}
    assert all({"val_accuracy", "balanced_accuracy", "ece"} <= set(result["best"]) for result in results)

    assert main(["status", "--json", "--results", str(photos.parent / "results")]) == 0
    assert json.loads(capfd.readouterr().out)["counts"]["done"] == 8


def test_a_dry_run_says_what_it_would_take_and_writes_nothing(
    photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = asked(photos, "--dry-run")
    arguments[arguments.index("--trials") + 1] = "3"
    assert main(arguments) == 0
    shown = capfd.readouterr().out
    assert "3 validation trials for every method" in shown
    assert "1 epoch, batch 64" in shown
    assert not (photos.parent / "results").exists()

    assert main([*arguments, "--json"]) == 0
    planned = json.loads(capfd.readouterr().out)
    assert planned["runs"]["wanted"] == 4 * 3 + 4  # trials of seed 0, then seed 1 of each method


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--trials", "0"], "1 to 8"),
        (["--trials", "99"], "1 to 8"),
        (["--alpha", "0.3"], "chooses alpha itself"),
        (["--teacher-checkpoint", "weights.pt"], "needs its architecture"),
        (["--teacher", "resnet8", "--teacher-checkpoint", "weights.pt"], "cannot be read: No such file"),
        (["--recipe", "finetunes"], 'did you mean "finetune"?'),
        (["--tensorboard"], "pip install"),
    ],
)
def test_a_bad_comparison_is_refused(
    more: list[str], expected: str, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if "--tensorboard" in more and _has_tensorboard():
        pytest.skip("tensorboard is installed here")
    assert main(asked(photos, *more)) == 2
    said = capfd.readouterr().err
    assert expected in said
    assert "Traceback" not in said
    assert not (photos.parent / "results").exists()


def test_pretrained_weights_are_asked_for_before_anything_is_trained(
    photos: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(photos.parent / "torch"))
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    arguments = asked(photos, "--student", "torchvision:squeezenet1_1:pretrained")
    assert main(arguments) == 2
    assert "are not on this machine" in (refused := capfd.readouterr().err)
    assert "--yes fetches them" in refused
    assert main([*arguments, "--yes"]) == 1
    assert capfd.readouterr().err.count("no network") == 1
    assert not (photos.parent / "results" / "runs").exists()


@pytest.mark.parametrize(
    ("network", "expected"),
    [("python:no_such_module:make", "No module named"), ("torchvision:alexnet", "larger images")],
)
def test_a_network_that_does_not_fit_is_refused_once_before_anything_is_trained(
    network: str, expected: str, photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(asked(photos, "--student", network)) == 2
    said = capfd.readouterr().err
    assert said.count("\nError: ") == 1
    assert expected in said
    assert not (photos.parent / "results" / "runs").exists()


@pytest.mark.parametrize(
    "end", ["sys.exit(0)", "os._exit(0)", "raise GeneratorExit", "raise KeyboardInterrupt"]
)
def test_a_network_whose_module_ends_the_process_is_refused(
    end: str, photos: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"ends_{abs(hash(end))}"
    (photos.parent / f"{module}.py").write_text(f"import os, sys\n{end}\n")
    monkeypatch.syspath_prepend(photos.parent)
    assert main(asked(photos, "--student", f"python:{module}:make")) == 2
    said = capfd.readouterr().err
    assert f'"python:{module}:make"' in said
    assert "Traceback" not in said
    assert not (photos.parent / "results" / "runs").exists()


def _has_tensorboard() -> bool:
    import importlib.util

    return importlib.util.find_spec("tensorboard") is not None


def test_completion_knows_the_commands_and_their_options(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_TFKD_COMPLETE", "complete_bash")
    for words, position, expected in (("tfkd comp", "1", "compare"), ("tfkd compare --tri", "2", "--trials")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", position)
        main([])
        assert expected in capfd.readouterr().out.split()
