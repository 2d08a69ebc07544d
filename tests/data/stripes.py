"""A data set in one file: horizontal and vertical stripes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfkd_cli.data import DataSet
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.reader import EMBEDDED, Progress

STRIPES = DataSet(
    name="stripes",
    label="Stripes",
    classes=2,
    channels=3,
    size=28,
    train_images=10,
    test_images=4,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    augmentation="none",
    module=__name__,
)
DOWNLOAD = None


def locate(places: Sequence[Path], facts: DataSet) -> Path:
    return EMBEDDED


def identify(path: Path, facts: DataSet, *, cache: Path) -> DataSet:
    return facts


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    horizontal = np.zeros((3, 28, 28), np.uint8)
    horizontal[:, ::2] = 255
    for part, count in (("train", facts.train_images), ("test", facts.test_images)):
        labels = [position % 2 for position in range(count)]
        images = [horizontal.transpose(0, 2, 1) if label else horizontal for label in labels]
        draft.write(part, [np.stack(images)], labels)
    draft.class_names = ("horizontal", "vertical")
    return facts


def fetch(facts: DataSet, folder: Path) -> Path:
    raise NotImplementedError
