"""Images of one part that are near-identical to one of another: a test set must not be known by heart.

Candidates agree in at least 62 of the 64 bits of a difference hash (which of two neighbouring fields of a
9×8 grid is brighter); they count when their pixels differ by at most 4 grey levels on average.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import float32, int64, uint8
    from numpy.typing import NDArray

BITS = 64
MAX_BITS = 2
MAX_LEVELS = 4.0
MAX_CANDIDATES = 200_000  # enough to say that there are many
BLOCK = 256


def near_identical(images_NCHW: NDArray[uint8], others_MCHW: NDArray[uint8]) -> dict[int, int]:
    """Positions in the first part, each with one near-identical image of the second."""
    import numpy as np

    found: dict[int, int] = {}
    for pairs_P2 in _candidates(signs(images_NCHW), signs(others_MCHW)):
        for start in range(0, len(pairs_P2), BLOCK):
            block = pairs_P2[start : start + BLOCK]
            here = images_NCHW[block[:, 0]].astype(np.int16)
            there = others_MCHW[block[:, 1]].astype(np.int16)
            close = np.abs(here - there).mean(axis=(1, 2, 3)) <= MAX_LEVELS
            for position, other in block[close].tolist():
                found.setdefault(position, other)
    return found


def signs(images_NCHW: NDArray[uint8]) -> NDArray[float32]:
    """The difference hash of each image as 64 signs (N, 64): their product counts agreeing bits."""
    import numpy as np

    size = images_NCHW.shape[-1]
    rows_8H, columns_9W = _fields(8, size), _fields(9, size)
    blocks = []
    for start in range(0, len(images_NCHW), BLOCK):
        grey_NHW = images_NCHW[start : start + BLOCK].mean(axis=1, dtype=np.float32)
        fields_N89 = rows_8H @ grey_NHW @ columns_9W.T
        right_N88 = fields_N89[:, :, 1:] > fields_N89[:, :, :-1]
        blocks.append(np.where(right_N88, np.float32(1), np.float32(-1)).reshape(-1, BITS))
    return np.concatenate(blocks)


def _fields(count: int, size: int) -> NDArray[float32]:
    """Weights (count, size) that average pixels over `count` equal stretches."""
    import numpy as np

    edges = np.arange(count + 1) * size / count
    pixels = np.arange(size)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) * count / size).astype(np.float32)


def _candidates(signs_NB: NDArray[float32], others_MB: NDArray[float32]) -> Iterator[NDArray[int64]]:
    """Pairs (P, 2) of positions whose hashes differ in at most `MAX_BITS` bits, a block at a time."""
    import numpy as np

    seen = 0
    for start in range(0, len(signs_NB), BLOCK):
        agreement_NM = signs_NB[start : start + BLOCK] @ others_MB.T
        pairs = np.argwhere(agreement_NM >= BITS - 2 * MAX_BITS)
        pairs[:, 0] += start
        seen += len(pairs)
        yield pairs
        if seen > MAX_CANDIDATES:
            return
