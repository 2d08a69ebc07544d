"""Wide 3×3 convolutions with a quarter of the products (Lavin and Gray 2016), for CPUs without bf16 units.

A tile of 4×4 outputs looks at 6×6 inputs. Both are polynomials, and a product of polynomials is pointwise
where they are given by their values at six points: 36 products per tile and pair of channels instead of 144.
Everything is matrix products of torch's: the values of all tiles (36 × 36 times tiles), 36 products of
(tiles × c_in) with (c_in × c_out), and back (16 × 36). Relative error about 1e-5, as with cuDNN's own.

Shapes: N images, T tiles, C channels in, K channels out, P = 36 points.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch  # noqa: TID253 - reached only through the precision of a network
import torch.nn.functional as F  # noqa: N812, TID253
from torch import Tensor, nn  # noqa: TID253

OUT, IN, POINTS = 4, 6, 36  # a tile's outputs and inputs per side; values per tile
NARROWEST = 64  # channels
FEWEST_PAIRS = 64 * 128  # of channels; with fewer, the transforms cost more than is saved (seen: 64 × 64)

INPUT = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
         (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))  # fmt: skip
KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
          (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip
OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


@cache
def _both_ways(matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """The transform of rows and columns at once, (rows², columns²)."""
    one_way = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one_way, one_way).float()


class WinogradConv2d(nn.Conv2d):
    """A 3×3 convolution of stride 1 and padding 1 that takes this way with fp32 maps on a CPU."""

    _frozen_PKC: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, K, H, W), in channels_last."""
        if input.device.type != "cpu" or torch.is_autocast_enabled("cpu") or input.dtype != torch.float32:
            return super().forward(input)
        maps_NKHW: Tensor = _Convolve.apply(input, self.weight, self._kernels())
        return maps_NKHW if self.bias is None else maps_NKHW + self.bias.view(1, -1, 1, 1)

    def _kernels(self) -> Tensor:
        """The kernels' values at the points; a teacher's are calculated once."""
        if self._frozen_PKC is None or self.weight.requires_grad:
            kernels_PKC = kernel_values(self.weight.detach())
            if self.weight.requires_grad:
                return kernels_PKC
            self._frozen_PKC = kernels_PKC
        return self._frozen_PKC


def applies(conv: nn.Conv2d) -> bool:
    """Whether it pays for this layer."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    narrow = min(conv.in_channels, conv.out_channels) < NARROWEST
    few = conv.in_channels * conv.out_channels < FEWEST_PAIRS
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and not narrow and not few


def kernel_values(weight_KCHW: Tensor) -> Tensor:
    """(P, K, C)."""
    k, c = weight_KCHW.shape[:2]
    return (_both_ways(KERNEL) @ weight_KCHW.permute(2, 3, 0, 1).reshape(9, k * c)).view(POINTS, k, c)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps_NCHW: Tensor, weight_KCHW: Tensor, kernels_PKC: Tensor) -> Tensor:
        n, _, height, width = maps_NCHW.shape
        ctx.dims = n, height, width, -(-height // OUT), -(-width // OUT)
        values_PTC = _input_values(maps_NCHW)
        ctx.save_for_backward(values_PTC, kernels_PKC)
        products_PTK = torch.bmm(values_PTC, kernels_PKC.mT)
        return _assembled(_both_ways(OUTPUT) @ products_PTK.view(POINTS, -1), *ctx.dims)

    @staticmethod
    def backward(ctx: Any, gradient_NKHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values_PTC, kernels_PKC = ctx.saved_tensors
        tiles = _output_tiles(gradient_NKHW, *ctx.dims)
        k, c = kernels_PKC.shape[1:]
        products_PTK = (_both_ways(OUTPUT).mT @ tiles).view(POINTS, -1, k)
        maps_NCHW = weight_KCHW = None
        if ctx.needs_input_grad[1]:
            kernels_gradient = torch.bmm(products_PTK.mT, values_PTC).view(POINTS, k * c)
            weight_33KC = (_both_ways(KERNEL).mT @ kernels_gradient).view(3, 3, k, c)
            weight_KCHW = weight_33KC.permute(2, 0, 1, 3).contiguous().permute(0, 3, 1, 2)
        if ctx.needs_input_grad[0]:
            values_gradient = torch.bmm(products_PTK, kernels_PKC).view(POINTS, -1)
            maps_NCHW = _overlapped(_both_ways(INPUT).mT @ values_gradient, *ctx.dims)
        return maps_NCHW, weight_KCHW, None


def _input_values(maps_NCHW: Tensor) -> Tensor:
    """The values of all 6×6 tiles, which overlap by two, (P, T, C)."""
    c, height, width = maps_NCHW.shape[1:]
    right, below = 1 + -width % OUT, 1 + -height % OUT
    padded_NHWC = F.pad(maps_NCHW.permute(0, 2, 3, 1), (0, 0, 1, right, 1, below))
    tiles = padded_NHWC.unfold(1, IN, OUT).unfold(2, IN, OUT)  # N, down, across, C, 6, 6
    return (_both_ways(INPUT) @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(POINTS, -1)).view(POINTS, -1, c)


def _assembled(tiles: Tensor, n: int, height: int, width: int, down: int, across: int) -> Tensor:
    """Maps (N, K, H, W) from 4×4 tiles (16, T·K)."""
    maps = tiles.view(OUT, OUT, n, down, across, -1).permute(2, 3, 0, 4, 1, 5)
    maps_NHWK = maps.reshape(n, down * OUT, across * OUT, -1)[:, :height, :width]
    return maps_NHWK.contiguous().permute(0, 3, 1, 2)


def _output_tiles(maps_NKHW: Tensor, n: int, height: int, width: int, down: int, across: int) -> Tensor:
    """4×4 tiles (16, T·K) of maps."""
    maps_NHWK = maps_NKHW.permute(0, 2, 3, 1)
    if height % OUT or width % OUT:
        maps_NHWK = F.pad(maps_NHWK, (0, 0, 0, -width % OUT, 0, -height % OUT))
    tiles = maps_NHWK.reshape(n, down, OUT, across, OUT, -1).permute(2, 4, 0, 1, 3, 5)
    return tiles.reshape(OUT * OUT, -1)


def _overlapped(tiles: Tensor, n: int, height: int, width: int, down: int, across: int) -> Tensor:
    """The sum of 6×6 tiles (36, T·C) where they lay, (N, C, H, W)."""
    tiles = tiles.view(IN, IN, n, down, across, -1)
    sums = tiles.new_zeros(n, down + 1, OUT, across + 1, OUT, tiles.shape[-1])
    places = sums.permute(2, 4, 0, 1, 3, 5)  # 4, 4, N, down + 1, across + 1, C
    over = IN - OUT
    places[:, :, :, :-1, :-1] = tiles[:OUT, :OUT]
    places[:over, :, :, 1:, :-1] += tiles[OUT:, :OUT]
    places[:, :over, :, :-1, 1:] += tiles[:OUT, OUT:]
    places[:over, :over, :, 1:, 1:] += tiles[OUT:, OUT:]
    maps_NHWC = sums.view(n, (down + 1) * OUT, (across + 1) * OUT, -1)
    return maps_NHWC[:, 1 : height + 1, 1 : width + 1].contiguous().permute(0, 3, 1, 2)
