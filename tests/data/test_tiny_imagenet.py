"""Tiny-ImageNet: the official zip under its own name, anything else under the name of its content."""

from __future__ import annotations

import dataclasses
import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tfkd_cli import data
from tfkd_cli.data import tiny_imagenet
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution

MakeZip = Callable[..., Path]


def make_official(path: Path, monkeypatch: pytest.MonkeyPatch, *, val: int = 2) -> None:
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(tiny_imagenet, "BYTES", path.stat().st_size)
    monkeypatch.setattr(tiny_imagenet, "OFFICIAL_COUNTS", (2, 3, val))


def test_a_sample_is_named_by_its_content(tiny_zip: MakeZip, execution: Execution) -> None:
    resolved = data.prepare("tiny-imagenet", execution=execution, source=tiny_zip())
    assert resolved.name.startswith("tiny-imagenet@")
    assert not resolved.facts.full
    assert "sample" in resolved.facts.label
    assert "not the official" in resolved.facts.notes[0]
    arrays = data.load(resolved.name, execution=execution)
    assert arrays.train_images_NCHW.shape == (6, 3, 64, 64)
    assert arrays.class_names == ("n01 a goldfish", "n02 a boat")


def test_labels_of_validation_images_come_from_the_annotations(
    tiny_zip: MakeZip, execution: Execution
) -> None:
    swapped = "\n".join(
        f"val_{i}.JPEG\t{wnid}\t0" for i, wnid in ((4, "n02"), (5, "n02"), (9, "n01"), (10, "n01"))
    )
    resolved = data.prepare("tiny-imagenet", execution=execution, source=tiny_zip(annotations=swapped))
    arrays = data.load(resolved.name, execution=execution)
    names = sorted(("val_4.JPEG", "val_5.JPEG", "val_9.JPEG", "val_10.JPEG"))
    assert arrays.test_labels_N.tolist() == [int(name in ("val_4.JPEG", "val_5.JPEG")) for name in names]


def test_grey_scale_images_become_colour_images(tiny_zip: MakeZip, execution: Execution) -> None:
    resolved = data.prepare("tiny-imagenet", execution=execution, source=tiny_zip())
    first_CHW = data.load(resolved.name, execution=execution).train_images_NCHW[0]
    assert (first_CHW[0] == first_CHW[1]).all()
    assert first_CHW.std() > 0


