"""A folder in ImageNet's layout, of images made here: train/WNID/*.JPEG and val/WNID/*.JPEG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n02102040", "n03000684")


def make(folder: Path, *, train: int = 3, val: int = 2) -> Path:
    """Noise in the colour of its class, 96×80 pixels; named as ImageNet names its files."""
    numbers = np.random.default_rng(0)
    for label, wnid in enumerate(WNIDS):
        names = {
            "train": [f"{wnid}_{number}" for number in range(train)],
            "val": [f"ILSVRC2012_val_{label * val + number:08d}" for number in range(val)],
        }
        for part, files in names.items():
            (folder / part / wnid).mkdir(parents=True)
            for name in files:
                pixels = numbers.integers(0, 156, (80, 96, 3), dtype=np.uint8)
                pixels[..., label] += 100
                Image.fromarray(pixels).save(folder / part / wnid / f"{name}.JPEG")
    return folder
