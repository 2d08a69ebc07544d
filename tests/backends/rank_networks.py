"""Networks for digits without BatchNorm: several processes compute what one does."""

from __future__ import annotations

import os
import time

import torch
from torch import nn


class Plain(nn.Module):
    """Two convolutions and a classifier; `unused` never gets a gradient."""

    seconds = 0.0  # slept in each step of training

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16 * 8 * 8, classes)
        self.unused = nn.Linear(2, 2)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits of shape (N, K)."""
        if self.training:
            time.sleep(self.seconds)
        maps_NCHW = self.conv2(self.conv1(images_NCHW).relu()).relu()
        logits_NK: torch.Tensor = self.fc(maps_NCHW.flatten(1))
        return logits_NK


class Slow(Plain):
    """The same, slower."""

    seconds = 0.3


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
    return Plain(num_classes)


def slow(num_classes: int) -> nn.Module:
    """A `Slow` for digits."""
    return Slow(num_classes)


def failing(num_classes: int) -> nn.Module:
    """A `Failing` for digits."""
    return Failing(num_classes)
