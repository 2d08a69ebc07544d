"""ResNeXt for CIFAR (Xie et al. 2017): cardinality 8, base width 64, widening 4.

Source: released model/resnext.py (from prlz77/ResNeXt.pytorch); initialised as released; the average is
global instead of 8×8, which is the same at 32 px and lets 64 px in. ResNeXt101, the teacher of ResNeXt29
in Table 5, was not released: ours is the released class at depth 101 = 9·11 + 2 (assumed).
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F  # noqa: TID253, N812  reached only through importlib
from torch import Tensor, nn  # noqa: TID253  reached only through importlib

from tfkd_cli.models.layers import conv_bn, global_average

CARDINALITY = 8
WIDTHS = (256, 512, 1024)  # channels out of each stage


class AggregatedBlock(nn.Module):
    """1×1, grouped 3×3, 1×1, beside a shortcut."""

    def __init__(self, c_in: int, c_out: int, *, stride: int) -> None:
        super().__init__()
        inner = CARDINALITY * c_out // 4
        self.residual = nn.Sequential(
            *conv_bn(c_in, inner, 1),
            nn.ReLU(inplace=True),
            *conv_bn(inner, inner, 3, stride=stride, groups=CARDINALITY),
            nn.ReLU(inplace=True),
            *conv_bn(inner, c_out, 1),
        )
        self.shortcut = nn.Sequential(*(conv_bn(c_in, c_out, 1, stride=stride) if c_in != c_out else []))

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Maps (N, c_out, ⌈H/stride⌉, ⌈W/stride⌉)."""
        return F.relu(self.residual(maps_NCHW) + self.shortcut(maps_NCHW), inplace=True)


class ResNeXt(nn.Module):
    """Stem, three stages of (depth − 2) / 9 blocks, global average, classifier."""

    def __init__(self, depth: int, *, classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(channels, 64, 3), nn.ReLU(inplace=True))
        stages, c_in = [], 64
        for stage, width in enumerate(WIDTHS):
            first = AggregatedBlock(c_in, width, stride=1 if stage == 0 else 2)
            rest = (AggregatedBlock(width, width, stride=1) for _ in range((depth - 2) // 9 - 1))
            stages.append(nn.Sequential(first, *rest))
            c_in = width
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(c_in, classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.kaiming_normal_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes)."""
        maps = self.stages(self.stem(images_NCHW))
        logits_NK: Tensor = self.classifier(global_average(maps))
        return logits_NK


resnext29 = partial(ResNeXt, 29)
resnext101 = partial(ResNeXt, 101)  # assumed
