"""GoogLeNet (Szegedy et al. 2015) as released for CIFAR.

Source: released model/googlenet.py (from weiaicunzai/pytorch-cifar100). Quirks kept: one 3×3 stem to 192
channels, the 5×5 branch built of two 3×3 convolutions, two max-pools, no auxiliary heads, biases in all
convolutions, Dropout2d 0.4, and a bug: `BatchNorm2d(n5x5, n5x5)` sets eps = 32 … 128 in the middle BN of
every 5×5 branch (issue 96 of weiaicunzai/pytorch-cifar100).
"""

from __future__ import annotations

import torch  # noqa: TID253  reached only through importlib
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.models.layers import global_average

# channels of (1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, after the pool); None: a max-pool that halves the maps
BLOCKS = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    None,
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    None,
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, c_in: int, widths: tuple[int, int, int, int, int, int]) -> None:
        super().__init__()
        n1, n3_reduce, n3, n5_reduce, n5, n_pool = widths
        self.branch1 = nn.Sequential(*_conv_bn(c_in, n1, 1))
        self.branch3 = nn.Sequential(*_conv_bn(c_in, n3_reduce, 1), *_conv_bn(n3_reduce, n3, 3))
        self.branch5 = nn.Sequential(
            *_conv_bn(c_in, n5_reduce, 1),
            *_conv_bn(n5_reduce, n5, 3, eps=n5),  # the released bug: the channels given as eps
            *_conv_bn(n5, n5, 3),
        )
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *_conv_bn(c_in, n_pool, 1))
        self.c_out = n1 + n3 + n5 + n_pool

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Maps (N, c_out, H, W)."""
        branches = (self.branch1, self.branch3, self.branch5, self.branch_pool)
        return torch.cat([branch(maps_NCHW) for branch in branches], dim=1)


def _conv_bn(c_in: int, c_out: int, kernel: int, *, eps: float = 1e-5) -> list[nn.Module]:
    conv = nn.Conv2d(c_in, c_out, kernel, padding=kernel // 2)
    return [conv, nn.BatchNorm2d(c_out, eps=eps), nn.ReLU(inplace=True)]


class GoogLeNet(nn.Module):
    """Stem, nine inception blocks, global average, dropout, classifier."""

    def __init__(self, *, classes: int, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_conv_bn(channels, 192, 3))
        blocks: list[nn.Module] = []
        c_in = 192
        for widths in BLOCKS:
            if widths is None:
                blocks.append(nn.MaxPool2d(3, stride=2, padding=1))
            else:
                blocks.append(inception := Inception(c_in, widths))
                c_in = inception.c_out
        self.blocks = nn.Sequential(*blocks)
        self.dropout = nn.Dropout2d(0.4)
        self.classifier = nn.Linear(c_in, classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes)."""
        maps = self.blocks(self.stem(images_NCHW))
        pooled = self.dropout(global_average(maps)[:, :, None, None])
        logits_NK: Tensor = self.classifier(pooled.flatten(1))
        return logits_NK
