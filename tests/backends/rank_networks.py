"""Networks for digits that several processes train; a test sets STEP_SECONDS and SILENT_BEATS for them."""

from __future__ import annotations

import os
import time

import torch
from torch import nn

from tfkd_cli.training import liveness


class Plain(nn.Module):
    """Two convolutions and a classifier, without BatchNorm; `unused` never gets a gradient."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.norm: nn.Module = nn.Identity()
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16 * 8 * 8, classes)
        self.unused = nn.Linear(2, 2)
        self.step_seconds = float(os.environ.get("STEP_SECONDS", "0"))

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits of shape (N, K)."""
        if self.training:
            time.sleep(self.step_seconds)
        maps_NCHW = self.conv2(self.norm(self.conv1(images_NCHW)).relu()).relu()
        logits_NK: torch.Tensor = self.fc(maps_NCHW.flatten(1))
        return logits_NK


class Failing(Plain):
    """It fails in the third step of rank 1."""

    steps = 0

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits of shape (N, K)."""
        self.steps += self.training
        if self.steps == 3 and os.environ.get("RANK") == "1":
            raise ValueError("the test's own failure")
        return super().forward(images_NCHW)


def plain(num_classes: int) -> nn.Module:
    """A `Plain` for digits."""
    liveness.SILENT = int(os.environ.get("SILENT_BEATS", liveness.SILENT))
    return Plain(num_classes)


def normed(num_classes: int) -> nn.Module:
    """The same with BatchNorm."""
    network = Plain(num_classes)
    network.norm = nn.BatchNorm2d(8)
    return network


def failing(num_classes: int) -> nn.Module:
    """A `Failing` for digits."""
    return Failing(num_classes)
