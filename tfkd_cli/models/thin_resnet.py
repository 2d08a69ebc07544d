"""The thin ResNets of He et al. 2016, section 4.2 (16-32-64 channels): for work without a GPU.

Not in the paper. As He et al.: depth 6n + 2, identity shortcuts that skip every other pixel and pad the
new channels with zeros (their option A), initialised after He et al. 2015.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F  # noqa: TID253, N812  reached only through importlib
from torch import Tensor, nn  # noqa: TID253  reached only through importlib

from tfkd_cli.models.layers import conv_bn, global_average

WIDTHS = (16, 32, 64)


class ThinBlock(nn.Module):
    """Two 3×3 convolutions beside an identity without parameters."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.stride, self.new_channels = (1 if c_in == c_out else 2), c_out - c_in
        self.residual = nn.Sequential(
            *conv_bn(c_in, c_out, 3, stride=self.stride), nn.ReLU(inplace=True), *conv_bn(c_out, c_out, 3)
        )

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Maps (N, c_out, ⌈H/stride⌉, ⌈W/stride⌉)."""
        shortcut = maps_NCHW
        if self.stride == 2:
            smaller = F.avg_pool2d(maps_NCHW, 1, 2)  # every other pixel
            shortcut = F.pad(smaller, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(self.residual(maps_NCHW) + shortcut, inplace=True)


class ThinResNet(nn.Module):
    """Stem, three stages of n blocks, global average, classifier."""

    def __init__(self, n: int, *, classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(channels, 16, 3), nn.ReLU(inplace=True))
        stages, c_in = [], 16
        for width in WIDTHS:
            stages.append(
                nn.Sequential(ThinBlock(c_in, width), *(ThinBlock(width, width) for _ in range(n - 1)))
            )
            c_in = width
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(c_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes)."""
        maps = self.stages(self.stem(images_NCHW))
        logits_NK: Tensor = self.classifier(global_average(maps))
        return logits_NK


resnet8 = partial(ThinResNet, 1)
resnet14 = partial(ThinResNet, 2)
resnet20 = partial(ThinResNet, 3)
