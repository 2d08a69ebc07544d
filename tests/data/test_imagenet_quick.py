"""ImageNet's quick set: which classes and files are taken, and what is said of odd ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data import ilsvrc
from tests.data.ilsvrc import TESTED, TRAINED, WNIDS
from tfkd_cli import data
from tfkd_cli.data import imagenet_listing
from tfkd_cli.data.reader import silent
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes; a grey image, a CMYK one and a PNG are among them."""
    return ilsvrc.make_tree(tmp_path / "ILSVRC")


def prepared(source: Path, execution: Execution) -> data.ResolvedData:
    return data.prepare("imagenet-quick", execution=execution, source=source)


def test_a_folder_becomes_a_small_marked_set_of_its_own(tree: Path, execution: Execution) -> None:
    made = prepared(tree, execution)
    assert made.name.startswith("imagenet-quick@")
    assert made.facts.caveat == "not the full data set"
    arrays = data.load(made.name, execution=execution)
    assert arrays.class_names == WNIDS
    assert arrays.train_images_NCHW.shape == (3 * TRAINED, 3, 64, 64)
    assert arrays.test_labels_N.tolist() == [label for label in range(3) for _ in range(TESTED)]
    assert data.resolve("imagenet-quick", execution=execution).name == made.name


def test_the_archives_give_the_same_set_as_the_folder_they_unpack_to(
    tree: Path, tmp_path: Path, execution: Execution
) -> None:
    archives = ilsvrc.make_archives(tree, tmp_path / "archives")
    other = Execution(cache=str(tmp_path / "other"))
    name = prepared(archives, execution).name
    assert prepared(tree, other).name == name
    first, second = (data.load(name, execution=each) for each in (execution, other))
    assert (first.train_images_NCHW[:] == second.train_images_NCHW[:]).all()
    assert (first.test_labels_N == second.test_labels_N).all()


def test_it_is_found_where_imagenet_was_indexed(tree: Path, execution: Execution) -> None:
    data.prepare("imagenet", execution=execution, source=tree)
    assert data.resolve("imagenet-quick", execution=execution).available


def test_every_tenth_of_the_thousand_classes_and_the_first_images_by_name_are_taken(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thousand = [f"n{number:08d}" for number in range(1000)]
    assert imagenet_listing.chosen(thousand) == thousand[::10]
    monkeypatch.setattr(imagenet_listing, "QUICK_CLASSES", 2)
    monkeypatch.setattr(imagenet_listing, "QUICK_IMAGES", {"train": 2, "val": 1})
    for root in (tree, ilsvrc.make_archives(tree, tree.parent / "archives")):
        layout = imagenet_listing.listed(root, silent, quick=True)
        assert layout.classes == WNIDS[:2]
        assert layout.files[:4] == [
            f"train/{wnid}/{wnid}_{number}.JPEG" for wnid in WNIDS[:2] for number in (0, 1)
        ]
        assert [Path(file).parent.name for file in layout.files[4:]] == list(WNIDS[:2])


def test_a_truncated_file_is_left_out_and_named(tree: Path, execution: Execution) -> None:
    file = tree / "train" / WNIDS[2] / f"{WNIDS[2]}_1.JPEG"
    file.write_bytes(file.read_bytes()[:700])
    made = prepared(tree, execution)
    assert made.facts.corrupt == (f"train/{WNIDS[2]}/{WNIDS[2]}_1.JPEG",)
    assert any(
        "_1.JPEG' cannot be read; data.corrupt=skip leaves it out" in note for note in made.facts.notes
    )
    arrays = data.load(made.name, execution=execution)
    assert arrays.train_labels_N.tolist() == [0] * TRAINED + [1] * TRAINED + [2] * (TRAINED - 1)


def test_other_bytes_are_another_set_and_another_folder_is_refused(tree: Path, execution: Execution) -> None:
    before = prepared(tree, execution).name
    next((tree / "val" / WNIDS[0]).iterdir()).write_bytes(ilsvrc.jpeg(99))
    assert prepared(tree, execution).name != before
    with pytest.raises(RequestError, match="holds nothing of ImageNet"):
        prepared(tree / "train", execution)
