"""ImageNet in place: what the archives and the tree have in common, and what is not taken for it."""

from __future__ import annotations

import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.ilsvrc import TESTED, TRAINED, WNIDS, jpeg, make_archives, make_tree
from tfkd_cli import data
from tfkd_cli.data import Arrays, imagenet
from tfkd_cli.data import imagenet_listing as listing
from tfkd_cli.data.image_files import ImageFiles
from tfkd_cli.data.layout import Layout
from tfkd_cli.data.reader import silent
from tfkd_cli.errors import RequestError, TfkdError
from tfkd_cli.execution import Execution


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def archives(tree: Path, tmp_path: Path) -> Path:
    return make_archives(tree, tmp_path / "archives")


def prepared(source: Path, execution: Execution) -> Arrays:
    name = data.prepare("imagenet", execution=execution, source=source).name
    return data.load(name, execution=execution)


def files(arrays: Arrays, part: str) -> ImageFiles:
    found = getattr(arrays, f"{part}_images_NCHW")
    assert isinstance(found, ImageFiles)
    return found


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        each: (each.stat().st_mtime_ns, each.read_bytes()) for each in folder.rglob("*") if each.is_file()
    }


def test_archives_and_the_tree_they_unpack_to_give_the_same_name_labels_and_pixels(
    tree: Path, archives: Path, tmp_path: Path
) -> None:
    ours = [
        prepared(source, Execution(cache=str(tmp_path / f"cache-{source.name}")))
        for source in (tree, archives)
    ]
    one, other = ours
    assert one.facts.name == other.facts.name
    assert one.facts.name.startswith("imagenet@")
    for part, count in (("train", TRAINED), ("test", TESTED)):
        labels = [getattr(each, f"{part}_labels_N") for each in ours]
        assert np.array_equal(*labels)
        assert labels[0].tolist() == sorted([*range(len(WNIDS))] * count)
        names = [[files(each, part).name(i) for i in range(len(labels[0]))] for each in ours]
        assert names[0] == names[1]
        assert np.array_equal(files(one, part)[:], files(other, part)[:])
    assert one.class_names == WNIDS
    assert other.class_names[0] == "n01440764 word of n01440764"


def test_it_is_read_in_place_and_nothing_is_written_beside_it(
    tree: Path, archives: Path, execution: Execution
) -> None:
    before = {**contents(tree), **contents(archives)}
    for source in (tree, archives):
        prepared(source, execution)
    assert {**contents(tree), **contents(archives)} == before
    cached = sum(file.stat().st_size for file in (execution.cache_path / "data").rglob("*.npy"))
    assert cached < 10_000


def test_after_it_was_given_once_it_is_found_by_its_name(tree: Path, execution: Execution) -> None:
    name = prepared(tree, execution).facts.name
    resolved = data.resolve("imagenet", execution=execution)
    assert (resolved.name, resolved.ready, resolved.source) == (name, True, str(tree))


def test_a_file_more_or_of_another_size_gives_another_name(tree: Path, tmp_path: Path) -> None:
    names = set[str]()
    for change in ("none", "size", "more"):
        file = tree / "train" / WNIDS[0] / f"{WNIDS[0]}_1.JPEG"
        if change == "size":
            file.write_bytes(jpeg(77))
        elif change == "more":
            file.with_name(f"{WNIDS[0]}_9.JPEG").write_bytes(jpeg(9))
        os.utime(file.parent, ns=(len(names), len(names)))  # as `touch`: a file was changed in place
        names.add(prepared(tree, Execution(cache=str(tmp_path / change))).facts.name)
    assert len(names) == 3


def test_a_file_that_has_changed_since_it_was_indexed_is_named(tree: Path, execution: Execution) -> None:
    arrays = prepared(tree, execution)
    (tree / "train" / WNIDS[1] / f"{WNIDS[1]}_2.JPEG").write_bytes(b"short")
    with pytest.raises(TfkdError, match=rf"{WNIDS[1]}_2\.JPEG.*has 5 bytes"):
        files(arrays, "train")[:]


