"""Near-identical images in two parts: test images must not be among the training images.

Candidates agree in at least 56 of the 64 bits of a difference hash (which of two neighbouring fields of a
9×8 grid is brighter); they count when their pixels differ, on average, by at most 35 % of the images' own
standard deviation. Seen on CIFAR-10: about 140 test images, the same photograph nearly every time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import float32, int64, uint8, uint64
    from numpy.typing import NDArray

MAX_BITS = 8
MAX_DEVIATION = 0.35  # of the standard deviation; two aeroplanes over one landscape come at 0.4
ALWAYS = 4.0  # grey levels that count as equal, however flat the images
MAX_CANDIDATES = 200_000  # enough to say that there are many
BLOCK = 64


def near_identical(images_NCHW: NDArray[uint8], others_MCHW: NDArray[uint8]) -> dict[int, int]:
    """Positions in the first part, each with one near-identical image of the second."""
    import numpy as np

    found: dict[int, int] = {}
    for pairs_P2 in _candidates(hashes(images_NCHW), hashes(others_MCHW)):
        for start in range(0, len(pairs_P2), BLOCK):
            block = pairs_P2[start : start + BLOCK]
            here = images_NCHW[block[:, 0]].astype(np.int16)
            there = others_MCHW[block[:, 1]].astype(np.int16)
            pixels = (1, 2, 3)
            deviation_P = (here.std(axis=pixels) + there.std(axis=pixels)) / 2
            close = np.abs(here - there).mean(axis=pixels) <= np.maximum(MAX_DEVIATION * deviation_P, ALWAYS)
            for position, other in block[close].tolist():
                found.setdefault(position, other)
    return found


def hashes(images_NCHW: NDArray[uint8]) -> NDArray[uint64]:
    """The difference hash of each image, 64 bits (N,)."""
    import numpy as np

    size = images_NCHW.shape[-1]
    rows_8H, columns_9W = _fields(8, size), _fields(9, size)
    blocks = []
    for start in range(0, len(images_NCHW), BLOCK):
        grey_NHW = images_NCHW[start : start + BLOCK].mean(axis=1, dtype=np.float32)
        fields_N89 = rows_8H @ grey_NHW @ columns_9W.T
        brighter_N88 = fields_N89[:, :, 1:] > fields_N89[:, :, :-1]
        blocks.append(np.packbits(brighter_N88.reshape(-1, 64), axis=1).view(np.uint64)[:, 0])
    return np.concatenate(blocks)


def _fields(count: int, size: int) -> NDArray[float32]:
    """Weights (count, size) that average pixels over `count` equal stretches."""
    import numpy as np

    edges = np.arange(count + 1) * size / count
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) * count / size).astype(np.float32)


def _candidates(hashes_N: NDArray[uint64], others_M: NDArray[uint64]) -> Iterator[NDArray[int64]]:
    """Pairs (P, 2) of positions whose hashes differ in at most `MAX_BITS` bits, a block at a time."""
    import numpy as np

    seen = 0
    for start in range(0, len(hashes_N), BLOCK):
        alike_BM = np.bitwise_count(hashes_N[start : start + BLOCK, None] ^ others_M) <= MAX_BITS
        if alike_BM.any():  # rarely, and `argwhere` is slow
            pairs_P2 = np.argwhere(alike_BM)
            pairs_P2[:, 0] += start
            seen += len(pairs_P2)
            yield pairs_P2
        if seen > MAX_CANDIDATES:
            return
