"""CIFAR-10 and CIFAR-100: the official python files, in a folder or still in their tar.gz, md5 checked."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.data.cache import Draft
from tfkd_cli.data.download import load_file
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.files import read_file
from tfkd_cli.data.reader import Progress, not_official

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

DOWNLOAD: str | None = "the python files from www.cs.toronto.edu, 170 MB"

# folder, archive, and a file that only this data set has (locating must not import torchvision)
NAMES = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz", "batches.meta"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz", "meta"),
}


def locate(places: Sequence[Path], facts: DataSet) -> Path | None:
    """The folder with the batches, or the tar.gz."""
    folder, archive, telling = NAMES[facts.name]
    for place in places:
        if place.is_file():
            return place
        for candidate in (place / folder, place / archive, place):
            if candidate.is_file() or (candidate / telling).is_file():
                return candidate
    return None


def identify(path: Path, facts: DataSet, *, cache: Path) -> DataSet:
    """The official facts: other content is refused when it is decoded."""
    return facts


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """The pixels of the batches, as they are."""
    official, read = _official(facts), _opened(path, facts)
    for part, files in (("train", official.train_list), ("test", official.test_list)):
        batches = [_batch(read(name), path / name, digest, facts) for name, digest in files]
        key = "fine_labels" if facts.name == "cifar100" else "labels"
        labels = [label for batch in batches for label in batch[key]]
        draft.write(part, (_pixels(batch) for batch in batches), labels)
        progress(f"decoding {part}", 1.0)
    meta = official.meta
    names = _batch(read(meta["filename"]), path / meta["filename"], meta["md5"], facts)[meta["key"]]
    draft.class_names = tuple(names)
    return facts


def fetch(facts: DataSet, folder: Path) -> Path:
    """The official tar.gz, md5 checked."""
    official = _official(facts)
    return load_file(official.url, folder, md5=official.tgz_md5)


def _official(facts: DataSet) -> Any:
    """torchvision's class: it knows addresses, file names and md5 sums."""
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[facts.name]


def _opened(path: Path, facts: DataSet) -> Callable[[str], bytes]:
    """A function from file name to bytes; a tar.gz is read once, into memory, never unpacked."""
    if path.is_dir():
        return lambda name: read_file(path / name)
    folder = NAMES[facts.name][0]
    files = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                if member.isfile() and member.name.startswith(f"{folder}/") and member.size < 1 << 28:
                    content = archive.extractfile(member)
                    files[member.name.removeprefix(f"{folder}/")] = content.read() if content else b""
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise not_official(path, f"cannot be read as a tar.gz: {error}", name=facts.name) from error
    return lambda name: files.get(name, b"")


def _batch(data: bytes, path: Path, md5: str, facts: DataSet) -> dict[str, Any]:
    """One pickled batch. Unpickling runs code, so nothing but the official bytes comes this far."""
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != md5:
        what = "is not the official file (its md5 differs)" if data else "is not there"
        raise not_official(path, what, name=facts.name)
    batch: dict[str, Any] = pickle.loads(data, encoding="latin1")
    return batch


def _pixels(batch: dict[str, Any]) -> NDArray[uint8]:
    pixels_NCHW: NDArray[uint8] = batch["data"].reshape(-1, 3, 32, 32)
    return pixels_NCHW
