"""The backward pass of convolutions in training on CPUs, without what is not needed.

A bias before a BatchNorm is taken away again: its gradient is zero, and the sum over all pixels that oneDNN
makes of it is rounding. The kernels' gradient of a 1×1 convolution is one product over all pixels, which is
faster than oneDNN's own way where the maps are small. And a depthwise convolution that strides gives its
inputs in bf16 a gradient that takes oneDNN some 20 to 40 times fp32's time: with zeros between the pixels it
is that of a convolution that does not stride, to the bit.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253 - reached only through the precision of a network
import torch.nn.functional as F  # noqa: N812, TID253
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.models.layers import PaddedPointwise

LARGEST = {torch.float32: 100, torch.bfloat16: 64}
"""Pixels of a map up to which the kernels' gradient is one product (seen: fp32 81 faster, 289 not; bf16 81 not)."""


class LeanConv2d(nn.Conv2d):
    """A convolution with this backward pass, in fp32 or, under autocast, in bf16."""

    bias_matters = True
    """False where a BatchNorm takes the bias away."""

    by_product = False
    """Whether the kernels' gradient of small maps is one product."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, K, H, W)."""
        dtype = input.dtype
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        if not self.training or not torch.is_grad_enabled() or dtype not in LARGEST:
            return super().forward(input)
        bias_K = None if self.bias is None else self.bias.to(dtype)
        maps_NKHW: Tensor = _Convolve.apply(input.to(dtype), self.weight.to(dtype), bias_K, self)
        return maps_NKHW


class LeanPaddedPointwise(PaddedPointwise, LeanConv2d):
    """The same for a 1×1 convolution of a padded input."""


def applies(conv: nn.Conv2d) -> bool:
    """Whether `conv` may go this way: plain, with zeros around the maps."""
    kinds = (nn.Conv2d, PaddedPointwise)
    return type(conv) in kinds and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def spare(conv: nn.Conv2d, *, bias_matters: bool, products: bool) -> None:
    """Let `conv` go this way; `products`: also by one product. Names of weights stay."""
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
        back_wanted, kernels_wanted, bias_wanted, _ = ctx.needs_input_grad
        product = kernels_wanted and conv.by_product and _is_small(maps_NCHW)
        apart = back_wanted and _strides_by_channel(conv) and maps_NCHW.dtype == torch.bfloat16
        wanted = [back_wanted and not apart, kernels_wanted and not product, bias_wanted and conv.bias_matters]
        back, kernels, bias_K = _backward(conv, gradient_NKHW, maps_NCHW, weight_KCHW, wanted)
        if product:
            kernels = kernels_gradient(maps_NCHW, gradient_NKHW)
        if apart:
            back = _back_without_stride(conv, gradient_NKHW, maps_NCHW, weight_KCHW)
        if bias_wanted and not conv.bias_matters:
            bias_K = gradient_NKHW.new_zeros(conv.out_channels)
        return back, kernels, bias_K, None


def _is_small(maps_NCHW: Tensor) -> bool:
    return maps_NCHW.shape[2:].numel() <= LARGEST[maps_NCHW.dtype]


def _strides_by_channel(conv: nn.Conv2d) -> bool:
    return conv.groups > 1 and conv.groups == conv.in_channels and max(conv.stride) > 1


def _back_without_stride(
    conv: nn.Conv2d, gradient_NKHW: Tensor, maps_NCHW: Tensor, weight_KCHW: Tensor
) -> Tensor | None:
    """The inputs' gradient of a convolution that strides, as of one that does not."""
    pads, reach = conv.padding, [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    sizes = [size + 2 * int(pad) - r for size, pad, r in zip(maps_NCHW.shape[2:], pads, reach, strict=True)]
    n, k = gradient_NKHW.shape[:2]
    spread_NHWK = gradient_NKHW.new_zeros(n, *sizes, k)
    down, across = conv.stride
    spread_NHWK[:, ::down, ::across] = gradient_NKHW.permute(0, 2, 3, 1)
    spread_NKHW = spread_NHWK.permute(0, 3, 1, 2)
    back = [True, False, False]
    return _backward(conv, spread_NKHW, maps_NCHW, weight_KCHW, back, stride=(1, 1))[0]


def _backward(
    conv: nn.Conv2d,
    gradient_NKHW: Tensor,
    maps_NCHW: Tensor,
    weight_KCHW: Tensor,
    wanted: list[bool],
    *,
    stride: tuple[int, ...] = (),
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """torch's gradients of inputs, kernels and bias, where they are wanted."""
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None] = torch.ops.aten.convolution_backward(
        gradient_NKHW,
        maps_NCHW,
        weight_KCHW,
        [conv.out_channels],
        stride or conv.stride,
        conv.padding,
        conv.dilation,
        False,  # not transposed  # noqa: FBT003
        [0, 0],
        conv.groups,
        wanted,
    )
    return gradients
