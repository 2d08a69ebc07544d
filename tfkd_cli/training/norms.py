"""BatchNorm of few or odd channels in training on CPUs: some pixels side by side count as one wide row.

torch's threads add up the channels' sums side by side in memory. Where a row of them does not end at the end
of a cache line (58 channels), each thread's additions take the line away from the other, pixel by pixel: two
threads are then slower than one. Few channels (16) do not fill the registers either. With R pixels in a row
both are gone; the R sums of a channel are added up afterwards. The same numbers but for rounding: a variance
is that of x², less the mean's square, where a mean of 100 standard deviations costs four of seven digits; and
in bf16 the scale of the gradient is rounded as autocast rounds weights.

Everything is torch's: a BatchNorm's backward pass for sums, one in eval mode for scale and shift.

Shapes: M pixels of all images, C channels, R pixels of a row, W = R·C.
"""

from __future__ import annotations

import math
from typing import Any

import torch  # noqa: TID253 - reached only through the precision of a network
from torch import Tensor, nn  # noqa: TID253
from torch.autograd.function import once_differentiable  # noqa: TID253

FEWEST = 32  # channels that fill the registers
LINE = 16  # fp32 numbers of a cache line
WIDEST = 256  # numbers of a row that is not widened any more
SMALLEST = 500_000  # numbers of maps; with fewer, the additional calls take longer than they save


class WideBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm that goes this way in training, with maps in channels_last on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, C, H, W)."""
        pixels, per_row = input.numel() // input.shape[1], _pixels_per_row(self)
        rows = input.device.type == "cpu" and input.is_contiguous(memory_format=torch.channels_last)
        rows = rows and input.dtype in (torch.float32, torch.bfloat16)
        pays = input.numel() >= SMALLEST and pixels % per_row == 0
        if not (self.training and torch.is_grad_enabled() and rows and pays):
            return super().forward(input)
        maps_NCHW: Tensor
        maps_NCHW, mean_C, variance_C = _Normalise.apply(input, self.weight, self.bias, self.eps, per_row)
        update(self, mean_C, variance_C, count=pixels)
        return maps_NCHW


class BeforeNorm:
    """A convolution that may have a BatchNorm behind it, which alone sees its output."""

    behind: tuple[nn.BatchNorm2d, ...] = ()  # a tuple, so that its weights are registered once

    @property
    def bias_matters(self) -> bool:
        """False where the norm takes the bias away again: its gradient is zero."""
        return not any(norm.training for norm in self.behind)


def applies(norm: nn.BatchNorm2d) -> bool:
    """Whether it pays for this layer."""
    usual = type(norm) is nn.BatchNorm2d and norm.affine
    usual = usual and norm.track_running_stats and norm.momentum is not None
    return usual and (norm.num_features < FEWEST or norm.num_features % LINE > 0)


def widen(norm: nn.BatchNorm2d) -> None:
    """Let `norm` go this way; names of weights stay."""
    norm.__class__ = WideBatchNorm2d


def update(norm: nn.BatchNorm2d, mean_C: Tensor, variance_C: Tensor, *, count: int) -> None:
    """Move the running statistics as torch does, by those of `count` pixels."""
    assert norm.momentum is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.running_mean.lerp_(mean_C, norm.momentum)
    norm.running_var.lerp_(variance_C * (count / max(1, count - 1)), norm.momentum)
    norm.num_batches_tracked.add_(1)


def _pixels_per_row(norm: nn.BatchNorm2d) -> int:
    """As many as end at the end of a cache line and make a row wide, twice as many at a time."""
    channels = norm.num_features
    pixels = 2 * LINE // math.gcd(2 * LINE, channels)
    while pixels * channels < WIDEST:
        pixels *= 2
    return pixels


class _Normalise(torch.autograd.Function):
    """γ·(x - mean) / std + β, and the mean and variance of x, which are not differentiated."""

    @staticmethod
    def forward(
        ctx: Any,
        maps_NCHW: Tensor,
        gamma_C: Tensor,
        beta_C: Tensor,
        eps: float,
        pixels: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = _rows(maps_NCHW, pixels)
        squares_RC, means_RC = (each / rows.shape[2] for each in _sums(rows, rows, torch.zeros_like(gamma_C)))
        mean_C = means_RC.mean(0)
        variances_RC = squares_RC - means_RC.square()
        variance_C = (variances_RC + (means_RC - mean_C).square()).mean(0).clamp_min_(0)
        scale_C = gamma_C * (variance_C + eps).rsqrt()
        outputs_NCHW = _scaled(maps_NCHW, scale_C, beta_C - scale_C * mean_C, pixels)
        ctx.save_for_backward(maps_NCHW, gamma_C, mean_C, variance_C)
        ctx.eps, ctx.pixels = eps, pixels
        ctx.mark_non_differentiable(mean_C, variance_C)
        return outputs_NCHW, mean_C, variance_C

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NCHW: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        maps_NCHW, gamma_C, mean_C, variance_C = ctx.saved_tensors
        rows, gradients = _rows(maps_NCHW, ctx.pixels), _rows(gradient_NCHW, ctx.pixels)
        inverse_C = (variance_C + ctx.eps).rsqrt()
        products_C, beta_C = (each.sum(0) for each in _sums(gradients, rows, mean_C))
        gradient_of_gamma_C = products_C * inverse_C
        back = None
        if ctx.needs_input_grad[0]:
            count, scale_C = maps_NCHW.numel() // len(mean_C), gamma_C * inverse_C
            slope_C = -scale_C * inverse_C * gradient_of_gamma_C / count
            shift_C = -scale_C * beta_C / count - slope_C * mean_C
            back = _scaled(maps_NCHW, slope_C, shift_C, ctx.pixels)
            scale_W = scale_C.to(back.dtype).repeat(ctx.pixels)
            _rows(back, ctx.pixels).addcmul_(gradients, scale_W.view(1, -1, 1, 1))
        return back, gradient_of_gamma_C, beta_C, None, None


def _rows(maps_NCHW: Tensor, pixels: int) -> Tensor:
    """The maps as (1, W, M / R, 1) in channels_last; a copy only where they lie otherwise."""
    rows = maps_NCHW.permute(0, 2, 3, 1).reshape(1, -1, 1, pixels * maps_NCHW.shape[1])
    return rows.permute(0, 3, 1, 2)


def _sums(gradients: Tensor, rows: Tensor, mean_C: Tensor) -> tuple[Tensor, Tensor]:
    """Σ g·(x - mean) and Σ g over all rows in fp32, both (R, C): the gradients of a γ and a β."""
    mean_W = mean_C.repeat(rows.shape[1] // len(mean_C))
    one_W, training, wanted = torch.ones_like(mean_W), True, [False, True, True]
    _, products_W, sums_W = torch.ops.aten.native_batch_norm_backward(
        gradients, rows, one_W, None, None, mean_W, one_W, training, 0.0, wanted
    )
    return products_W.view(-1, len(mean_C)), sums_W.view(-1, len(mean_C))


def _scaled(maps_NCHW: Tensor, scale_C: Tensor, shift_C: Tensor, pixels: int) -> Tensor:
    """scale·x + shift, in one pass, (N, C, H, W)."""
    scaled_NCHW = torch.empty_like(maps_NCHW)  # not a view of rows: autograd lets nobody write into one
    rows, outputs = _rows(maps_NCHW, pixels), _rows(scaled_NCHW, pixels)
    scale_W, shift_W = scale_C.repeat(pixels), shift_C.repeat(pixels)
    zero_W, one_W, none = torch.zeros_like(scale_W), torch.ones_like(scale_W), scale_W.new_empty(0)
    training, out = False, (outputs, none, none.clone())
    torch.native_batch_norm(rows, scale_W, shift_W, zero_W, one_W, training, 0.0, 0.0, out=out)
    return scaled_NCHW
