"""CIFAR and Fashion-MNIST from files in their official layouts: the bytes decide, never the name."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from tfkd_cli import data
from tfkd_cli.data import fashion_mnist
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small batches whose md5 sums torchvision's class now expects."""
    folder = tmp_path / "official" / "cifar-100-python"
    folder.mkdir(parents=True)
    pixels = np.arange(4 * 3072, dtype=np.uint64).astype(np.uint8).reshape(4, -1)
    contents = {
        "train": {"data": pixels, "fine_labels": [0, 1, 1, 0]},
        "test": {"data": pixels[:2], "fine_labels": [1, 0]},
        "meta": {"fine_label_names": ["apple", "bear"]},
    }
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = md5((folder / name).read_bytes())
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setitem(datasets.CIFAR100.meta, "md5", sums["meta"])
    return folder


def packed(folder: Path) -> Path:
    path = folder.with_name("cifar-100-python.tar.gz")
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, folder.name)
    return path


def listing(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(each), each.stat().st_mtime_ns) for each in folder.rglob("*"))


def test_cifar_is_read_from_a_data_folder_that_is_left_as_it_is(cifar100: Path, tmp_path: Path) -> None:
    execution = Execution(cache=str(tmp_path / "cache"), data_dir=str(cifar100.parent))
    before = listing(cifar100.parent)
    resolved = data.resolve("cifar100", execution=execution)
    assert (resolved.available, resolved.ready, resolved.source) == (True, False, str(cifar100))
    arrays = data.load("cifar100", execution=execution)
    assert arrays.train_images_NCHW.reshape(-1)[:300].tolist() == [i % 256 for i in range(300)]
    assert arrays.train_labels_N.tolist() == [0, 1, 1, 0]
    assert arrays.class_names == ("apple", "bear")
    assert listing(cifar100.parent) == before


def test_cifar_is_read_from_its_tar_without_unpacking_it(cifar100: Path, execution: Execution) -> None:
    archive = packed(cifar100)
    data.prepare("cifar100", execution=execution, source=archive)
    assert data.load("cifar100", execution=execution).test_labels_N.tolist() == [1, 0]


def test_a_prepared_set_needs_its_files_no_longer(cifar100: Path, execution: Execution) -> None:
    data.prepare("cifar100", execution=execution, source=cifar100)
    (cifar100 / "train").unlink()
    resolved = data.resolve("cifar100", execution=execution)
    assert (resolved.ready, resolved.name) == (True, "cifar100")


def test_a_changed_pickle_is_refused_before_it_is_opened(cifar100: Path, execution: Execution) -> None:
    (cifar100 / "train").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(RequestError, match=r"train: is not the official file \(its md5 differs\)"):
        data.prepare("cifar100", execution=execution, source=cifar100)
    assert not Path("pwned").exists()


def test_a_missing_batch_is_named(cifar100: Path, execution: Execution) -> None:
    (cifar100 / "test").unlink()
    with pytest.raises(RequestError, match=r"test: is not the official file \(it is not there"):
        data.prepare("cifar100", execution=execution, source=cifar100)


def test_a_truncated_tar_is_refused(cifar100: Path, execution: Execution) -> None:
    archive = packed(cifar100)
    archive.write_bytes(archive.read_bytes()[:500])
    with pytest.raises(RequestError, match=r"cannot be read as a tar.gz"):
        data.prepare("cifar100", execution=execution, source=archive)


def test_cifar10_is_normalised_as_the_released_code_does() -> None:
    assert data.dataset("cifar10").mean == data.dataset("cifar100").mean


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture(params=["packed", "plain"])
def fashion(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small idx files whose md5 sums are now the expected ones."""
    folder = tmp_path / "files" / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 3), ("t10k", 2)):
        for name, array in (
            (f"{part}-images-idx3-ubyte", np.full((count, 28, 28), count)),
            (f"{part}-labels-idx1-ubyte", np.arange(count)),
        ):
            content = idx(array)
            monkeypatch.setitem(fashion_mnist.MD5, name, md5(content))
            if request.param == "packed":
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / name).write_bytes(content)
    return folder


def test_fashion_mnist_is_read_from_a_folder(fashion: Path, execution: Execution) -> None:
    data.prepare("fashion-mnist", execution=execution, source=fashion.parents[1])
    arrays = data.load("fashion-mnist", execution=execution)
    assert arrays.train_images_NCHW.shape == (3, 1, 28, 28)
    assert arrays.test_labels_N.tolist() == [0, 1]
    assert arrays.class_names[9] == "Ankle boot"


def test_debians_package_is_found_by_itself(
    fashion: Path, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN", (fashion,))
    assert data.resolve("fashion-mnist", execution=execution).available
    assert data.load("fashion-mnist", execution=execution).facts.full


@pytest.mark.parametrize("content", [b"", b"not gzip", gzip.compress(b"\0\0\x08\x03", mtime=0)])
def test_a_damaged_fashion_mnist_is_refused(fashion: Path, execution: Execution, content: bytes) -> None:
    (fashion / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(
        RequestError, match=r"train-images-idx3-ubyte.gz: (is not the official|cannot be unpacked)"
    ):
        data.prepare("fashion-mnist", execution=execution, source=fashion)


def test_downloaded_files_are_found_again(
    cifar100: Path, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(cifar100)
    asked = io.StringIO()

    def download(url: str, root: str, *, filename: str, md5: str) -> None:
        asked.write(url)
        (Path(root) / filename).write_bytes(archive.read_bytes())

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    data.prepare("cifar100", execution=execution, allow_download=True)
    assert asked.getvalue().endswith("cifar-100-python.tar.gz")
    data.prepare("cifar100", execution=execution, allow_download=True)
    assert asked.getvalue().count("http") == 1
