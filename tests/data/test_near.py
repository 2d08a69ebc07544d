"""Near-identical images across parts."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from tfkd_cli.data.near import near_identical


def photographs(number: int, *, seed: int = 0) -> np.ndarray:
    """Smooth coloured images, as photographs are; NCHW."""
    fields = np.random.RandomState(seed).randint(0, 256, (number, 5, 5, 3), dtype=np.uint8)
    large = [Image.fromarray(each).resize((48, 48), Image.Resampling.BICUBIC) for each in fields]
    return np.stack([np.asarray(each) for each in large]).transpose(0, 3, 1, 2)


def as_jpeg(image_CHW: np.ndarray, *, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image_CHW.transpose(1, 2, 0)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).transpose(2, 0, 1)


def test_different_photographs_are_not_near_identical() -> None:
    assert near_identical(photographs(300), photographs(300, seed=1)) == {}


def test_copies_and_recompressed_or_brightened_copies_are_found() -> None:
    train = photographs(200)
    test = photographs(60, seed=1)
    test[5] = train[150]
    test[33] = as_jpeg(train[7], quality=60)
    test[59] = (train[199] * 0.95 + 8).astype(np.uint8)
    assert near_identical(test, train) == {5: 150, 33: 7, 59: 199}


def test_flat_images_of_other_shades_are_not_near_identical() -> None:
    dark, light = np.full((1, 1, 32, 32), 20, np.uint8), np.full((1, 1, 32, 32), 60, np.uint8)
    assert near_identical(dark, light) == {}
    assert near_identical(dark, dark + 1) == {0: 0}
