"""MobileNetV2 (Sandler et al. 2018) as released for CIFAR: width 1, expansion 6.

Source: released model/mobilenetv2.py. Its quirks are kept, since the paper's numbers came from them:
a 1×1 stem padded by one (maps 34, 34, 17, 9, 5 at 32 px), biases in all convolutions, a classifier
that is a 1×1 convolution, no dropout; stages 5 to 7 do not shrink the maps.
"""

from __future__ import annotations

from torch import Tensor, nn  # noqa: TID253  reached only through importlib

from tfkd_cli.models.layers import global_average

# (expansion, channels out, blocks, stride of the first block)
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 1),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """Expand 1×1, depthwise 3×3, project 1×1; the input is added where the shape allows."""

    def __init__(self, c_in: int, c_out: int, *, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c_in * expansion
        self.residual = nn.Sequential(
            nn.Conv2d(c_in, wide, 1),
            nn.BatchNorm2d(wide),
            nn.ReLU6(inplace=True),
            nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide),
            nn.BatchNorm2d(wide),
            nn.ReLU6(inplace=True),
            nn.Conv2d(wide, c_out, 1),
            nn.BatchNorm2d(c_out),
        )
        self.adds_input = stride == 1 and c_in == c_out

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Maps (N, c_out, ⌈H/stride⌉, ⌈W/stride⌉)."""
        residual: Tensor = self.residual(maps_NCHW)
        return maps_NCHW + residual if self.adds_input else residual


class MobileNetV2(nn.Module):
    """Stem, seven stages, a 1×1 convolution to 1280 channels, global average, classifier."""

    def __init__(self, *, classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 32, 1, padding=1), nn.BatchNorm2d(32), nn.ReLU6(inplace=True)
        )
        stages, c_in = [], 32
        for expansion, c_out, blocks, stride in STAGES:
            stages.append(_stage(c_in, c_out, blocks=blocks, stride=stride, expansion=expansion))
            c_in = c_out
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential(nn.Conv2d(c_in, 1280, 1), nn.BatchNorm2d(1280), nn.ReLU6(inplace=True))
        self.classifier = nn.Conv2d(1280, classes, 1)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes)."""
        maps = self.last(self.stages(self.stem(images_NCHW)))
        logits_NK: Tensor = self.classifier(global_average(maps)[:, :, None, None]).flatten(1)
        return logits_NK


def _stage(c_in: int, c_out: int, *, blocks: int, stride: int, expansion: int) -> nn.Sequential:
    first = InvertedResidual(c_in, c_out, stride=stride, expansion=expansion)
    rest = (InvertedResidual(c_out, c_out, stride=1, expansion=expansion) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
