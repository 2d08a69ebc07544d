"""Splitting images into parts, or a validation part off the training images: by class, by content."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tfkd_cli.data.facts import Arrays
from tfkd_cli.data.image_files import ImageFiles
from tfkd_cli.errors import RequestError

SEED = 0


def split(
    hashes: Sequence[bytes],
    labels: Sequence[int],
    shares: Mapping[str, float],
    *,
    names: Sequence[str] = (),
    seed: int = SEED,
) -> dict[str, list[int]]:
    """Positions of each part, in order: within each class by sha256 of seed and mark.

    Equal hashes (the same content twice) stay in one part. The first part takes what rounding leaves; each
    other part gets at least one content_hash of each class. RequestError when a class has too few.
    """
    of_class: dict[int, dict[bytes, list[int]]] = defaultdict(lambda: defaultdict(list))
    for position, (content_hash, label) in enumerate(zip(hashes, labels, strict=True)):
        of_class[label][hashlib.sha256(b"%d:" % seed + content_hash).digest()].append(position)
    parts: dict[str, list[int]] = {part: [] for part in shares}
    for label in sorted(of_class):
        groups = [of_class[label][key] for key in sorted(of_class[label])]
        if len(groups) < len(shares):
            raise RequestError(
                f"class {(names[label] if names else label)!r} has {len(groups)} different "
                f"image{'s' * (len(groups) != 1)}.",
                expected=f"at least {len(shares)}, one for each of {', '.join(shares)}.",
                hint="add images of it, or take the class away.",
            )
        first, *others = shares
        for left, part in zip(range(len(others), 0, -1), others, strict=True):
            count = max(1, math.floor(shares[part] * sum(map(len, of_class[label].values())) + 0.5))
            while count > 0 and len(groups) > left:  # the parts still to come get one each
                group = groups.pop()
                parts[part] += group
                count -= len(group)
        parts[first] += [position for group in groups for position in group]
    return {part: sorted(positions) for part, positions in parts.items()}


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