def test_a_copy_on_this_node_is_used_and_a_lost_original_is_reported(
    tree: Path, execution: Execution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = prepared(tree, execution).facts.name
    moved = tree.rename(tmp_path / "moved")
    with pytest.raises(RequestError, match="are not at") as error:
        data.load(name, execution=execution)
    assert "TFKD_DATA" in error.value.hint
    for given, variable in ((replace(execution, sources={name: str(moved)}), ""), (execution, str(moved))):
        monkeypatch.setenv("TFKD_DATA", variable)
        assert files(data.load(name, execution=given), "test").place == moved


@pytest.mark.parametrize("to", ["moved", "archives"])
def test_images_that_have_moved_are_found_once_their_new_place_is_given(
    tree: Path, archives: Path, execution: Execution, tmp_path: Path, to: str
) -> None:
    before = prepared(tree, execution)
    pixels = files(before, "test")[:]
    moved = tree.rename(tmp_path / "moved")
    with pytest.raises(RequestError, match="are not at"):  # before a run starts
        data.prepare("imagenet", execution=execution)
    name = data.prepare("imagenet", execution=execution, source=moved if to == "moved" else archives).name
    assert name == before.facts.name
    assert np.array_equal(files(data.load(name, execution=execution), "test")[:], pixels)


def test_a_damaged_index_is_made_anew(tree: Path, execution: Execution) -> None:
    name = prepared(tree, execution).facts.name
    index = execution.cache_path / "data" / name / "train_files.npy"
    whole = index.read_bytes()
    index.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    data.load(name, execution=replace(execution, sources={name: str(tree)}))
    assert index.read_bytes() == whole


@pytest.mark.parametrize(
    ("break_it", "what"),
    [
        ("no kit", "without ILSVRC2012_devkit"),
        ("short", "cannot be read as a tar"),
        ("kit", "cannot be read"),
        ("labels", "holds 0 images, not those numbered 1 to 6"),
    ],
)
def test_incomplete_archives_are_refused(
    archives: Path, execution: Execution, break_it: str, what: str
) -> None:
    if break_it == "no kit":
        (archives / listing.DEVKIT).unlink()
    elif break_it == "short":
        whole = (archives / listing.TRAIN).read_bytes()
        (archives / listing.TRAIN).write_bytes(whole[: len(whole) // 2])
    elif break_it == "kit":
        (archives / listing.DEVKIT).write_bytes(b"no tar")
    else:
        with tarfile.open(archives / listing.VAL, "w"):  # without images
            pass
    with pytest.raises(RequestError, match=what):
        data.prepare("imagenet", execution=execution, source=archives)


@pytest.mark.parametrize("name", ["imagenet", "imagenet-quick"])
def test_odd_files_are_named_and_what_is_no_image_is_left_aside(
    tree: Path, archives: Path, execution: Execution, name: str
) -> None:
    first, second = (tree / "train" / wnid for wnid in WNIDS[:2])
    (first / f"{WNIDS[1]}_7.JPEG").write_bytes(jpeg(77))
    (second / f"{WNIDS[1]}_8.JPEG").touch()
    for beside in (first / "README", first / "._a.JPEG", first / ".DS_Store", tree / "train" / "a.zip"):
        beside.write_bytes(b"no image")
    (first / "broken.JPEG").symlink_to("nowhere")
    (first / "more").mkdir()
    for file in (tree / "val" / WNIDS[2]).iterdir():
        file.unlink()
    notes = "\n".join(data.prepare(name, execution=execution, source=tree).facts.notes)
    assert f"than that of their folder, whose label they have here: 1 (the first: 'train/{WNIDS[0]}/" in notes
    assert f"empty files: 1 (the first: 'train/{WNIDS[1]}/{WNIDS[1]}_8.JPEG')" in notes
    assert f"classes without validation images: 1 (the first: '{WNIDS[2]}')" in notes
    assert f"no images: 3 (the first: 'train/{WNIDS[0]}/more')" in notes


@pytest.mark.parametrize(
    ("break_it", "what"),
    [
        ("flat", r"val/ has no folders of classes, but 6 images"),
        ("validation", r"there is no val/ in it"),
        ("other", r"train/ and val/ have no class in common"),
    ],
)
def test_a_folder_of_another_layout_is_told_what_it_lacks(
    tree: Path, execution: Execution, break_it: str, what: str
) -> None:
    if break_it == "validation":
        (tree / "val").rename(tree / "validation")
    for wnid in WNIDS if break_it != "validation" else ():
        for file in (tree / "val" / wnid).iterdir():
            file.rename(tree / "val" / file.name if break_it == "flat" else file)
        if break_it == "flat":
            (tree / "val" / wnid).rmdir()
        else:
            (tree / "val" / wnid).rename(tree / "val" / f"x{wnid}")
    with pytest.raises(RequestError, match=what) as error:
        data.prepare("imagenet", execution=execution, source=tree)
    assert "download" not in error.value.hint


def test_a_validation_class_without_training_images_is_refused(tree: Path, execution: Execution) -> None:
    (tree / "val" / "n99999999").mkdir()
    (tree / "val" / "n99999999" / "1.JPEG").write_bytes(jpeg(1))
    with pytest.raises(RequestError, match="the class 'n99999999' has no training images"):
        data.prepare("imagenet", execution=execution, source=tree)


def test_it_is_not_downloaded(execution: Execution) -> None:
    with pytest.raises(RequestError, match="cannot be downloaded"):
        data.prepare("imagenet", execution=execution, allow_download=True)


def official(size: int = 114_800) -> Layout:
    """Three classes of 5, 5 and 6 training images of this size, and two validation images each."""
    counts = zip(WNIDS, (6, 5, 5), strict=True)
    train = [listing.Item(wnid, f"{wnid}_{n}.JPEG", size) for wnid, count in counts for n in range(count)]
    val = [listing.Item(wnid, f"{number}.JPEG", 134_000) for wnid in WNIDS for number in range(2)]
    return listing._layout(Path("imagenet"), WNIDS, {"train": train, "val": val})


def test_the_official_name_needs_the_official_counts_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A set with the counts and sizes of this made-up one stands for the official one."""
    layout, facts = official(), data.dataset("imagenet")
    monkeypatch.setattr(imagenet, "IMAGENET", replace(facts, classes=3, train_images=16))
    monkeypatch.setattr(imagenet, "PER_CLASS", {"train": range(5, 7), "val": range(2, 3)})
    packed = {"train": 16 * (512 + 115_200), "val": 6 * (512 + 134_144)}
    monkeypatch.setattr(imagenet, "ARCHIVE_BYTES", {part: size + 10_240 for part, size in packed.items()})
    monkeypatch.setattr(imagenet, "PADDING", 12_288)
    named = imagenet._identify(layout, facts)
    assert (named.name, named.full) == ("imagenet", True)
    assert "bytes were not hashed" in named.notes[0]
    others = imagenet._identify(official(size=100_000), facts)
    assert others.name.startswith("imagenet@")
    assert (others.full, others.unchecked) == (False, True)
    moved = layout.files[0].replace(layout.classes[0], layout.classes[1], 1)  # to another class
    relabelled = replace(layout, files=[moved, *layout.files[1:]])
    assert not imagenet._identify(relabelled, facts).unchecked


def test_the_sizes_of_the_files_in_a_tree_add_up_to_nearly_those_of_the_archives(
    archives: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {part: (archives / name).stat().st_size for part, name in listing.ARCHIVES.items()}
    monkeypatch.setattr(imagenet, "ARCHIVE_BYTES", sizes)
    monkeypatch.setattr(imagenet, "PADDING", 4 * 12_288)  # of three classes, and of the archive around them
    assert imagenet._has_official_sizes(listing.listed(tree, silent))
    (tree / "val" / WNIDS[0] / "more.JPEG").write_bytes(bytes(60_000))
    assert not imagenet._has_official_sizes(listing.listed(tree, silent))
