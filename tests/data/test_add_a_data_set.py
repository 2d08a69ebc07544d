"""Adding a data set is one entry in `DATASETS` and one file with four small functions."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from tfkd_cli import data
from tfkd_cli.execution import Execution


def test_a_data_set_is_one_entry_and_one_file(execution: Execution, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs" / "examples"))
    entry = dataclasses.replace(data.dataset("python:stripes:STRIPES"), name="stripes")
    monkeypatch.setitem(data.DATASETS, "stripes", entry)
    assert data.dataset("Stripes") == entry
    assert data.prepare("stripes", execution=execution).ready
    arrays = data.load("stripes", execution=execution)
    assert arrays.class_names == ("horizontal", "vertical")
    assert arrays.train_images_NCHW.shape == (40, 3, 28, 28)
    sys.modules.pop("stripes")
