"""digits: scikit-learn's 1,797 handwritten digits, upscaled from 8×8 to 32×32; needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli.data.cache import Draft
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.reader import Progress
from tfkd_cli.data.split import split

if TYPE_CHECKING:
    from numpy import int64, uint8
    from numpy.typing import NDArray

SHARES = {"train": 0.8, "test": 0.2}  # of each digit
FACTOR = 4


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """The upscaled images in a split that never changes."""
    from sklearn.datasets import load_digits

    images_N64, labels_N = load_digits(return_X_y=True)
    images_NHW = upscale(images_N64.reshape(-1, 8, 8).astype("int64"))
    # by position: the digits of one writer stand together, and scikit-learn never reorders them
    parts = split([str(i).encode() for i in range(len(labels_N))], labels_N.tolist(), SHARES)
    for part, positions in parts.items():
        draft.write(part, [images_NHW[positions][:, None]], labels_N[positions])
    draft.class_names = tuple("0123456789")
    progress("decoding", 1.0)
    return facts


def upscale(images_NHW: NDArray[int64]) -> NDArray[uint8]:
    """Values 0 … 16 on 8×8 to 0 … 255 on 32×32: bilinear in whole numbers, so the same everywhere."""
    import numpy as np

    size = images_NHW.shape[-1]
    # An output pixel's middle lies (2i + 1)/8 - 1/2 source pixels from the first one: weights in eighths.
    middles = 2 * np.arange(size * FACTOR) + 1 - FACTOR
    weights = np.zeros((size * FACTOR, size), dtype=np.int64)
    for step, share in ((0, 8 - middles % 8), (1, middles % 8)):
        nearest = (middles // 8 + step).clip(0, size - 1)
        np.add.at(weights, (np.arange(len(middles)), nearest), share)
    scaled_NHW = weights @ images_NHW @ weights.T * 255  # × 64 × 16
    return ((scaled_NHW + 512) // 1024).astype(np.uint8)
