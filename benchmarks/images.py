"""The images a benchmark trains on: synthetic ones, or a folder of the user's."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tfkd_cli import data
from tfkd_cli.data import Arrays
from tfkd_cli.execution import Execution

CLASSES, SIZE = 10, 32
TRAIN_IMAGES, TEST_IMAGES = 5_000, 1_000


def write_synthetic(folder: Path, *, train: int = TRAIN_IMAGES, test: int = TEST_IMAGES) -> Path:
    """Smooth colour fields, one per class and noise on it, as JPEG files in train/CLASS and test/CLASS."""
    random = np.random.default_rng(0)
    fields_KHWC = [_smooth(random, scale=60) for _ in range(CLASSES)]
    for part, number in (("train", train), ("test", test)):
        for label, field_HWC in enumerate(fields_KHWC):
            place = folder / part / f"class{label}"
            place.mkdir(parents=True)
            for index in range(number // CLASSES):
                values = 128 + field_HWC + _smooth(random, scale=60) + random.normal(0, 10, (SIZE, SIZE, 3))
                pixels = values.clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{index:04d}.jpg", quality=92)
    return folder


def write_few(folder: Path, target: Path, *, train: int = TRAIN_IMAGES, test: int = TEST_IMAGES) -> Path:
    """At most so many images of train/CLASS and test/CLASS, as many of each class, copied to `target`."""
    for part, number in (("train", train), ("test", test)):
        classes = sorted(each for each in (folder / part).iterdir() if each.is_dir())
        for each in classes:
            place = target / part / each.name
            place.mkdir(parents=True)
            for file in sorted(each.iterdir())[: max(1, number // len(classes))]:
                shutil.copy(file, place)
    return target


def _smooth(random: np.random.Generator, *, scale: float) -> npt.NDArray[np.float32]:
    coarse = random.normal(0, scale, (3, 4, 4)).astype(np.float32)
    planes = [Image.fromarray(plane).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for plane in coarse]
    return np.stack([np.asarray(plane) for plane in planes], axis=2)


def prepare(folder: Path, *, cache: Path) -> str:
    """Decode the folder into `cache`; the data set's resolved name."""
    print(f"decoding {folder} …", file=sys.stderr)
    return data.prepare(f"folder:{folder}", execution=Execution(cache=str(cache))).name


def load(name: str, *, cache: Path) -> Arrays:
    """The decoded images."""
    return data.load(name, execution=Execution(cache=str(cache)))


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for images, caches and results, gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="tfkd-bench-")
