"""The backward pass of convolutions in training on CPUs, without what is not needed.

A bias before a BatchNorm is taken away again: its gradient is zero, and the sum over all pixels that oneDNN
makes of it is rounding. The kernels' gradient of a 1×1 convolution is one product over all pixels, which MKL
does faster than oneDNN does it where the maps are small. Together a tenth of MobileNetV2's step (seen).
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253 - reached only through the precision of a network
import torch.nn.functional as F  # noqa: N812, TID253
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.models.layers import PaddedPointwise

LARGEST = 100  # pixels of a map whose kernels' gradient is left to MKL (seen: 81 faster, 289 not)


class LeanConv2d(nn.Conv2d):
    """A convolution with this backward pass, in fp32."""

    bias_matters = True
    """False where a BatchNorm takes the bias away."""

    by_product = False
    """Whether the kernels' gradient of small maps is one product."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, K, H, W)."""
        plain = not self.training or torch.is_autocast_enabled("cpu") or input.dtype != torch.float32
        if plain or not torch.is_grad_enabled():
            return super().forward(input)
        maps_NKHW: Tensor = _Convolve.apply(input, self.weight, self.bias, self)
        return maps_NKHW


class LeanPaddedPointwise(PaddedPointwise, LeanConv2d):
    """The same for a 1×1 convolution of a padded input."""


def applies(conv: nn.Conv2d) -> bool:
    """Whether `conv` may go this way: plain, with zeros around the maps."""
    kinds = (nn.Conv2d, PaddedPointwise)
    return type(conv) in kinds and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def spare(conv: nn.Conv2d, *, bias_matters: bool, products: bool) -> None:
    """Let `conv` go this way; `products`: also to MKL. Names of weights stay."""
    conv.__class__ = LeanPaddedPointwise if isinstance(conv, PaddedPointwise) else LeanConv2d
    assert isinstance(conv, LeanConv2d)
    conv.bias_matters = bias_matters
    conv.by_product = products and _is_pointwise(conv)


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)


def kernels_gradient(maps_NCHW: Tensor, gradient_NKHW: Tensor) -> Tensor:
    """That of a 1×1 convolution, (K, C, 1, 1) in channels_last."""
    rows_MC, rows_MK = _rows(maps_NCHW), _rows(gradient_NKHW)
    return (rows_MK.mT @ rows_MC)[:, :, None, None].contiguous(memory_format=torch.channels_last)


def _rows(maps_NCHW: Tensor) -> Tensor:
    """Each pixel's channels, (N × H × W, C): no copy in channels_last."""
    return maps_NCHW.permute(0, 2, 3, 1).flatten(0, 2)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps_NCHW: Tensor, weight_KCHW: Tensor, bias_K: Tensor | None, conv: LeanConv2d
    ) -> Tensor:
        ctx.save_for_backward(maps_NCHW, weight_KCHW)
        ctx.conv = conv
        return F.conv2d(maps_NCHW, weight_KCHW, bias_K, conv.stride, conv.padding, conv.dilation, conv.groups)

    @staticmethod
    def backward(ctx: Any, gradient_NKHW: Tensor) -> tuple[Tensor | None, ...]:
        maps_NCHW, weight_KCHW = ctx.saved_tensors
        conv: LeanConv2d = ctx.conv
        maps_wanted, kernels_wanted, bias_wanted, _ = ctx.needs_input_grad
        product = kernels_wanted and conv.by_product and maps_NCHW.shape[2:].numel() <= LARGEST
        back, kernels, bias_K = torch.ops.aten.convolution_backward(
            gradient_NKHW,
            maps_NCHW,
            weight_KCHW,
            [conv.out_channels],
            conv.stride,
            conv.padding,
            conv.dilation,
            False,  # not transposed  # noqa: FBT003
            [0, 0],
            conv.groups,
            [maps_wanted, kernels_wanted and not product, bias_wanted and conv.bias_matters],
        )
        if product:
            kernels = kernels_gradient(maps_NCHW, gradient_NKHW)
        if bias_wanted and not conv.bias_matters:
            bias_K = gradient_NKHW.new_zeros(conv.out_channels)
        return back, kernels, bias_K, None
