"""A validation part for a data set that has none: a share of its training images, held out."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from tfkd_cli.data.facts import Arrays
from tfkd_cli.data.image_files import ImageFiles
from tfkd_cli.data.split import split


def hold_out(arrays: Arrays, share: float) -> Arrays:
    """`arrays` with this share of the training images, by class and content, as its validation part.

    A data set that has a validation part, or a share of 0, is given back as it is.
    """
    if share == 0 or arrays.val_images_NCHW is not None:
        return arrays
    images_NCHW: Any = arrays.train_images_NCHW  # or ImageFiles
    labels_N = arrays.train_labels_N
    hashes = (
        images_NCHW.hashes()
        if isinstance(images_NCHW, ImageFiles)
        else [hashlib.sha256(image.tobytes()).digest() for image in images_NCHW]
    )
    parts = split(
        hashes,
        [int(label) for label in labels_N],
        {"train": 1 - share, "val": share},
        names=arrays.class_names,
    )
    train, val = parts["train"], parts["val"]
    return replace(
        arrays,
        facts=replace(arrays.facts, train_images=len(train), val_images=len(val)),
        train_images_NCHW=images_NCHW[train],
        train_labels_N=labels_N[train],
        val_images_NCHW=images_NCHW[val],
        val_labels_N=labels_N[val],
    )
