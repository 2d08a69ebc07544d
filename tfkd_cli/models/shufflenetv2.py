"""ShuffleNetV2 1× (Ma et al. 2018) as released for CIFAR.

Source: released model/shufflenetv2.py. Quirks kept: a 3×3 stem of stride 1 with BN and *no* ReLU, no
max-pool, biases in all convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn  # noqa: TID253  reached only through importlib

from tfkd_cli.models.layers import global_average, interleaved, interleaved_halves

STAGES = ((116, 4), (232, 8), (464, 4))  # (channels out, blocks); each stage halves the maps
LAST = 1024


Halves = tuple[Tensor, Tensor]


class ShuffleUnit(nn.Module):
    """Two branches joined and interleaved: of halved channels, or both of all channels at stride 2.

    `joins`: what it gives is one tensor again; else halves, as the next unit takes them.
    """

    def __init__(self, c_in: int, c_out: int, *, stride: int, joins: bool) -> None:
        super().__init__()
        self.joins = joins
        splits = stride == 1
        c_branch = c_in // 2 if splits else c_in
        half = c_out // 2
        # Registered and run as released: the residual branch, then the shortcut.
        self.residual = nn.Sequential(
            nn.Conv2d(c_branch, c_branch, 1),
            nn.BatchNorm2d(c_branch),
            nn.ReLU(inplace=True),
            *_depthwise(c_branch, half, stride=stride),
        )
        self.shortcut = nn.Sequential(*([] if splits else _depthwise(c_in, half, stride=stride)))

    def forward(self, maps: Tensor | Halves) -> Tensor | Halves:
        """Maps (N, c_out, ⌈H/stride⌉, ⌈W/stride⌉), or the halves of their channels."""
        kept, changed = (maps, maps) if isinstance(maps, Tensor) else maps
        residual = self.residual(changed)
        join = interleaved if self.joins else interleaved_halves
        return join(self.shortcut(kept), residual)


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
            rest = (ShuffleUnit(c_out, c_out, stride=1, joins=i == blocks - 1) for i in range(1, blocks))
            stages.append(nn.Sequential(ShuffleUnit(c_in, c_out, stride=2, joins=False), *rest))
            c_in = c_out
        self.stages = nn.Sequential(*stages)
        self.last = nn.Sequential(nn.Conv2d(c_in, LAST, 1), nn.BatchNorm2d(LAST), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(LAST, classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes)."""
        maps = self.last(self.stages(self.stem(images_NCHW)))
        logits_NK: Tensor = self.classifier(global_average(maps))
        return logits_NK


def shufflenetv2(*, classes: int, channels: int) -> nn.Module:
    """1 360 896 parameters at 100 classes."""
    return ShuffleNetV2(classes=classes, channels=channels)
