"""BatchNorm after a convolution that widens, without a pass over its output: for training on CPUs.

The convolution is linear, so mean and variance of its outputs follow from mean and covariance of its inputs:
W·mean and diag(W·covariance·Wᵀ). Where 16 channels become 96, that is a product over the small tensor instead
of the five passes over the large one that BatchNorm takes, forward and backward, and BatchNorm's scale and
shift go into the weights. The same numbers but for rounding.

Shapes: M rows (images × pixels), C inputs of a row (channels in; 9 of each for a 3×3 kernel), K channels out.
"""

from __future__ import annotations

from typing import Any

import torch  # noqa: TID253 - reached only through the precision of a network
import torch.nn.functional as F  # noqa: N812, TID253
from torch import Tensor, nn  # noqa: TID253
from torch.autograd.function import once_differentiable  # noqa: TID253

from tfkd_cli.models.layers import PaddedPointwise
from tfkd_cli.training import norms


class PassedBatchNorm2d(nn.BatchNorm2d):
    """In training, the convolution before has normalised already."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, K, H, W)."""
        return input if self.training else super().forward(input)


class NormalisingConv2d(nn.Conv2d):
    """A convolution that gives the normalised maps of the BatchNorm that follows it, while that trains."""

    norm: tuple[PassedBatchNorm2d]  # in a tuple, so that its weights are registered once

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, K, H, W), in channels_last."""
        if isinstance(self, PaddedPointwise):
            input = F.pad(input, (1, 1, 1, 1))
        (norm,) = self.norm
        backward_is_missing = input.requires_grad and self.kernel_size != (1, 1)
        if not norm.training or backward_is_missing or torch.is_autocast_enabled("cpu"):
            maps = F.conv2d(input, self.weight, self.bias, padding=self.padding)
            return nn.BatchNorm2d.forward(norm, maps) if norm.training else maps
        maps_NKHW: Tensor
        maps_NKHW, mean_K, variance_K = _Normalised.apply(
            input, self.weight, self.bias, norm.weight, norm.bias, norm.eps, self.padding
        )
        norms.update(norm, mean_K, variance_K, count=maps_NKHW.numel() // maps_NKHW.shape[1])
        return maps_NKHW


class NormalisingPointwise(NormalisingConv2d, PaddedPointwise):
    """The same for a 1×1 convolution of a padded input."""

    def __init__(self, c_in: int, c_out: int) -> None:
        PaddedPointwise.__init__(self, c_in, c_out)


def applies(conv: nn.Conv2d, norm: nn.BatchNorm2d, *, first: bool) -> bool:
    """Whether this pays for a convolution and the norm behind it; `first`: it sees the images.

    Covariances take M × C² products (35 ps each, seen), BatchNorm's passes 4 ns for each of M × K values.
    """
    kernel, pad = conv.kernel_size, conv.padding
    plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.groups == 1
    plain = plain and conv.padding_mode == "zeros" and type(conv) in (nn.Conv2d, PaddedPointwise)
    shape = (kernel == (1, 1) and pad == (0, 0)) or (first and kernel == (3, 3) and pad == (1, 1))
    usual = type(norm) is nn.BatchNorm2d and norm.affine
    usual = usual and norm.track_running_stats and norm.momentum is not None
    inputs = conv.in_channels * kernel[0] ** 2
    widens = conv.out_channels >= inputs * (1 if first else 3) and conv.out_channels * 60 >= inputs**2
    return plain and shape and usual and widens


def join(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Let `conv` do what `norm` does in training; names of weights stay."""
    norm.__class__ = PassedBatchNorm2d
    conv.__class__ = NormalisingPointwise if isinstance(conv, PaddedPointwise) else NormalisingConv2d
    conv.norm = (norm,)  # type: ignore[assignment]


