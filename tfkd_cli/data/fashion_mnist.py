"""Fashion-MNIST: the official idx files, from Debian's package, a folder or torchvision's address.

Judged by the md5 of what is inside: Debian packs the same files anew, so the .gz differ and these do not.
"""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli.data.cache import Draft
from tfkd_cli.data.download import load_file
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.files import read_file
from tfkd_cli.data.reader import Progress, not_official

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

DOWNLOAD: str | None = "four files from fashion-mnist.s3-website.eu-central-1.amazonaws.com, 31 MB"
# Debian's package dataset-fashion-mnist
DEBIAN = (Path("/usr/share/datasets/fashion-mnist"), Path("/usr/share/dataset-fashion-mnist"))

MD5 = {  # of the unpacked files
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
PARTS = {"train": "train", "test": "t10k"}
MAX_BYTES = 100_000_000
CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def locate(places: Sequence[Path], facts: DataSet) -> Path | None:
    """The folder that holds the idx files, packed or not."""
    for place in (*places, *DEBIAN):
        for folder in (place / "FashionMNIST" / "raw", place / "fashion-mnist", place):
            if any((folder / (next(iter(MD5)) + suffix)).is_file() for suffix in (".gz", "")):
                return folder
    return None


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """The pixels of the idx files, as they are."""
    for part, prefix in PARTS.items():
        images_NHW = _read_idx(path, f"{prefix}-images-idx3-ubyte", facts)
        labels_N = _read_idx(path, f"{prefix}-labels-idx1-ubyte", facts)
        draft.write(part, [images_NHW[:, None]], labels_N.tolist())
        progress(f"decoding {part}", 1.0)
    draft.class_names = CLASSES
    return facts


def fetch(facts: DataSet, folder: Path) -> Path:
    """The four official files, md5 checked, into a folder of their own: MNIST's have the same names."""
    from torchvision.datasets import FashionMNIST

    own = folder / "fashion-mnist"
    for name, md5 in FashionMNIST.resources:
        load_file(FashionMNIST.mirrors[0] + name, own, md5=md5)
    return own


def _read_idx(folder: Path, name: str, facts: DataSet) -> NDArray[uint8]:
    """An idx file of bytes (1 or 3 dimensions, big-endian sizes after a magic number) as an array."""
    import numpy as np

    packed = folder / f"{name}.gz"
    source = packed if packed.is_file() else folder / name
    data = read_file(source)
    try:
        data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MAX_BYTES) if source == packed else data
    except (OSError, EOFError, ValueError) as error:
        raise not_official(source, f"cannot be unpacked: {error}", name=facts.name) from error
    if hashlib.md5(data, usedforsecurity=False).hexdigest() != MD5[name]:
        raise not_official(
            source, "is not the official file (the md5 of its content differs)", name=facts.name
        )
    shape = np.frombuffer(data, ">u4", data[3], offset=4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
