"""ImageNet's quick set: which classes and files are taken, and what is said of odd ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import imagenet_folder
from tests.data.conftest import ImageFile
from tests.imagenet_folder import WNIDS
from tfkd_cli import data
from tfkd_cli.data import imagenet_quick
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Three classes, 3 training and 2 validation images of each."""
    return imagenet_folder.make(tmp_path / "ILSVRC")


def test_a_folder_becomes_a_small_marked_set_of_its_own(imagenet: Path, execution: Execution) -> None:
    made = data.prepare("imagenet-quick", execution=execution, source=imagenet)
    assert made.name.startswith("imagenet-quick@")
    assert made.facts.caveat == "not the full data set"
    arrays = data.load(made.name, execution=execution)
    assert arrays.class_names == WNIDS
    assert arrays.train_images_NCHW.shape == (9, 3, 64, 64)
    assert arrays.test_labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.resolve("imagenet-quick", execution=execution).name == made.name


def test_every_tenth_of_the_thousand_classes_and_the_first_images_by_name_are_taken(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagenet_quick, "CLASSES", 2)
    monkeypatch.setattr(imagenet_quick, "IMAGES", {"train": 2, "test": 1})
    assert imagenet_quick.survey(imagenet).files == [
        "train/n01440764/n01440764_0.JPEG",
        "train/n01440764/n01440764_1.JPEG",
        "train/n02102040/n02102040_0.JPEG",
        "train/n02102040/n02102040_1.JPEG",
        "val/n01440764/ILSVRC2012_val_00000000.JPEG",
        "val/n02102040/ILSVRC2012_val_00000002.JPEG",
    ]
    thousand = [f"n{number:08d}" for number in range(1000)]
    monkeypatch.setattr(imagenet_quick, "CLASSES", 100)
    assert imagenet_quick.chosen(thousand) == tuple(thousand[::10])


def test_images_of_other_colours_are_read_and_files_of_another_class_are_named(
    imagenet: Path, execution: Execution, image_file: ImageFile
) -> None:
    folder = imagenet / "train" / WNIDS[0]
    for number, (mode, kind) in enumerate((("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "PNG"))):
        (folder / f"{WNIDS[0]}_9{number}.JPEG").write_bytes(image_file(50 + number, mode=mode, kind=kind))
    (folder / f"{WNIDS[1]}_7.JPEG").write_bytes(image_file(60, kind="JPEG"))
    made = data.prepare("imagenet-quick", execution=execution, source=imagenet)
    assert made.facts.train_images == 13
    assert any("1 images are named after another class" in note for note in made.facts.notes)


def test_a_truncated_file_is_left_out_and_named(imagenet: Path, execution: Execution) -> None:
    file = imagenet / "train" / WNIDS[2] / f"{WNIDS[2]}_1.JPEG"
    file.write_bytes(file.read_bytes()[:900])
    made = data.prepare("imagenet-quick", execution=execution, source=imagenet)
    assert made.facts.corrupt == (f"train/{WNIDS[2]}/{WNIDS[2]}_1.JPEG",)
    assert any("_1.JPEG' cannot be read and is left out" in note for note in made.facts.notes)
    arrays = data.load(made.name, execution=execution)
    assert arrays.train_labels_N.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_other_bytes_are_another_set_and_another_folder_is_refused(
    imagenet: Path, execution: Execution, image_file: ImageFile
) -> None:
    before = data.prepare("imagenet-quick", execution=execution, source=imagenet).name
    (imagenet / "val" / WNIDS[0] / "ILSVRC2012_val_00000000.JPEG").write_bytes(image_file(99, kind="JPEG"))
    assert data.prepare("imagenet-quick", execution=execution, source=imagenet).name != before
    with pytest.raises(RequestError, match="holds nothing of ImageNet"):
        data.prepare("imagenet-quick", execution=execution, source=imagenet / "train")