def _rows(maps_NCHW: Tensor, kernel: int) -> Tensor:
    """What each output pixel sees, (M, C): row by row of the kernel, channels last."""
    maps_NHWC = maps_NCHW.permute(0, 2, 3, 1)
    if kernel == 1:
        return maps_NHWC.reshape(-1, maps_NHWC.shape[-1])
    maps_NHWC = F.pad(maps_NHWC, (0, 0, *[kernel // 2] * 4))
    seen = maps_NHWC.unfold(1, kernel, 1).unfold(2, kernel, 1)  # N, H, W, C, kernel, kernel
    return seen.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)


class _Normalised(torch.autograd.Function):
    """γ·(maps * W - mean) / std + β, and the mean and variance of maps * W, which are not differentiated."""

    @staticmethod
    def forward(
        ctx: Any,
        maps_NCHW: Tensor,
        weight_KCHW: Tensor,
        bias_K: Tensor | None,
        gamma_K: Tensor,
        beta_K: Tensor,
        eps: float,
        padding: tuple[int, int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows_MC = _rows(maps_NCHW, weight_KCHW.shape[-1])
        mean_C, covariance_CC = _moments(rows_MC)
        weight_KC = _as_rows(weight_KCHW)
        weighted_KC = weight_KC @ covariance_CC
        variance_K = (weighted_KC * weight_KC).sum(1).clamp_min_(0)
        inverse_K = (variance_K + eps).rsqrt()  # 1 / standard deviation
        scale_K, mean_K = gamma_K * inverse_K, weight_KC @ mean_C
        folded_KCHW = weight_KCHW * scale_K.view(-1, 1, 1, 1)
        ctx.padding = list(padding)
        ctx.save_for_backward(
            maps_NCHW, folded_KCHW, weight_KCHW, weighted_KC, mean_C, inverse_K, scale_K, gamma_K
        )
        maps_NKHW = F.conv2d(maps_NCHW, folded_KCHW, beta_K - scale_K * mean_K, padding=padding)
        mean_K = mean_K if bias_K is None else mean_K + bias_K
        ctx.mark_non_differentiable(mean_K, variance_K)
        return maps_NKHW, mean_K, variance_K

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NKHW: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        maps_NCHW, folded_KCHW, weight_KCHW, weighted_KC, mean_C, inverse_K, scale_K, gamma_K = (
            ctx.saved_tensors
        )
        back, one, transposed = ctx.needs_input_grad[0], [1, 1], False
        wanted = [back, True, True]
        maps, folded_gradient, shift_K = torch.ops.aten.convolution_backward(
            gradient_NKHW,
            maps_NCHW,
            folded_KCHW,
            [len(gamma_K)],
            one,
            ctx.padding,
            one,
            transposed,
            [0, 0],
            1,
            wanted,
        )
        weight_KC, folded_KC = _as_rows(weight_KCHW), _as_rows(folded_gradient)
        scale = (folded_KC * weight_KC).sum(1) - shift_K * (weight_KC @ mean_C)
        variance_K = scale * gamma_K * -0.5 * inverse_K**3
        weight = folded_KC * scale_K[:, None] - (shift_K * scale_K).outer(mean_C)
        weight += 2 * variance_K[:, None] * weighted_KC
        if back:
            rows_MC = _rows(maps_NCHW, 1)
            spread_CC = weight_KC.mT @ (2 / len(rows_MC) * variance_K[:, None] * weight_KC)
            shift_C = -(weight_KC.mT @ (shift_K * scale_K)) / len(rows_MC) - spread_CC @ mean_C
            maps = maps.contiguous(memory_format=torch.channels_last)
            _rows(maps, 1).addmm_(rows_MC, spread_CC).add_(shift_C)
        bias_K = torch.zeros_like(gamma_K) if ctx.needs_input_grad[2] else None  # the norm takes it away
        kernels = _as_kernels(weight, like=weight_KCHW)
        return maps, kernels, bias_K, scale * inverse_K, shift_K, None, None


def _moments(rows_MC: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance, in two passes: the difference of two near numbers has no digits left."""
    mean_C = rows_MC.new_ones(len(rows_MC)) @ rows_MC / len(rows_MC)
    centred_MC = rows_MC - mean_C
    return mean_C, centred_MC.mT @ centred_MC / len(rows_MC)


def _as_rows(kernels_KCHW: Tensor) -> Tensor:
    return kernels_KCHW.permute(0, 2, 3, 1).flatten(1)


def _as_kernels(rows_KC: Tensor, *, like: Tensor) -> Tensor:
    k, c, height, width = like.shape
    return rows_KC.view(k, height, width, c).permute(0, 3, 1, 2)
