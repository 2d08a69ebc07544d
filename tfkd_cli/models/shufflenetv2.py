"""ShuffleNetV2 1× (Ma et al. 2018) as released for CIFAR.

Source: released model/shufflenetv2.py. Quirks kept: a 3×3 stem of stride 1 with BN and *no* ReLU, no
max-pool, biases in all convolutions.
"""

from __future__ import annotations

import torch  # noqa: TID253  reached only through importlib
import torch.nn.functional as F  # noqa: TID253, N812
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.models.layers import global_average

STAGES = ((116, 4), (232, 8), (464, 4))  # (channels out, blocks); each stage halves the maps
LAST = 1024


class ShuffleUnit(nn.Module):
    """Two branches, concatenated and shuffled; each takes half of the channels, or all at stride 2."""

    def __init__(self, c_in: int, c_out: int, *, stride: int) -> None:
        super().__init__()
        self.splits = stride == 1
        c_branch = c_in // 2 if self.splits else c_in
        half = c_out // 2
        # Registered and run in the released order: the residual branch, then the shortcut.
        self.residual = nn.Sequential(
            nn.Conv2d(c_branch, c_branch, 1),
            nn.BatchNorm2d(c_branch),
            nn.ReLU(inplace=True),
            *_depthwise(c_branch, half, stride=stride),
        )
        self.shortcut = nn.Sequential(*([] if self.splits else _depthwise(c_in, half, stride=stride)))

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Maps (N, c_out, ⌈H/stride⌉, ⌈W/stride⌉)."""
        first, second = maps_NCHW.chunk(2, dim=1) if self.splits else (maps_NCHW, maps_NCHW)
        residual = self.residual(second)
        return F.channel_shuffle(torch.cat((self.shortcut(first), residual), dim=1), groups=2)


def _depthwise(c_in: int, c_out: int, *, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(c_in, c_in, 3, stride=stride, padding=1, groups=c_in),
        nn.BatchNorm2d(c_in),
        nn.Conv2d(c_in, c_out, 1),
        nn.BatchNorm2d(c_out),
        nn.ReLU(inplace=True),
    ]


class ShuffleNetV2(nn.Module):
    """Stem, three stages, a 1×1 convolution to 1024 channels, global average, classifier."""

    def __init__(self, *, classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 24, 3, padding=1), nn.BatchNorm2d(24))
        stages, c_in = [], 24
        for c_out, blocks in STAGES:
            rest = (ShuffleUnit(c_out, c_out, stride=1) for _ in range(blocks - 1))
            stages.append(nn.Sequential(ShuffleUnit(c_in, c_out, stride=2), *rest))
            c_in = c_out
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential(nn.Conv2d(c_in, LAST, 1), nn.BatchNorm2d(LAST), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(LAST, classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes)."""
        maps = self.last(self.stages(self.stem(images_NCHW)))
        logits_NK: Tensor = self.classifier(global_average(maps))
        return logits_NK
