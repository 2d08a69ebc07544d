"""CIFAR-10 and CIFAR-100: the official python files, in a folder or in their tar.gz, read by torchvision.

Unpickling runs code, so nothing is opened before its md5 was found to be the official one.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfkd_cli.data.cache import Draft
from tfkd_cli.data.download import load_file
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.reader import Progress, not_official

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


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """The pixels of the batches, as they are."""
    if path.is_dir():
        return _decode(path, facts, draft, progress)
    with tempfile.TemporaryDirectory(dir=draft.folder) as folder:
        try:
            shutil.unpack_archive(path, folder, "gztar", filter="data")
        except Exception as error:  # tarfile, gzip and zlib raise many kinds on damaged input
            raise not_official(path, f"cannot be read as a tar.gz: {error}", name=facts.name) from error
        return _decode(Path(folder) / NAMES[facts.name][0], facts, draft, progress)


def _decode(folder: Path, facts: DataSet, draft: Draft, progress: Progress) -> DataSet:
    from torchvision.datasets.utils import check_integrity

    official = _official(facts)
    meta = official.meta["filename"], official.meta["md5"]
    for name, md5 in (*official.train_list, *official.test_list, meta):
        if not check_integrity(str(folder / name), md5):
            what = "its md5 differs" if (folder / name).exists() else "it is not there"
            raise not_official(folder / name, f"is not the official file ({what})", name=facts.name)
    official.base_folder = folder.name
    for part in ("train", "test"):
        content = official(str(folder.parent), train=part == "train")
        draft.write(part, [content.data.transpose(0, 3, 1, 2)], content.targets)
        draft.class_names = tuple(content.classes)
        progress(f"decoding {part}", 1.0)
    return facts


def fetch(facts: DataSet, folder: Path) -> Path:
    """The official tar.gz, md5 checked."""
    official = _official(facts)
    return load_file(official.url, folder, md5=official.tgz_md5)


def _official(facts: DataSet) -> Any:
    """A class made of torchvision's, which knows addresses, file names and md5 sums."""
    from torchvision import datasets

    of_torchvision = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[facts.name]
    return type(facts.name, (of_torchvision,), {})
