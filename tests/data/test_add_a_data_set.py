"""Adding a data set is one entry in `DATASETS` and one file with five small functions."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from tfkd_cli import data
from tfkd_cli.execution import Execution

THE_FILE = '''
"""stripes: horizontal or vertical ones."""

import numpy as np

from tfkd_cli.data.reader import EMBEDDED

DOWNLOAD = None


def locate(places, facts):
    return EMBEDDED


def identify(path, facts, *, cache):
    return facts


def decode(path, facts, draft, *, progress):
    horizontal = np.zeros((3, 28, 28), np.uint8)
    horizontal[:, ::2] = 255
    for part, count in (("train", facts.train_images), ("test", facts.test_images)):
        labels = [position % 2 for position in range(count)]
        images = [horizontal.transpose(0, 2, 1) if label else horizontal for label in labels]
        draft.write(part, [np.stack(images)], labels)
    draft.class_names = ("horizontal", "vertical")
    return facts


def fetch(facts, folder):
    raise NotImplementedError
'''


def test_a_data_set_is_one_entry_and_one_file(
    tmp_path: Path, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stripes_for_a_test.py").write_text(THE_FILE)
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = dataclasses.replace(
        data.DATASETS["cifar10"],
        name="stripes",
        label="Stripes",
        classes=2,
        size=28,
        train_images=10,
        test_images=4,
        module="stripes_for_a_test",
    )
    monkeypatch.setitem(data.DATASETS, "stripes", entry)
    assert data.dataset("Stripes") == entry
    assert data.prepare("stripes", execution=execution).ready
    arrays = data.load("stripes", execution=execution)
    assert arrays.class_names == ("horizontal", "vertical")
    assert arrays.train_images_NCHW.shape == (10, 3, 28, 28)
    sys.modules.pop("stripes_for_a_test")
