"""Adding a network is one file and its entry in NETWORKS."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tfkd_cli import models

FILE = """
from torch import nn


def pooled_pixels(*, classes, channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, classes))
"""


def test_a_network_is_one_file_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pooled_pixels_network.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    entry = models.Network(
        name="pooled-pixels", label="Pooled pixels", module="pooled_pixels_network", factory="pooled_pixels"
    )
    monkeypatch.setattr(models, "NETWORKS", {**models.NETWORKS, entry.name: entry})

    assert models.resolve("Pooled_Pixels") == "pooled-pixels"
    network = models.build("pooled-pixels", classes=5, channels=3, size=32)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    assert models.parameters("pooled-pixels") is None  # unless the entry says so
