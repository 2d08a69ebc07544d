"""`torchvision:NAME`: listed facts, torchvision's own files."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from tfkd_cli import data
from tfkd_cli.data.torchvision_sets import KNOWN
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution

MakeFolder = Callable[..., Path]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_each_listed_name_is_one_of_torchvision(name: str, execution: Execution) -> None:
    assert hasattr(datasets, name)
    resolved = data.resolve(f"torchvision:{name.lower()}", execution=execution)
    assert (resolved.name, resolved.available) == (f"torchvision:{name}", False)
    assert 28 <= resolved.facts.size <= 64


def test_a_set_with_a_name_of_its_own_here_is_that_one(execution: Execution) -> None:
    assert data.resolve("torchvision:CIFAR100", execution=execution).name == "cifar100"


def test_an_unlisted_name_is_refused_with_the_nearest(execution: Execution) -> None:
    with pytest.raises(RequestError, match='did you mean "EuroSAT"'):
        data.resolve("torchvision:EuroSAD", execution=execution)


def test_files_that_are_not_here_are_asked_for(execution: Execution) -> None:
    with pytest.raises(RequestError, match=r"MNIST is not on this machine(.|\n)*tfkd data torchvision:MNIST"):
        data.prepare("torchvision:mnist", execution=execution)


def test_a_set_without_parts_is_split_here(make_folder: MakeFolder, tmp_path: Path) -> None:
    shutil.copytree(make_folder({"Forest": 20, "River": 20}, size=(64, 64)), tmp_path / "files/eurosat/2750")
    execution = Execution(cache=str(tmp_path / "cache"), data_dir=str(tmp_path / "files"))
    resolved = data.prepare("torchvision:eurosat", execution=execution)
    facts = resolved.facts
    assert (facts.train_images, facts.val_images, facts.test_images) == (28, 6, 6)
    arrays = data.load("torchvision:EuroSAT", execution=execution)
    assert arrays.train_images_NCHW.shape == (28, 3, 64, 64)
    assert arrays.class_names == ("Forest", "River")


def test_a_set_with_parts_keeps_them(tmp_path: Path, execution: Execution) -> None:
    raw = tmp_path / "files" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 5), ("t10k", 3)):
        sizes = [each.to_bytes(4, "big") for each in (count, 28, 28)]
        images = bytes((0, 0, 8, 3)) + b"".join(sizes) + bytes(range(count)) * 784
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        labels = bytes((0, 0, 8, 1)) + sizes[0] + bytes(range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    data.prepare("torchvision:MNIST", execution=execution, source=tmp_path / "files")
    arrays = data.load("torchvision:MNIST", execution=execution)
    assert arrays.train_images_NCHW.shape == (5, 1, 28, 28)
    assert arrays.test_labels_N.tolist() == [0, 1, 2]
    assert arrays.train_images_NCHW[0].reshape(-1)[:6].tolist() == [0, 1, 2, 3, 4, 0]
    large = data.prepare("torchvision224:MNIST", execution=execution, source=tmp_path / "files")
    assert large.name == "torchvision224:MNIST"
    assert data.load(large.name, execution=execution).train_images_NCHW.shape == (5, 3, 224, 224)


def test_a_broken_set_is_refused_with_torchvisions_words(tmp_path: Path, execution: Execution) -> None:
    (tmp_path / "files" / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "files" / "MNIST" / "raw" / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(RequestError, match="torchvision:MNIST cannot be read"):
        data.prepare("torchvision:MNIST", execution=execution, source=tmp_path / "files")


def test_sixteen_pixels_are_upscaled_for_the_networks(execution: Execution) -> None:
    facts = data.resolve("torchvision:usps", execution=execution).facts
    assert facts.size == 32
    assert np.isclose(facts.mean[0], 0.5)
