"""`tfkd predict` and `tfkd export`: a finished run's student on other images, and in other programs."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from tfkd_cli.__main__ import main
from tfkd_cli.commands import using
from tfkd_cli.store import Store
from tfkd_cli.training import worker


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished run on digits, of one epoch."""
    folder = tmp_path_factory.mktemp("using")
    asked = ["run", "--student", "plain-cnn", "--method", "baseline", "--dataset", "digits", "--epochs", "1"]
    assert main([*asked, "--results", str(folder / "results"), "--cache-dir", str(folder / "cache")]) == 0
    return folder / "results"


@pytest.fixture(scope="module")
def run(results: Path) -> str:
    (name,) = (each.name for each in (results / "runs").iterdir())
    return name


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three drawings of digits, larger than the network's images and of another shape."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{number}.png" for number in range(3)]
    for path, pixels_HW in zip(paths, load_digits().images, strict=False):
        square = Image.fromarray((pixels_HW * 255 / 16).astype(np.uint8)).resize((64, 64))
        wide = Image.new("L", (96, 64))
        wide.paste(square, (16, 0))
        wide.save(path)
    return paths


def predicted(
    run: str, results: Path, capfd: pytest.CaptureFixture[str], *images: Path
) -> list[dict[str, Any]]:
    assert main(["predict", "--run", run, *map(str, images), "--json", "--results", str(results)]) == 0
    found: list[dict[str, Any]] = json.loads(capfd.readouterr().out)
    return found


def as_trained(photos: list[Path]) -> torch.Tensor:
    """What the network was trained on: the centre square at 32 pixels, values 0 to 255, (N, 1, H, W)."""
    box = (16, 0, 80, 64)
    images = [Image.open(path).resize((32, 32), Image.Resampling.BILINEAR, box=box) for path in photos]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])[:, None])


def test_a_prediction_is_the_students_softmax_of_the_preprocessed_image(
    results: Path, run: str, photos: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    saved = using._student(Store.open(results, create=False).find(run).weights("student.pt"))
    with torch.inference_mode():
        images_NCHW = (as_trained(photos) / 255 - saved["mean"][0]) / saved["std"][0]
        expected_NK = saved["network"](images_NCHW).softmax(1)
    found = predicted(run, results, capfd, *photos)
    assert [each["image"] for each in found] == [str(path) for path in photos]
    for each, expected_K in zip(found, expected_NK, strict=True):
        assert each["class"] == saved["class_names"][int(expected_K.argmax())]
        np.testing.assert_allclose(list(each["probabilities"].values()), expected_K, atol=2e-6)


def test_images_of_more_bits_than_those_of_the_training_are_scaled_by_their_own_range(
    results: Path, run: str, photos: list[Path], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    deep = [tmp_path / path.name for path in photos]
    for path, source in zip(deep, photos, strict=True):
        Image.fromarray(np.asarray(Image.open(source)).astype(np.uint16) * 16).save(path)  # 12 of 16 bits
    expected, found = (predicted(run, results, capfd, *paths) for paths in (photos, deep))
    for each, other in zip(expected, found, strict=True):
        assert other["probability"] == pytest.approx(each["probability"], abs=0.01)


def test_a_folder_stands_for_the_images_in_it_without_hidden_and_system_files(
    results: Path, run: str, photos: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("notes.txt", "._0.png", "Thumbs.db", ".cache/1.png", "@eaDir/0.png"):
        path = photos[0].parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("no image")
    assert predicted(run, results, capfd, photos[0].parent) == predicted(run, results, capfd, *photos)
    assert main(["predict", "--run", run, str(photos[0]), "--results", str(results)]) == 0
    assert str(photos[0]) in capfd.readouterr().out


def test_all_unreadable_images_are_named_at_once(
    results: Path, run: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    wrong = [str(tmp_path / "broken.png"), str(tmp_path / "gone.png")]
    assert main(["predict", "--run", run, *wrong, "--results", str(results)]) == 2
    said = capfd.readouterr().err
    assert all(name in said for name in wrong)
    (tmp_path / "empty").mkdir()
    assert main(["predict", "--run", run, str(tmp_path / "empty"), "--results", str(results)]) == 2


def test_an_export_that_finds_no_room_is_an_error_and_leaves_nothing(
    results: Path, run: str, tmp_path: Path
) -> None:
    file = tmp_path / "student.pt"
    ended = subprocess.run(
        [sys.executable, "-m", "tfkd_cli", "export", run, "--out", str(file), "--results", str(results)],
        env=worker.environment(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert ended.returncode == 1, ended.stderr
    assert "cannot write" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", ["torchscript", "onnx"])
def test_an_exported_student_predicts_the_same_from_pixel_values(
    form: str, results: Path, run: str, photos: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "student"
    arguments = ["export", run, "--format", form, "--out", str(file), "--results", str(results)]
    assert main(arguments) == 0
    images_NCHW = as_trained(photos).float()
    if form == "torchscript":
        with pytest.warns(FutureWarning, match="torch.jit.load"):
            student = torch.jit.load(str(file))  # type: ignore[no-untyped-call]
        probabilities_NK = student(images_NCHW).detach().numpy()
    else:
        from onnx.reference import ReferenceEvaluator

        (probabilities_NK,) = ReferenceEvaluator(str(file)).run(None, {"images": images_NCHW.numpy()})
    capfd.readouterr()
    expected = [list(each["probabilities"].values()) for each in predicted(run, results, capfd, *photos)]
    np.testing.assert_allclose(probabilities_NK, expected, atol=1e-5)
    assert main(arguments) == 2  # nothing is written over
    assert "exists" in capfd.readouterr().err


def test_the_extra_that_onnx_needs_is_named(
    results: Path,
    run: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    arguments = [
        "export",
        run,
        "--format",
        "onnx",
        "--out",
        str(tmp_path / "s.onnx"),
        "--results",
        str(results),
    ]
    assert main(arguments) == 2
    assert "tfkd[onnx]" in capfd.readouterr().err
