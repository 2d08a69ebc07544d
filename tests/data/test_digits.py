"""digits: the same images in the same parts, for ever."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfkd_cli import data
from tfkd_cli.data.digits import upscale
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution

PINNED = {"train": "4abcaa322cc7", "test": "c25c9191f868"}  # a change here must raise the trainer version


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> data.Arrays:
    execution = Execution(cache=str(tmp_path_factory.mktemp("cache")))
    data.prepare("digits", execution=execution)
    return data.load("digits", execution=execution)


def test_the_arrays_are_what_the_facts_say(digits: data.Arrays) -> None:
    facts = digits.facts
    assert digits.train_images_NCHW.shape == (facts.train_images, 1, 32, 32)
    assert digits.test_images_NCHW.shape == (facts.test_images, 1, 32, 32)
    assert digits.train_images_NCHW.dtype == np.uint8
    assert digits.train_labels_N.dtype == np.int64
    assert digits.class_names == tuple("0123456789")
    pixels = digits.train_images_NCHW / 255
    assert (pixels.mean(), pixels.std()) == pytest.approx((facts.mean[0], facts.std[0]), abs=1e-4)


def test_each_digit_is_split_alike(digits: data.Arrays) -> None:
    train, test = np.bincount(digits.train_labels_N), np.bincount(digits.test_labels_N)
    assert np.abs(test / (train + test) - 0.2).max() < 0.01


def test_images_and_split_never_change(digits: data.Arrays) -> None:
    parts = {
        "train": digits.train_images_NCHW.tobytes() + digits.train_labels_N.tobytes(),
        "test": digits.test_images_NCHW.tobytes() + digits.test_labels_N.tobytes(),
    }
    assert {part: hashlib.sha256(content).hexdigest()[:12] for part, content in parts.items()} == PINNED


def test_upscaling_is_bilinear() -> None:
    images_NHW = np.random.RandomState(0).randint(0, 17, (5, 8, 8))
    for image_HW, upscaled_HW in zip(images_NHW, upscale(images_NHW), strict=True):
        image = Image.fromarray((image_HW * 255 / 16).astype(np.float32))
        expected_HW = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR))
        assert np.abs(upscaled_HW - expected_HW).max() <= 0.5 + 1e-3


def test_a_source_for_embedded_images_is_refused_not_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match="holds nothing of"):
        data.prepare("digits", execution=Execution(cache=str(tmp_path / "cache")), source=Path())
