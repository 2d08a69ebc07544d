"""Layers that several networks share, written so that training on a CPU stays in channels_last."""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253  reached only through importlib
import torch.nn.functional as F  # noqa: TID253, N812
from torch import Tensor, nn  # noqa: TID253


def global_average(maps_NCHW: Tensor) -> Tensor:
    """The mean of each map, (N, C).

    The gradient of torch's adaptive pool comes back in NCHW, where the BatchNorm before it takes 15 times as
    long (seen: 130 of 1500 ms of a MobileNetV2 step); this one's is channels_last.
    """
    return maps_NCHW.permute(0, 2, 3, 1).mean((1, 2))


def interleaved(even_NCHW: Tensor, odd_NCHW: Tensor) -> Tensor:
    """Channels of the one and the other in turn: a concatenation and ShuffleNet's shuffle, (N, 2·C, H, W).

    In channels_last that is how complex numbers lie, and pairs of bf16 lie like integers: half the time of
    torch's shuffle, or less. In NCHW it is a stack.
    """
    if _may_be_paired(odd_NCHW):
        (maps,) = _Interleave.apply(even_NCHW, odd_NCHW, 1)
        return maps  # type: ignore[no-any-return]
    if not odd_NCHW.is_contiguous(memory_format=torch.channels_last):
        return torch.stack((even_NCHW, odd_NCHW), 2).flatten(1, 2)
    return F.channel_shuffle(torch.cat((even_NCHW, odd_NCHW), 1), 2)


def interleaved_halves(even_NCHW: Tensor, odd_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of `interleaved`'s channels, each (N, C, H, W): on a CPU, not slices of one."""
    if _may_be_paired(odd_NCHW) and odd_NCHW.shape[1] % 2 == 0:
        first, second = _Interleave.apply(even_NCHW, odd_NCHW, 2)
    else:
        first, second = interleaved(even_NCHW, odd_NCHW).chunk(2, dim=1)
    return first, second


def lies_plainly(maps_NCHW: Tensor, *, dtype: torch.dtype = torch.float32) -> bool:
    """Whether these are maps of that type in channels_last on a CPU."""
    in_place = maps_NCHW.is_contiguous(memory_format=torch.channels_last)
    return in_place and maps_NCHW.dtype == dtype and maps_NCHW.device.type == "cpu"


def _may_be_paired(maps_NCHW: Tensor) -> bool:
    return any(lies_plainly(maps_NCHW, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))


class _Interleave(torch.autograd.Function):
    """Not left to autograd, whose gradients would lie interleaved too; in so many parts of equal width."""

    @staticmethod
    def forward(ctx: Any, even_NCHW: Tensor, odd_NCHW: Tensor, parts: int) -> tuple[Tensor, ...]:
        even, odd = (each.permute(0, 2, 3, 1).chunk(parts, -1) for each in (even_NCHW, odd_NCHW))
        pairs = (_pair(*both) for both in zip(even, odd, strict=True))
        return tuple(each.permute(0, 3, 1, 2) for each in pairs)

    @staticmethod
    def backward(ctx: Any, *gradients_NCHW: Tensor) -> tuple[Tensor, Tensor, None]:
        parts = [_unpair(each.permute(0, 2, 3, 1).contiguous()) for each in gradients_NCHW]
        even, odd = (torch.cat(each, -1) for each in zip(*parts, strict=True))
        return even.permute(0, 3, 1, 2), odd.permute(0, 3, 1, 2), None


def _pair(even: Tensor, odd: Tensor) -> Tensor:
    """(…, C) and (…, C) in turn, (…, 2·C)."""
    if even.dtype == torch.bfloat16:  # the upper half of an fp32 number's bits, and here of an int32's
        bits = odd.float().view(torch.int32).bitwise_or_(even.view(torch.uint16).to(torch.int32))
        return bits.view(even.dtype)
    return torch.view_as_real(torch.complex(even, odd)).flatten(-2)


def _unpair(pairs: Tensor) -> tuple[Tensor, Tensor]:
    """The way back through `_pair`."""
    if pairs.dtype == torch.bfloat16:
        both = pairs.view(torch.int32)
        parts = both.to(torch.int16), (both >> 16).to(torch.int16)
        return parts[0].view(pairs.dtype), parts[1].view(pairs.dtype)
    numbers = torch.view_as_complex(pairs.view(*pairs.shape[:-1], -1, 2))
    return numbers.real, numbers.imag


class ReLU6(nn.Module):
    """min(max(x, 0), 6), in place; torch's own in-place form first copies its input for the backward pass.

    In training on a CPU the gradient is written over as well. So what comes next must be one layer that makes
    its gradient anew, as a convolution does, and a sum does not.
    """

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Maps of the same shape."""
        if maps_NCHW.device.type != "cpu" or not torch.is_grad_enabled():
            return F.relu6(maps_NCHW, inplace=True)
        clamped: Tensor = _ClampInPlace.apply(maps_NCHW)
        return clamped


class _ClampInPlace(torch.autograd.Function):
    """The output says as much as the input about where the gradient passes: strictly between 0 and 6."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        clamped = maps.clamp_(0, 6)
        ctx.mark_dirty(clamped)
        ctx.save_for_backward(clamped)
        return clamped

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (clamped,) = ctx.saved_tensors
        backward, dense = (
            torch.ops.aten.hardtanh_backward,
            gradient.is_contiguous(memory_format=torch.channels_last),
        )
        if dense:  # not a mean's, which is one number for all pixels
            backward.grad_input(gradient, clamped, 0.0, 6.0, grad_input=gradient)
        return gradient if dense else backward(gradient, clamped, 0.0, 6.0)


class PaddedPointwise(nn.Conv2d):
    """A 1×1 convolution of a padded input, padded by one: torch has only a slow path for its own padding."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, c_out, H + 2, W + 2)."""
        return super().forward(F.pad(input, (1, 1, 1, 1)))
