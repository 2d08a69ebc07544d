"""ResNet18 and ResNet50 (He et al. 2016) of the CIFAR kind: 64-128-256-512 channels, 3×3 stem, no max-pool.

Source: released model/resnet.py, without the four pooled features it computes and drops; the average is
global instead of 4×4, which is the same at 32 px and lets 64 px in.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F  # noqa: TID253, N812  reached only through importlib
from torch import Tensor, nn  # noqa: TID253  reached only through importlib

from tfkd_cli.models.layers import conv_bn, global_average

WIDTHS = (64, 128, 256, 512)


class ResidualBlock(nn.Module):
    """ReLU(residual + shortcut); the residual is basic (3×3, 3×3) or a bottleneck (1×1, 3×3, 1×1)."""

    def __init__(self, c_in: int, width: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        c_out = width * expansion
        if expansion == 1:
            layers = [*conv_bn(c_in, width, 3, stride=stride), nn.ReLU(inplace=True)]
        else:
            layers = [*conv_bn(c_in, width, 1), nn.ReLU(inplace=True)]
            layers += [*conv_bn(width, width, 3, stride=stride), nn.ReLU(inplace=True)]
        self.residual = nn.Sequential(*layers, *conv_bn(width, c_out, 3 if expansion == 1 else 1))
        changes = stride != 1 or c_in != c_out
        self.shortcut = nn.Sequential(*(conv_bn(c_in, c_out, 1, stride=stride) if changes else []))

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Maps (N, width × expansion, ⌈H/stride⌉, ⌈W/stride⌉)."""
        return F.relu(self.residual(maps_NCHW) + self.shortcut(maps_NCHW), inplace=True)


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, global average, classifier."""

    def __init__(self, blocks: tuple[int, ...], *, expansion: int, classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(channels, 64, 3), nn.ReLU(inplace=True))
        stages, c_in = [], 64
        for stage, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
            layers = []
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(ResidualBlock(c_in, width, stride=stride, expansion=expansion))
                c_in = width * expansion
            stages.append(nn.Sequential(*layers))
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(c_in, classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes)."""
        maps = self.stages(self.stem(images_NCHW))
        logits_NK: Tensor = self.classifier(global_average(maps))
        return logits_NK


resnet18 = partial(ResNet, (2, 2, 2, 2), expansion=1)
resnet50 = partial(ResNet, (3, 4, 6, 3), expansion=4)
