"""A linear classifier of averaged pixels, as a network outside tfkd.

tfkd run --student python:pooled:pooled_pixels --dataset python:stripes:STRIPES --method lsr
"""

from __future__ import annotations

from torch import nn


def pooled_pixels(*, num_classes: int) -> nn.Module:
    """Takes images (N, 3, H, W) of any size, and gives logits (N, num_classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(3 * 4 * 4, num_classes))
