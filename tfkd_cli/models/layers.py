"""Layers that several networks share."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: TID253, N812  reached only through importlib
from torch import Tensor, nn  # noqa: TID253  reached only through importlib


def global_average(maps_NCHW: Tensor) -> Tensor:
    """The mean of each map, shape (N, C).

    Unlike an adaptive pool's or `mean`'s, the gradient of this pool stays in channels_last.
    """
    return F.avg_pool2d(maps_NCHW, maps_NCHW.shape[-2:]).flatten(1)


def conv_bn(c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution without bias that keeps the maps' size at stride 1, and its BatchNorm."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(c_out)]
