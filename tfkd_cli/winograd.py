"""Wide 3×3 convolutions with a quarter of the products (Lavin and Gray 2016), for CPUs without bf16 units.

A tile of 4×4 outputs looks at 6×6 inputs. Both are polynomials, and a product of polynomials is pointwise
where they are given by their values at six points: 36 products per tile and pair of channels instead of 144.
Everything is matrix products of torch's: the values of all tiles (36 × 36 times tiles), 36 products of
(tiles × c_in) with (c_in × c_out), and back (16 × 36); a few images at a time, so that their tiles stay in
the cache. Relative error about 1e-5, as with cuDNN's own.

Shapes: N images, T tiles, C channels in, K channels out, P = 36 points.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch  # noqa: TID253 - reached only through the precision of a network
import torch.nn.functional as F  # noqa: N812, TID253
from torch import Tensor, nn  # noqa: TID253

OUT, IN, POINTS = 4, 6, 36  # a tile's outputs and inputs per side; values per tile
NARROWEST = 64  # channels; with fewer, the transforms cost more than is saved
NARROWEST_MAPS_AVX2 = 256  # there oneDNN's forward and gradient of inputs are fast, that of kernels is not
TILES = 256  # at a time: large enough for a product, small enough for the cache (seen: 256 to 512)

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

    _frozen_PCK: Tensor | None = None
    maps_too = True
    """Whether maps go this way, not the kernels' gradient alone."""

    bias_matters = True
    """False where a BatchNorm takes the bias away: its gradient is zero."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, K, H, W), in channels_last."""
        if input.device.type != "cpu" or torch.is_autocast_enabled("cpu") or input.dtype != torch.float32:
            return super().forward(input)
        kernels_PCK = self._kernels() if self.maps_too else None
        maps_NKHW: Tensor = _Convolve.apply(input, self.weight, self.bias, kernels_PCK, self)
        return maps_NKHW

    def _kernels(self) -> Tensor:
        """The kernels' values at the points; a teacher's are calculated once."""
        if self._frozen_PCK is None or self.weight.requires_grad:
            kernels_PCK = kernel_values(self.weight.detach())
            if self.weight.requires_grad:
                return kernels_PCK
            self._frozen_PCK = kernels_PCK
        return self._frozen_PCK


