"""bf16 by rounding, for processors without units for it: the numbers of autocast, at fp32's speed.

A bf16 convolution multiplies bf16 values, adds in fp32 and rounds what comes out; so does an fp32 one whose
inputs, weights and outputs are rounded to bf16. Gradients likewise. Only the order of additions differs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


class _Round(torch.autograd.Function):
    """Values, and gradients on their way back, to the nearest bf16."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.bfloat16().float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.bfloat16().float()


def rounded(values: Tensor) -> Tensor:
    """The nearest bf16 values, as fp32."""
    result: Tensor = _Round.apply(values)
    return result


class RoundedConv2d(nn.Conv2d):
    """Inputs and weights as under bf16 autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, K, H, W)."""
        bias_K = None if self.bias is None else rounded(self.bias)
        maps_NKHW: Tensor = self._conv_forward(rounded(input), rounded(self.weight), bias_K)
        return maps_NKHW


class RoundedLinear(nn.Linear):
    """Inputs and weights as under bf16 autocast."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, K)."""
        bias_K = None if self.bias is None else rounded(self.bias)
        return F.linear(rounded(input), rounded(self.weight), bias_K)


def round_to_bf16(network: nn.Module) -> None:
    """Let its layers calculate as under bf16 autocast; names of weights, which stay fp32, are kept.

    BatchNorm's statistics, scale and shift are fp32; what comes out of it is bf16, as out of every layer.
    """
    for each in network.modules():
        if type(each) is nn.Conv2d:
            each.__class__ = RoundedConv2d
        elif type(each) is nn.Linear:
            each.__class__ = RoundedLinear
        elif not isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d):
            continue
        each.register_forward_hook(lambda layer, inputs, output: rounded(output))