def test_the_official_zip_has_the_official_name(
    tiny_zip: MakeZip, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_zip()
    make_official(path, monkeypatch)
    resolved = data.prepare("tiny-imagenet", execution=execution, source=path)
    assert (resolved.name, resolved.facts.full, resolved.source) == ("tiny-imagenet", True, str(path))


def test_a_full_copy_of_unknown_content_is_called_unchecked(
    tiny_zip: MakeZip, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_zip()
    make_official(path, monkeypatch)
    monkeypatch.setattr(tiny_imagenet, "MD5", "0" * 32)
    facts = data.prepare("tiny-imagenet", execution=execution, source=path).facts
    assert facts.name.startswith("tiny-imagenet@")
    assert facts.label == "Tiny-ImageNet (unchecked full copy)"
    assert facts.caveat == "an unchecked full copy"


def test_a_zip_of_another_size_is_not_hashed(
    tiny_zip: MakeZip, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchvision.datasets.utils.check_integrity", lambda *_: pytest.fail("hashed"))
    data.resolve("tiny-imagenet", execution=dataclasses.replace(execution, data_dir=str(tiny_zip().parent)))


def test_the_official_md5_with_other_counts_is_refused(
    tiny_zip: MakeZip, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_zip()
    make_official(path, monkeypatch, val=50)
    with pytest.raises(RequestError, match="official md5, but"):
        data.prepare("tiny-imagenet", execution=execution, source=path)


def test_a_zip_and_the_folder_it_unpacks_to_are_one_content(
    tiny_zip: MakeZip, execution: Execution, tmp_path: Path
) -> None:
    path = tiny_zip()
    zipfile.ZipFile(path).extractall(tmp_path / "unpacked")
    from_zip = data.prepare("tiny-imagenet", execution=execution, source=path)
    from_folder = data.prepare("tiny-imagenet", execution=execution, source=tmp_path / "unpacked")
    assert from_zip.name == from_folder.name


def test_after_a_sample_was_prepared_the_plain_name_means_it(tiny_zip: MakeZip, execution: Execution) -> None:
    path = tiny_zip()
    sample = data.prepare("tiny-imagenet", execution=execution, source=path)
    resolved = data.resolve("tiny-imagenet", execution=execution)
    assert (resolved.name, resolved.ready, resolved.source) == (sample.name, True, str(path))


def test_the_official_content_comes_before_a_sample(
    tiny_zip: MakeZip, execution: Execution, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    official = tiny_zip().rename(tmp_path / "tiny-imagenet-200.zip")
    make_official(official, monkeypatch)
    sample = data.prepare("tiny-imagenet", execution=execution, source=tiny_zip(first_seed=50))
    data.prepare("tiny-imagenet", execution=execution, source=official)
    assert data.resolve("tiny-imagenet", execution=execution).name == "tiny-imagenet"
    mixed = data.load(sample.name, execution=execution).train_images_NCHW
    assert not np.array_equal(mixed, data.load("tiny-imagenet", execution=execution).train_images_NCHW)


def test_a_sample_in_the_data_folder_is_found_and_stays_a_sample(tiny_zip: MakeZip, tmp_path: Path) -> None:
    tiny_zip().rename(tmp_path / "tiny-imagenet-200.zip")
    execution = Execution(cache=str(tmp_path / "cache"), data_dir=str(tmp_path))
    assert data.resolve("tiny-imagenet", execution=execution).name.startswith("tiny-imagenet@")


def test_a_worker_elsewhere_decodes_it_again_from_its_source(tiny_zip: MakeZip, execution: Execution) -> None:
    path = tiny_zip()
    name = data.prepare("tiny-imagenet", execution=execution, source=path).name
    elsewhere = Execution(cache=execution.cache + "-elsewhere", sources={name: str(path)})
    assert data.load(name, execution=elsewhere).facts.name == name


def test_changed_content_is_not_taken_for_what_was_planned(tiny_zip: MakeZip, execution: Execution) -> None:
    name = data.prepare("tiny-imagenet", execution=execution, source=tiny_zip()).name
    elsewhere = Execution(cache=execution.cache + "-elsewhere", sources={name: str(tiny_zip(first_seed=50))})
    with pytest.raises(RequestError, match="was asked for"):
        data.load(name, execution=elsewhere)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ("", "differ in 4 names"),
        ("val_4.JPEG\tn99\t0", "unknown class 'n99'"),
        ("val_4.JPEG", "unknown class ''"),
        ("../../x\tn01\n", "differ in 5 names"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(
    tiny_zip: MakeZip, execution: Execution, annotations: str, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        data.prepare("tiny-imagenet", execution=execution, source=tiny_zip(annotations=annotations))


def test_a_truncated_zip_is_refused(tiny_zip: MakeZip, execution: Execution) -> None:
    path = tiny_zip()
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RequestError, match="cannot be read as a zip"):
        data.prepare("tiny-imagenet", execution=execution, source=path)


def test_a_damaged_image_in_the_zip_is_named(tiny_zip: MakeZip, execution: Execution) -> None:
    path = tiny_zip()
    content = bytearray(path.read_bytes())
    start = content.index(b"train/n01/images/n01_1.JPEG") + 200
    content[start : start + 50] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"n01_1.JPEG"):
        data.prepare("tiny-imagenet", execution=execution, source=path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path, execution: Execution) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(RequestError, match=r"is not Tiny-ImageNet: no wnids\.txt"):
        data.prepare("tiny-imagenet", execution=execution, source=tmp_path / "other.zip")
