"""What tests of two quick ways through a 3×3 convolution begin with."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn


def plain_and_quick(
    hasten: Callable[[nn.Conv2d], None], c_in: int, c_out: int, *, bias: bool
) -> tuple[nn.Conv2d, nn.Conv2d]:
    """A convolution, always of the same weights, and a copy of it that was hastened."""
    torch.manual_seed(0)
    plain = nn.Conv2d(c_in, c_out, 3, padding=1, bias=bias).to(memory_format=torch.channels_last)
    quick = copy.deepcopy(plain)
    hasten(quick)
    return plain, quick
