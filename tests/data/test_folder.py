"""Own images: layouts, names by content, one declared look, and everything that can be wrong with them."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import socket
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfkd_cli import data
from tfkd_cli.commands.readiness import make_data_ready
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.options import LaunchOptions
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.store import Store

MakeFolder = Callable[..., Path]
ImageFile = Callable[..., bytes]
SPLIT = {"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/dog": 1}


def prepared(path: Path, execution: Execution, *, kind: str = "folder") -> data.Arrays:
    resolved = data.prepare(f"{kind}:{path}", execution=execution)
    return data.load(resolved.name, execution=execution)


def test_a_folder_with_train_and_test_becomes_arrays(make_folder: MakeFolder, execution: Execution) -> None:
    path = make_folder(SPLIT)
    arrays = prepared(path, execution)
    assert arrays.facts.name.startswith("folder@")
    assert not arrays.facts.full
    assert (arrays.facts.classes, arrays.facts.size, arrays.facts.channels) == (2, 32, 3)
    assert arrays.class_names == ("cat", "dog")
    assert arrays.train_labels_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert arrays.test_labels_N.tolist() == [0, 0, 1]
    first = np.asarray(Image.open(path / "train" / "cat" / "0.png"))
    assert (arrays.train_images_NCHW[0].transpose(1, 2, 0) == first).all()


def test_resolving_knows_the_facts_before_anything_is_decoded(
    make_folder: MakeFolder, execution: Execution
) -> None:
    resolved = data.resolve(f"folder:{make_folder(SPLIT)}", execution=execution)
    assert (resolved.ready, resolved.available, resolved.facts.train_images) == (False, True, 6)
    assert prepared(Path(str(resolved.source)), execution).facts.name == resolved.name


def test_the_name_is_the_content_wherever_it_lies(
    make_folder: MakeFolder, execution: Execution, tmp_path: Path
) -> None:
    path = make_folder(SPLIT)
    first = data.resolve(f"folder:{path}", execution=execution)
    shutil.copytree(path, tmp_path / "copy")
    assert data.resolve(f"folder:{tmp_path / 'copy'}", execution=execution).name == first.name


def test_what_is_said_of_a_folder_is_not_what_was_said_of_a_copy_that_was_decoded_before(
    make_folder: MakeFolder, execution: Execution, tmp_path: Path
) -> None:
    path = make_folder({**SPLIT, "unlabelled": 2})
    shutil.copy(path / "train" / "dog" / "1.png", path / "test" / "dog" / "again.png")
    shutil.copytree(path, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "unlabelled")
    first, copy = (
        data.prepare(f"folder:{each}", execution=execution).facts for each in (path, tmp_path / "copy")
    )
    assert (first.name, copy.called) == (copy.name, "copy")
    assert "left aside, folders beside the parts: 'unlabelled'" in first.notes
    assert copy.notes == tuple(note for note in first.notes if "unlabelled" not in note)
    assert any("near-identical" in note for note in copy.notes)


@pytest.mark.parametrize("change", ["bytes", "name", "another", "class"])
def test_any_change_of_content_changes_the_name(
    make_folder: MakeFolder, execution: Execution, image_file: ImageFile, change: str
) -> None:
    path = make_folder(SPLIT)
    before = data.resolve(f"folder:{path}", execution=execution).name
    image = path / "train" / "cat" / "0.png"
    if change == "bytes":
        image.write_bytes(image_file(77))
    elif change == "name":
        image.rename(image.with_name("00.png"))
    elif change == "another":
        (image.parent / "new.png").write_bytes(image_file(77))
    else:
        shutil.move(image, path / "train" / "dog" / "new.png")
    assert data.resolve(f"folder:{path}", execution=execution).name != before


def test_images_are_read_again_only_when_one_was_touched(
    make_folder: MakeFolder, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_folder(SPLIT)
    name = data.resolve(f"folder:{path}", execution=execution).name

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("tfkd_cli.data.folder._examine", fail)
    assert data.resolve(f"folder:{path}", execution=execution).name == name
    os.utime(path / "train" / "cat" / "0.png", ns=(1, 1))
    with pytest.raises(AssertionError, match="read again"):
        data.resolve(f"folder:{path}", execution=execution)


def test_a_folder_without_parts_is_split_by_content(make_folder: MakeFolder, execution: Execution) -> None:
    path = make_folder({"cat": 20, "dog": 20})
    arrays = prepared(path, execution)
    facts = arrays.facts
    assert (facts.train_images, facts.val_images, facts.test_images) == (28, 6, 6)
    assert arrays.val_images_NCHW is not None
    assert len(arrays.val_images_NCHW) == 6
    assert any("70/15/15" in note for note in facts.notes)
    (path / "cat" / "0.png").rename(path / "cat" / "renamed.png")
    again = prepared(path, execution)
    assert {each.tobytes() for each in again.test_images_NCHW} == {
        each.tobytes() for each in arrays.test_images_NCHW
    }


def test_a_validation_folder_is_kept_apart(make_folder: MakeFolder, execution: Execution) -> None:
    facts = prepared(make_folder({**SPLIT, "valid/cat": 2, "valid/dog": 1}), execution).facts
    assert (facts.train_images, facts.val_images, facts.test_images) == (6, 3, 3)


def test_train_and_val_alone_are_tested_on_val_and_say_so(
    make_folder: MakeFolder, execution: Execution
) -> None:
    counts = {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1}
    facts = prepared(make_folder(counts), execution).facts
    assert (facts.val_images, facts.test_images) == (0, 2)
    assert any("tested on val/" in note for note in facts.notes)


def test_train_may_be_the_name_of_a_class(make_folder: MakeFolder, execution: Execution) -> None:
    assert prepared(make_folder({"train": 4, "bus": 4}), execution).class_names == ("bus", "train")


@pytest.mark.parametrize(
    ("sizes", "size"),
    [
        ([(48, 48)], 48),
        ([(64, 64)], 64),
        ([(8, 8)], 32),
        ([(128, 128)], 64),
        ([(40, 30)], 64),
        ([(32, 32), (40, 40)], 64),
    ],
)
def test_images_keep_their_size_where_networks_take_it(
    make_folder: MakeFolder,
    image_file: ImageFile,
    execution: Execution,
    sizes: list[tuple[int, int]],
    size: int,
) -> None:
    path = make_folder(SPLIT, size=sizes[0])
    (path / "train" / "cat" / "0.png").write_bytes(image_file(0, size=sizes[-1]))
    assert prepared(path, execution).facts.size == size


def test_another_size_can_be_asked_for_and_is_part_of_the_name(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder(SPLIT, mode="L")
    small, large = prepared(path, execution), prepared(path, execution, kind="folder224")
    assert (small.facts.size, small.facts.channels) == (32, 1)
    assert (large.facts.size, large.facts.channels) == (224, 3)
    assert large.facts.name.startswith("folder224@")
    with pytest.raises(RequestError, match="asks for 9999 pixels"):
        data.resolve(f"folder9999:{path}", execution=execution)


def test_another_split_can_be_asked_for_and_is_part_of_the_name(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder({"cat": 40, "dog": 40})
    usual, other = prepared(path, execution), prepared(path, execution, kind="folder.split3")
    assert other.facts.name.startswith("folder.split3@")
    assert len(usual.test_labels_N) == len(other.test_labels_N) == 12
    tested = [{image.tobytes() for image in arrays.test_images_NCHW} for arrays in (usual, other)]
    assert tested[0] != tested[1]
    again = data.load(other.facts.name, execution=execution)
    assert (again.test_images_NCHW == other.test_images_NCHW).all()


def test_a_folder_with_a_split_of_its_own_is_not_split_anew(
    make_folder: MakeFolder, execution: Execution
) -> None:
    with pytest.raises(RequestError, match=r"asks to split it anew(.|\n)*leave the split out"):
        data.resolve(f"folder.split1:{make_folder(SPLIT)}", execution=execution)


def test_a_large_photograph_is_turned_upright_and_cropped_to_its_centre(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder(SPLIT)
    pixels = np.zeros((300, 500, 3), np.uint8)
    pixels[:, 100:250] = 255  # white left of the middle: after a quarter turn, above it
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = 6  # turned by 90° clockwise when shown
    image.save(path / "train" / "cat" / "0.jpg", exif=exif, quality=95)
    arrays = prepared(path, execution)
    photograph = arrays.train_images_NCHW[0]  # "0.jpg" sorts before "0.png"
    assert photograph[:, :28].min() > 200
    assert photograph[:, 36:].max() < 50


def test_imbalance_is_said(make_folder: MakeFolder, execution: Execution) -> None:
    facts = prepared(make_folder({**SPLIT, "train/cow": 9}), execution).facts
    assert any("imbalanced: 3 training images of 'cat', 9 of 'cow'" in note for note in facts.notes)


def test_a_folder_is_described_before_anything_is_decoded(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder({"cat": 20, "dog": 40})
    shutil.copy(path / "cat" / "0.png", path / "dog" / "again.png")
    (path / "dog" / "from_a_phone.heic").write_text("not read")
    notes = data.resolve(f"folder:{path}", execution=execution).facts.notes
    assert any(
        note.startswith("61 images of 2 classes (cat, dog): 43 training, 9 validation, 9 test; one")
        for note in notes
    )
    assert any("imbalanced" in note for note in notes)
    assert any("two classes: 1 (the first: 'cat/0.png', 'dog/again.png')" in note for note in notes)
    assert any("no known image ending: 1 (.heic)" in note for note in notes)


def test_images_beside_the_class_folders_are_counted_in_the_refusal(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder({"cat": 3})
    shutil.move(path / "cat" / "0.png", path / "0.png")
    refused(path, execution, "holds 1 class folder, and 1 images beside")


def test_an_image_that_is_in_both_parts_is_said(
    make_folder: MakeFolder, execution: Execution, image_file: ImageFile
) -> None:
    path = make_folder({**SPLIT, "train/cow": 3})
    image = Image.open(path / "train" / "dog" / "1.png")
    image.save(path / "test" / "cat" / "again.jpg", quality=85)
    mirrored = Image.open(path / "train" / "dog" / "2.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    mirrored.save(path / "test" / "dog" / "mirrored.png")
    facts = prepared(path, execution).facts
    (note,) = [note for note in facts.notes if "near-identical" in note]
    assert "2 of 5 test images" in note
    assert "test/cat/again.jpg" in note
    assert "train/dog/1.png" in note


def test_class_names_are_text_whatever_they_look_like(make_folder: MakeFolder, execution: Execution) -> None:
    strange = "<script>alert(1)<&script>"
    arrays = prepared(make_folder({strange: 4, "$(rm -rf ~); 'x'": 4, "ü 猫": 4}), execution)
    assert strange in arrays.class_names


def test_files_that_are_no_images_are_left_aside(make_folder: MakeFolder, execution: Execution) -> None:
    path = make_folder(SPLIT)
    (path / "train" / "cat" / "notes.txt").write_text("no image")
    facts = prepared(path, execution).facts
    assert facts.train_images == 6
    assert any("left aside, no known image ending: 1 (.txt)" in note for note in facts.notes)


def test_what_file_managers_leave_behind_is_passed_over(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder(SPLIT)
    before = prepared(path, execution).facts
    for where in (path, path / "train", path / "train" / "cat"):
        for file in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"):
            (where / file).write_text("no image")
        for folder in ("@eaDir", "__MACOSX", ".ipynb_checkpoints"):
            (where / folder / "cat").mkdir(parents=True)
            (where / folder / "cat" / "0.png").write_text("no image")
    assert prepared(path, execution).facts == before


def test_images_beside_the_class_folders_and_folders_beside_the_parts_are_said(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder({**SPLIT, "unlabelled": 2})
    shutil.copy(path / "unlabelled" / "0.png", path / "train" / "loose.png")
    notes = prepared(path, execution).facts.notes
    assert any("left aside, folders beside the parts: 'unlabelled'" in note for note in notes)
    assert any("left aside, images beside the class folders: 1" in note for note in notes)


def test_a_jfif_file_is_a_jpeg(make_folder: MakeFolder, image_file: ImageFile, execution: Execution) -> None:
    path = make_folder(SPLIT)
    (path / "train" / "cat" / "9.JFIF").write_bytes(image_file(9, kind="JPEG"))
    assert prepared(path, execution).facts.train_images == 7


def refused(path: Path, execution: Execution, message: str) -> RequestError:
    with pytest.raises(RequestError, match=message) as caught:
        data.prepare(f"folder:{path}", execution=execution)
    assert caught.value.expected
    assert caught.value.hint
    return caught.value


def test_all_broken_images_are_named_at_once(
    make_folder: MakeFolder, image_file: ImageFile, execution: Execution
) -> None:
    path = make_folder({"cat": 6, "dog": 6})
    whole = image_file(1, size=(60, 60), kind="JPEG")
    (path / "cat" / "cut.jpg").write_bytes(whole[:-100])  # found when its pixels are decoded
    (path / "cat" / "empty.jpg").write_bytes(b"")
    (path / "dog" / "page.jpg").write_text("<html>404 Not Found</html>")
    os.mkfifo(path / "dog" / "pipe.jpg")
    what = refused(path, execution, "4 images cannot be used").what
    assert all(name in what for name in ("cat/cut.jpg", "cat/empty.jpg", "dog/page.jpg", "dog/pipe.jpg"))
    for name in ("cat/empty.jpg", "dog/page.jpg", "dog/pipe.jpg"):
        (path / name).unlink()
    shutil.copy(path / "cat" / "cut.jpg", path / "dog" / "cut.jpg")
    refused(path, execution, "2 images cannot be used")


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_named_and_not_waited_for(
    make_folder: MakeFolder, execution: Execution, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = make_folder({"cat": 4, "dog": 4})
    image = path / "cat" / "odd.png"
    if kind == "pipe":
        os.mkfifo(image)
    elif kind == "socket":
        monkeypatch.chdir(image.parent)  # the whole path may be too long for a socket's name
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(image.name)
    else:
        image.symlink_to("/dev/zero")
        execution = dataclasses.replace(execution, follow_links=True)
    refused(path, execution, "odd.png' cannot be read: it is a folder, a pipe, a socket or a device")


def write_drawings(path: Path, *, line: int, ground: tuple[int, ...]) -> None:
    """Crosses, at another place in each image, as RGB or RGBA."""
    for label, width in (("thin", 2), ("thick", 9)):
        for number in range(8):
            pixels = np.zeros((32, 32, len(ground)), np.uint8) + np.array(ground, np.uint8)
            pixels[2 * number : 2 * number + width] = (line, line, line, 255)[: len(ground)]
            (path / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path / label / f"{number}.png")


def test_images_in_which_nothing_is_to_be_seen_are_refused(tmp_path: Path, execution: Execution) -> None:
    write_drawings(tmp_path / "photos", line=255, ground=(0, 0, 0, 0))  # white on what is shown as white
    refused(tmp_path / "photos", execution, "all 16 images .* nearly of one colour once decoded")


def test_a_class_in_which_nothing_is_to_be_seen_is_warned_of(tmp_path: Path, execution: Execution) -> None:
    path = tmp_path / "photos"
    write_drawings(path, line=0, ground=(200, 200, 200))
    for number, image in enumerate(sorted((path / "thin").iterdir())[:6]):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(image)
    facts = prepared(path, execution).facts
    (note,) = [note for note in facts.notes if "one colour" in note]
    assert note.startswith("WARNING: 6 of 8 images of 'thin'")
    assert "thin/0.png" in note


def test_black_drawings_on_nothing_are_black_on_white(tmp_path: Path, execution: Execution) -> None:
    write_drawings(tmp_path / "photos", line=0, ground=(0, 0, 0, 0))
    arrays = prepared(tmp_path / "photos", execution)
    assert any("transparent parts white" in note for note in arrays.facts.notes)
    assert not any("one colour" in note for note in arrays.facts.notes)
    assert {0, 255} == set(np.unique(arrays.train_images_NCHW))


def test_deep_images_are_scaled_by_the_brightest_of_the_whole_set(
    tmp_path: Path, execution: Execution
) -> None:
    path = tmp_path / "photos"
    for label, top in (("dark", 900), ("bright", 4000)):
        for number in range(5):
            pixels = np.random.RandomState(number + top).randint(0, top, (32, 32)).astype(np.uint16)
            (path / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path / label / f"{number}.png")
    arrays = prepared(path, execution)
    assert arrays.facts.levels == (("I", 0.0, 4095.0),)
    bright, dark = (arrays.train_images_NCHW[arrays.train_labels_N == label] for label in (0, 1))
    assert dark.max() <= 57 < 230 < bright.max()
    assert data.load(arrays.facts.name, execution=execution).facts == arrays.facts


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n truncated"])
def test_a_corrupt_image_is_named(make_folder: MakeFolder, execution: Execution, content: bytes) -> None:
    path = make_folder(SPLIT)
    (path / "test" / "dog" / "0.png").write_bytes(content)
    refused(path, execution, r"image 'test/dog/0.png' cannot be read")


def test_an_image_that_ends_too_early_is_named(make_folder: MakeFolder, execution: Execution) -> None:
    path = make_folder(SPLIT)
    image = path / "test" / "dog" / "0.png"
    image.write_bytes(image.read_bytes()[:-30])
    refused(path, execution, r"image 'test/dog/0.png' cannot be read")
    assert not list(Path(execution.cache, "data").glob(".draft-*"))


def huge_png() -> bytes:
    """The start of a PNG of 200,000 × 200,000 pixels."""
    header = b"IHDR" + (200_000).to_bytes(4, "big") * 2 + bytes((8, 2, 0, 0, 0))
    start = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header
    return start + zlib.crc32(header).to_bytes(4, "big") + (10).to_bytes(4, "big") + b"IDAT" + bytes(14)


def test_an_absurdly_large_image_is_refused_before_it_is_decoded(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder(SPLIT)
    (path / "train" / "dog" / "0.png").write_bytes(huge_png())
    refused(path, execution, r"train/dog/0.png' (is 200000×200000|cannot be read: .*exceeds limit)")


def test_an_image_just_above_the_limit_is_refused(make_folder: MakeFolder, execution: Execution) -> None:
    path, file = make_folder(SPLIT), io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(file, "PNG")
    (path / "train" / "dog" / "0.png").write_bytes(file.getvalue())
    refused(path, execution, "at most 80 million pixels")


def test_a_class_in_test_that_train_lacks_is_named(make_folder: MakeFolder, execution: Execution) -> None:
    refused(make_folder({**SPLIT, "test/cow": 1}), execution, "test has a class that train lacks: 'cow'")


def test_a_class_that_test_lacks_is_said(make_folder: MakeFolder, execution: Execution) -> None:
    facts = prepared(make_folder({**SPLIT, "train/cow": 3}), execution).facts
    assert any("test has no images of 1 of 3 classes: 'cow'" in note for note in facts.notes)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({**SPLIT, "train/cow": 0}, "class folder 'train/cow' holds no images"),
        ({"train/cat": 2, "test/cat": 1}, "train' holds 1 class folder[.]"),
        ({"cat": 5}, "holds 1 class folder[.]"),
        ({}, "does not exist|holds 0 class folders|is not a folder"),
        ({"cat": 2, "dog": 5}, "class 'cat' has 2 different images"),
        ({"train/cat": 2, "train/dog": 2}, "has a train folder and no test folder"),
        ({**SPLIT, "train/cat/deeper": 1}, "'train/cat/deeper' is a folder"),
        ({"cat/train": 3, "cat/test": 2, "dog": 3}, "named like a part(.|\n)*train/cat/1.jpg"),
        ({"photos/cat": 4, "photos/dog": 4}, "holds one folder(.|\n)*folder:.*photos"),
        ({"train": 6, "test": 6}, "no class folders: 'test', 'train' are names of parts"),
        ({"train": 6, "test": 6, "more": 6}, "no class folders: 'test', 'train' are names of parts"),
        ({"training_set/cat": 3, "test_set/cat": 3}, "no class folders(.|\n)*call the parts train"),
        ({"train": 6, "test1": 6}, "no class folders"),
        ({"x_train": 3, "x_test": 3}, "no class folders"),
        ({"trainA": 3, "trainB": 3, "testA": 3}, "no class folders"),
        ({"fold1": 3, "fold_2": 3}, "no class folders"),
        ({"JPEGImages": 3, "SegmentationClass": 3}, "no class folders"),
        ({"Training Set": 6, "validation_images": 6, "dev2": 3}, "no class folders"),
        ({"train/cat": 3, "train/dog": 3, "test": 3}, "test has no class folders"),
        ({**SPLIT, "val/cat": 1, "valid/cat": 1}, "2 folders for val: 'val', 'valid'"),
        ({"Cat": 4, "cat": 4}, "the same name but for letter case"),
        ({"my cat": 4, "my  cat": 4}, "the same name but for letter case"),
        ({"cat": 4, "c\u200bat": 4}, "the same name but for letter case"),
        (
            {"caf\u00e9": 4, "cafe\u0301": 4, "bar": 4},
            r"caf\\xe9' and 'cafe\\u0301'|cafe\\u0301' and 'caf\\xe9",
        ),
        ({"train/cat": 3, "train/dog": 3, "test/CAT": 3, "test/dog": 3}, "'cat' and 'CAT' in test"),
    ],
)
def test_a_folder_in_no_known_layout_is_refused(
    make_folder: MakeFolder, execution: Execution, counts: dict[str, int], message: str
) -> None:
    counts = dict(sorted(counts.items(), reverse=True))
    refused(make_folder(counts), execution, message)


@pytest.mark.parametrize("where", ["train/cat/0.png", "train/cow", "train"])
def test_a_link_that_leads_out_is_refused(make_folder: MakeFolder, execution: Execution, where: str) -> None:
    outside = make_folder({"cow": 2}, name="outside")
    path = make_folder(SPLIT)
    target = {"train/cat/0.png": outside / "cow" / "0.png", "train/cow": outside / "cow", "train": outside}[
        where
    ]
    link = path / where
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    refused(path, execution, "is a link that leads out of the folder")


def test_a_link_that_leads_out_is_followed_where_that_is_asked_for(
    make_folder: MakeFolder, execution: Execution
) -> None:
    copied = make_folder({"cat": 4, "dog": 4})
    linked = copied.with_name("linked")
    (linked / "cat").mkdir(parents=True)
    for image in (copied / "cat").iterdir():
        (linked / "cat" / image.name).symlink_to(image)
    (linked / "dog").symlink_to(copied / "dog")
    following = dataclasses.replace(execution, follow_links=True)
    facts = prepared(linked, following).facts
    assert facts.name == prepared(copied, execution).facts.name
    refused(linked, execution, r"leads out of the folder(.|\n)*--follow-links")


def test_folders_inside_a_class_belong_to_it_where_that_is_asked_for(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder({**SPLIT, "train/cat/monday": 2, "train/cat/monday/noon": 1})
    arrays = prepared(path, dataclasses.replace(execution, nested=True))
    assert arrays.train_labels_N.tolist() == [0] * 6 + [1] * 3
    assert any("folders inside a class" in note for note in arrays.facts.notes)
    refused(path, execution, r"'train/cat/monday' is a folder(.|\n)*--nested")


@pytest.mark.parametrize("target", [".", "..", "../dog"])
def test_links_in_a_circle_and_folders_met_twice_are_refused(
    make_folder: MakeFolder, execution: Execution, target: str
) -> None:
    path = make_folder({"cat": 4, "dog": 4})
    (path / "cat" / "again").symlink_to(target)
    everything = dataclasses.replace(execution, follow_links=True, nested=True)
    refused(path, everything, "a link to a folder that is read already")


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("where", ["cat/self.jpg", "self"])
def test_a_link_to_itself_is_named(
    make_folder: MakeFolder, execution: Execution, where: str, *, follow: bool
) -> None:
    path = make_folder({"cat": 4, "dog": 4})
    (path / where).symlink_to(Path(where).name)
    refused(path, dataclasses.replace(execution, follow_links=follow), "self.* cannot be read: .*")


def test_a_link_to_nowhere_is_named_where_it_may_stand_for_a_class(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder({"cat": 4, "dog": 4})
    (path / "cow").symlink_to(path / "nowhere")
    everything = dataclasses.replace(execution, follow_links=True, nested=True)
    refused(path, everything, "cow' cannot be read: No such file")


def test_a_class_of_files_with_other_endings_is_refused_with_these(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder({"cat": 4, "dog": 0})
    (path / "dog" / "from_a_phone.HEIC").write_text("not read")
    refused(path, execution, r"'dog' holds no images, only files with other endings \(.heic\)(.|\n)*convert")


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar.gz", "photo.jpg", "pipe", "/dev/null"])
def test_what_is_no_folder_is_refused(tmp_path: Path, execution: Execution, name: str) -> None:
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    elif not name.startswith("/"):
        path.write_bytes(b"PK")
    error = refused(path, execution, "is (an archive|a file|a device, a pipe or a socket), not a folder")
    assert ("unpack" in error.hint) == ("photos" in name)


def test_archives_in_the_place_of_class_folders_are_counted(tmp_path: Path, execution: Execution) -> None:
    for name in ("cat.zip", "dog.zip"):
        (tmp_path / name).write_bytes(b"PK")
    refused(tmp_path, execution, r"holds 0 class folders, and 2 archives beside(.|\n)*unpack")


def test_a_link_within_the_folder_is_fine(make_folder: MakeFolder, execution: Execution) -> None:
    path = make_folder(SPLIT)
    (path / "train" / "cat" / "9.png").symlink_to(path / "train" / "cat" / "0.png")
    assert prepared(path, execution).facts.train_images == 7


def test_what_was_found_while_decoding_is_told_after_it_and_stands_in_the_cache(
    make_folder: MakeFolder, execution: Execution, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_folder(SPLIT)
    shutil.copy(path / "train" / "dog" / "1.png", path / "test" / "dog" / "again.png")
    axes = requests.axes_of(dataset=f"folder:{path}", students=["plain-cnn"], methods=["baseline"])
    request = requests.for_axes(axes, Request(seeds=(0,)), execution=execution)
    runs = request.specs
    make_data_ready(Campaign(request, Store(path / "none"), execution), runs, LaunchOptions())
    (note,) = (line for line in capsys.readouterr().err.splitlines() if "WARNING" in line)
    assert "WARNING: 1 of 4 test images are near-identical to training images" in note
    meta = json.loads((Path(execution.cache) / "data" / runs[0].dataset / "meta.json").read_text())
    assert note.partition(": ")[2] in meta["notes"]


def test_damaged_data_of_a_folder_is_decoded_again_while_the_folder_is_there(
    make_folder: MakeFolder, execution: Execution
) -> None:
    path = make_folder({**SPLIT, "train/cat/deeper": 1})
    arrays = prepared(path, dataclasses.replace(execution, nested=True))
    name, said = arrays.facts.name, list[str]()
    labels = Path(execution.cache) / "data" / name / "train_labels.npy"
    np.save(labels, 1 - arrays.train_labels_N)
    again = data.load(name, execution=execution, progress=lambda what, share: said.append(what))
    assert (again.train_labels_N == arrays.train_labels_N).all()
    assert any(f"{labels} is damaged" in each for each in said)
    shutil.rmtree(path)
    np.save(labels, 1 - arrays.train_labels_N)
    with pytest.raises(RequestError, match=r"train_labels.npy\), and what it was made of is not at hand"):
        data.load(name, execution=execution)


def test_a_folder_that_is_gone_is_known_by_its_cache(make_folder: MakeFolder, execution: Execution) -> None:
    path = make_folder(SPLIT)
    name = prepared(path, execution).facts.name
    shutil.rmtree(path)
    resolved = data.resolve(name, execution=execution)
    assert (resolved.ready, resolved.source) == (True, str(path))
    with pytest.raises(RequestError, match="does not exist"):
        data.resolve(f"folder:{path}", execution=execution)


def test_an_unknown_fingerprint_says_what_to_do(execution: Execution) -> None:
    with pytest.raises(RequestError, match=r"not in the cache(.|\n)*folder:PATH"):
        data.resolve("folder@0123456789ab", execution=execution)
