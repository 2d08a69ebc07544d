"""Networks whose steps take time and no cores: `python:slow_networks:slow`. Numbers do not depend on it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from torch import nn

DIGITS_PIXELS = 32 * 32


class Slow(nn.Module):
    """A linear classifier that sleeps in each step of training; a file named by `$DRILL_CRASH` is fatal."""

    seconds = 0.2

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, classes)

    def forward(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits of shape (N, K)."""
        if self.training:
            time.sleep(self.seconds)
            crash = os.environ.get("DRILL_CRASH")
            if crash and Path(crash).exists():
                raise RuntimeError("the drill's crash")
        logits_NK: torch.Tensor = self.fc(images_NCHW.flatten(1))
        return logits_NK


class Quick(Slow):
    """The same without the sleep."""

    seconds = 0.0


def slow(num_classes: int) -> nn.Module:
    """A `Slow` for digits."""
    return Slow(DIGITS_PIXELS, num_classes)


def quick(num_classes: int) -> nn.Module:
    """A `Quick` for digits."""
    return Quick(DIGITS_PIXELS, num_classes)
