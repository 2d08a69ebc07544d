"""The backward pass of convolutions in training on CPUs, without what is not needed.

A bias before a BatchNorm is taken away again: its gradient is zero, and the sum over all pixels that oneDNN
makes of it is rounding. The kernels' gradient is a product over pixels for each place of the kernel, which is
faster than oneDNN's own way where the maps are small (of 4×4 pixels, a 3×3 kernel's corner sees nine). And a
depthwise convolution that strides gives its inputs in bf16 a gradient that takes oneDNN 20 to 40 times fp32's
time: with zeros between the pixels it is that of a convolution that does not stride, to the bit.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch  # noqa: TID253 - reached only through the precision of a network
import torch.nn.functional as F  # noqa: N812, TID253
from torch import Tensor, nn  # noqa: TID253
from torch.autograd.function import once_differentiable  # noqa: TID253

from tfkd_cli.models.layers import PaddedPointwise
from tfkd_cli.training.norms import BeforeNorm

LARGEST = {torch.float32: 100, torch.bfloat16: 64}
"""Pixels of a map up to which a 1×1 kernel has its product (seen: fp32 81 faster, 289 not; bf16 81 not)."""

TINY, WIDE = 16, 128
"""Pixels of an output, and least channels, where it is a product per place of a larger kernel, in bf16."""


class LeanConv2d(BeforeNorm, nn.Conv2d):
    """A convolution with this backward pass, in fp32 or, under autocast, in bf16."""

    by_product = False
    """Whether the kernels' gradient of small maps is made of products."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, K, H, W)."""
        dtype = input.dtype
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
        suits = self.training and dtype in LARGEST and input.dim() == 4
        if not suits or not torch.is_grad_enabled():
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


def spare(conv: nn.Conv2d, *, products: bool) -> None:
    """Let `conv` go this way; `products`: also by products. Names of weights stay."""
    conv.__class__ = LeanPaddedPointwise if isinstance(conv, PaddedPointwise) else LeanConv2d
    assert isinstance(conv, LeanConv2d)
    conv.by_product = products and _is_dense(conv)


def _is_dense(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.dilation == (1, 1)


def _pays(conv: nn.Conv2d, maps_NCHW: Tensor, gradient_NKHW: Tensor) -> bool:
    """Whether products give the kernels' gradient sooner than oneDNN does."""
    if conv.kernel_size == (1, 1) and conv.stride == (1, 1):
        return maps_NCHW.shape[2:].numel() <= LARGEST[maps_NCHW.dtype]
    tiny = gradient_NKHW.shape[2:].numel() <= TINY
    return tiny and maps_NCHW.dtype == torch.bfloat16 and min(conv.in_channels, conv.out_channels) >= WIDE


def kernels_gradient(conv: nn.Conv2d, maps_NCHW: Tensor, gradient_NKHW: Tensor) -> Tensor:
    """(K, C, H, W) in channels_last: for each place of the kernel a product over the pixels that it sees."""
    maps_NHWC, gradient_NHWK = maps_NCHW.permute(0, 2, 3, 1), gradient_NKHW.permute(0, 2, 3, 1)
    height, width = conv.kernel_size
    kernels_HWKC = maps_NHWC.new_zeros(height, width, conv.out_channels, conv.in_channels)
    for y, x in itertools.product(range(height), range(width)):
        seen_y, by_y = _sight(conv, 0, y, maps_NCHW.shape[2], gradient_NKHW.shape[2])
        seen_x, by_x = _sight(conv, 1, x, maps_NCHW.shape[3], gradient_NKHW.shape[3])
        seen_MC = maps_NHWC[:, seen_y, seen_x].reshape(-1, conv.in_channels)
        by_MK = gradient_NHWK[:, by_y, by_x].reshape(-1, conv.out_channels)
        torch.mm(by_MK.mT, seen_MC, out=kernels_HWKC[y, x])
    return kernels_HWKC.permute(2, 0, 1, 3).contiguous().permute(0, 3, 1, 2)


def _sight(conv: nn.Conv2d, axis: int, place: int, size: int, outputs: int) -> tuple[slice, slice]:
    """What a place of the kernel sees along an axis, and which outputs see it so: not the padding."""
    stride, offset = conv.stride[axis], place - int(conv.padding[axis])
    first = max(0, -(offset // stride))  # the first output whose input is not before the map
    end = max(first, min(outputs, (size - 1 - offset) // stride + 1))
    return slice(offset + first * stride, max(0, offset + (end - 1) * stride + 1), stride), slice(first, end)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, maps_NCHW: Tensor, weight_KCHW: Tensor, bias_K: Tensor | None, conv: LeanConv2d
    ) -> Tensor:
        ctx.save_for_backward(maps_NCHW, weight_KCHW)
        ctx.conv, ctx.bias_matters = conv, conv.bias_matters
        return F.conv2d(maps_NCHW, weight_KCHW, bias_K, conv.stride, conv.padding, conv.dilation, conv.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NKHW: Tensor) -> tuple[Tensor | None, ...]:
        maps_NCHW, weight_KCHW = ctx.saved_tensors
        conv: LeanConv2d = ctx.conv
        back_wanted, kernels_wanted, bias_wanted, _ = ctx.needs_input_grad
        product = kernels_wanted and conv.by_product and _pays(conv, maps_NCHW, gradient_NKHW)
        apart = back_wanted and _strides_by_channel(conv) and maps_NCHW.dtype == torch.bfloat16
        wanted = [
            back_wanted and not apart,
            kernels_wanted and not product,
            bias_wanted and ctx.bias_matters,
        ]
        back, kernels, bias_K = _backward(conv, gradient_NKHW, maps_NCHW, weight_KCHW, wanted)
        if product:
            kernels = kernels_gradient(conv, maps_NCHW, gradient_NKHW)
        if apart:
            back = _back_without_stride(conv, gradient_NKHW, maps_NCHW, weight_KCHW)
        if bias_wanted and not ctx.bias_matters:
            bias_K = gradient_NKHW.new_zeros(conv.out_channels)
        return back, kernels, bias_K, None


def _strides_by_channel(conv: nn.Conv2d) -> bool:
    return conv.groups > 1 and conv.groups == conv.in_channels and max(conv.stride) > 1


def _back_without_stride(
    conv: nn.Conv2d, gradient_NKHW: Tensor, maps_NCHW: Tensor, weight_KCHW: Tensor
) -> Tensor | None:
    """The inputs' gradient of a convolution that strides, as of one that does not."""
    sizes = [
        maps_NCHW.shape[axis + 2]
        + 2 * int(conv.padding[axis])
        - conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        for axis in (0, 1)
    ]
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