def applies(conv: nn.Conv2d) -> bool:
    """Whether it pays for this layer, or for its kernels' gradient at least."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros") and _narrowest(conv) >= NARROWEST


def hasten(conv: nn.Conv2d, *, narrowest_maps: int = NARROWEST) -> None:
    """Let `conv` go this way, its maps where it is wide enough for them; names of weights stay."""
    conv.__class__ = WinogradConv2d
    assert isinstance(conv, WinogradConv2d)
    conv.maps_too = _narrowest(conv) >= narrowest_maps


def _narrowest(conv: nn.Conv2d) -> int:
    return min(conv.in_channels, conv.out_channels)


def kernel_values(weight_KCHW: Tensor) -> Tensor:
    """(P, C, K)."""
    k, c = weight_KCHW.shape[:2]
    return (_both_ways(KERNEL) @ weight_KCHW.permute(2, 3, 1, 0).reshape(9, c * k)).view(POINTS, c, k)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps_NCHW: Tensor,
        weight_KCHW: Tensor,
        bias_K: Tensor | None,
        kernels_PCK: Tensor | None,
        conv: WinogradConv2d,
    ) -> Tensor:
        ctx.save_for_backward(maps_NCHW, weight_KCHW, kernels_PCK)
        ctx.conv = conv
        if kernels_PCK is None:
            return F.conv2d(maps_NCHW, weight_KCHW, bias_K, padding=1)
        maps_NHWC = maps_NCHW.permute(0, 2, 3, 1)
        outputs_NHWK = maps_NHWC.new_empty(*maps_NHWC.shape[:3], kernels_PCK.shape[2])
        for tiles, images in _in_parts(maps_NHWC, outputs=outputs_NHWK.shape[-1]):
            tiles.multiply(tiles.values_of(maps_NHWC[images]), kernels_PCK)
            tiles.assemble(outputs_NHWK[images])
            if bias_K is not None:
                outputs_NHWK[images] += bias_K
        return outputs_NHWK.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, gradient_NKHW: Tensor) -> tuple[Tensor | None, ...]:
        maps_NCHW, weight_KCHW, kernels_PCK = ctx.saved_tensors
        maps_NHWC = maps_NCHW.permute(0, 2, 3, 1)
        gradient_NHWK = gradient_NKHW.permute(0, 2, 3, 1).contiguous()
        k, c = weight_KCHW.shape[:2]
        kernels_gradient = maps_NCHW.new_zeros(POINTS, c, k)
        quick = ctx.needs_input_grad[0] and kernels_PCK is not None
        back_NHWC = torch.empty(maps_NHWC.shape) if quick else None
        for tiles, images in _in_parts(maps_NHWC, outputs=k):
            products_PTK = tiles.disassemble(gradient_NHWK[images])
            kernels_gradient.baddbmm_(tiles.values_of(maps_NHWC[images]).mT, products_PTK)
            if back_NHWC is not None:
                tiles.overlap(products_PTK, kernels_PCK, back_NHWC[images])
        weight_33CK = (_both_ways(KERNEL).mT @ kernels_gradient.view(POINTS, c * k)).view(3, 3, c, k)
        weight = weight_33CK.permute(3, 0, 1, 2).contiguous().permute(0, 3, 1, 2)
        bias_K = gradient_NHWK.new_zeros(k) if ctx.needs_input_grad[2] else None
        if bias_K is not None and ctx.conv.bias_matters:
            bias_K = gradient_NHWK.flatten(0, 2).sum(0)
        back = None if back_NHWC is None else back_NHWC.permute(0, 3, 1, 2)
        if ctx.needs_input_grad[0] and back is None:
            back = _gradient_of_maps(gradient_NKHW, maps_NCHW, weight_KCHW)
        return back, weight, bias_K, None, None


def _gradient_of_maps(gradient_NKHW: Tensor, maps_NCHW: Tensor, weight_KCHW: Tensor) -> Tensor:
    one, transposed, only_maps = [1, 1], False, [True, False, False]
    back: Tensor = torch.ops.aten.convolution_backward(
        gradient_NKHW, maps_NCHW, weight_KCHW, [0], one, one, one, transposed, [0, 0], 1, only_maps
    )[0]
    return back


def _in_parts(maps_NHWC: Tensor, *, outputs: int) -> Iterator[tuple[_Tiles, slice]]:
    """A few images at a time, and room for their tiles."""
    n, height, width, c = maps_NHWC.shape
    step = max(1, TILES // (-(-height // OUT) * -(-width // OUT)))
    tiles = None
    for start in range(0, n, step):
        count = min(step, n - start)
        if tiles is None or tiles.count != count:
            tiles = _Tiles(count, height=height, width=width, c=c, k=outputs, like=maps_NHWC)
        yield tiles, slice(start, start + count)


class _Tiles:
    """Room for the tiles of a few images: inputs as 6×6, overlapping by two; outputs as 4×4."""

    def __init__(self, count: int, *, height: int, width: int, c: int, k: int, like: Tensor) -> None:
        down, across = -(-height // OUT), -(-width // OUT)
        t = count * down * across
        self.count, self.height, self.width = count, height, width
        self._padded = like.new_empty(count, (down + 1) * OUT, (across + 1) * OUT, c)
        self._places = self._padded.view(count, down + 1, OUT, across + 1, OUT, c).permute(2, 4, 0, 1, 3, 5)
        self._overlapping = self._padded.unfold(1, IN, OUT).unfold(2, IN, OUT).permute(4, 5, 0, 1, 2, 3)
        self._inputs, self._values = like.new_empty(2, POINTS, t * c)
        self._tiled = self._inputs.view(IN, IN, count, down, across, c)
        self._products = like.new_empty(POINTS, t, k)
        self._outputs = like.new_empty(OUT * OUT, t * k)
        self._by_place = self._outputs.view(OUT, OUT, count, down, across, k).permute(2, 3, 0, 4, 1, 5)
        self._shape = POINTS, t, c
        self._whole = height % OUT == width % OUT == 0

    def values_of(self, maps_NHWC: Tensor) -> Tensor:
        """The values of the maps' tiles, (P, T, C)."""
        self._padded.zero_()
        self._padded[:, 1 : self.height + 1, 1 : self.width + 1].copy_(maps_NHWC)
        self._tiled.copy_(self._overlapping)
        return torch.mm(_both_ways(INPUT), self._inputs, out=self._values).view(self._shape)

    def multiply(self, values_PTC: Tensor, kernels_PCK: Tensor) -> None:
        """The outputs' values, kept for `assemble`."""
        torch.bmm(values_PTC, kernels_PCK, out=self._products)

    def assemble(self, outputs_NHWK: Tensor) -> None:
        """Fill in the outputs."""
        torch.mm(_both_ways(OUTPUT), self._products.flatten(1), out=self._outputs)
        if self._whole:
            outputs_NHWK.view(self._by_place.shape).copy_(self._by_place)
        else:
            whole = self._by_place.flatten(3, 4).flatten(1, 2)
            outputs_NHWK.copy_(whole[:, : self.height, : self.width])

    def disassemble(self, gradient_NHWK: Tensor) -> Tensor:
        """The way back through `assemble`, (P, T, K)."""
        if not self._whole:
            gradient_NHWK = F.pad(gradient_NHWK, (0, 0, 0, -self.width % OUT, 0, -self.height % OUT))
        self._by_place.copy_(gradient_NHWK.view(self._by_place.shape))
        torch.mm(_both_ways(OUTPUT).mT, self._outputs, out=self._products.flatten(1))
        return self._products

    def overlap(self, products_PTK: Tensor, kernels_PCK: Tensor, maps_NHWC: Tensor) -> None:
        """The way back through `multiply` and `values_of`, into `maps_NHWC`."""
        torch.bmm(products_PTK, kernels_PCK.mT, out=self._values.view(self._shape))
        torch.mm(_both_ways(INPUT).mT, self._values, out=self._inputs)
        tiled, places, over = self._tiled, self._places, IN - OUT
        self._padded.zero_()
        places[:, :, :, :-1, :-1] = tiled[:OUT, :OUT]
        places[:over, :, :, 1:, :-1] += tiled[OUT:, :OUT]
        places[:, :over, :, :-1, 1:] += tiled[:OUT, OUT:]
        places[:over, :over, :, 1:, 1:] += tiled[OUT:, OUT:]
        maps_NHWC.copy_(self._padded[:, 1 : self.height + 1, 1 : self.width + 1])
