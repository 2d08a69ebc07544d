"""Horizontal and vertical stripes, as a data set outside tfkd.

tfkd run --student plain-cnn --dataset python:stripes:STRIPES --method lsr
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tfkd_cli.data import DataSet
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.reader import Progress

STRIPES = DataSet(
    name="stripes",
    label="Stripes",
    classes=2,
    channels=3,
    size=28,
    train_images=40,
    test_images=20,
    mean=(0.5,) * 3,
    std=(0.5,) * 3,
    augmentation="none",
)


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """Write all parts: images (N, channels, size, size), uint8, in one chunk or several, and N labels."""
    for part, count, darkest in (("train", facts.train_images, 100), ("test", facts.test_images, 200)):
        images = np.zeros((count, 3, 28, 28), np.uint8)
        images[:, :, ::2] = np.arange(darkest, darkest + count)[:, None, None, None]  # no two are equal
        labels = np.arange(count) % 2
        images[labels == 1] = images[labels == 1].swapaxes(2, 3)
        draft.write(part, [images], labels.tolist())
    draft.class_names = ("horizontal", "vertical")
    return facts
