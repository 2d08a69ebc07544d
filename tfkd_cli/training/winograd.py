"""Wide 3×3 convolutions with a quarter of the products (Lavin and Gray 2016), for CPUs without bf16 units.

A tile of 4×4 outputs looks at 6×6 inputs. Both are polynomials, and a product of polynomials is pointwise
where they are given by their values at six points: 36 products per tile and pair of channels instead of 144.
Everything is torch's: sums of rows and of columns that give the values of all tiles, 36 matrix products of
(tiles × c_in) with (c_in × c_out), and sums back; a few images at a time, so that their tiles stay in the
cache. Relative error about 1e-5, as with cuDNN's own.

Shapes: N images, T tiles, C channels in, K channels out, P = 36 points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch  # noqa: TID253 - reached only through the precision of a network
from torch import Tensor, nn  # noqa: TID253
from torch.autograd.function import once_differentiable  # noqa: TID253

from tfkd_cli.training.norms import BeforeNorm

OUT, IN, POINTS = 4, 6, 36  # a tile's outputs and inputs per side; values per tile
NARROWEST = 64  # channels; with fewer, the transforms cost more than is saved
TILES = 128  # at a time: large enough for a product, small enough for the cache (seen: 128 to 256)

KERNEL = ((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
          (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1))  # fmt: skip


OneWay = tuple[tuple[float, ...], ...]


@cache
def _of_kernels(one_way: OneWay) -> Tensor:
    """The transform of a kernel's rows and columns at once, (P, 9), from that of one of them, (√P, 3)."""
    rows = torch.tensor(one_way, dtype=torch.float64)
    return torch.kron(rows, rows).float()


class WinogradConv2d(BeforeNorm, nn.Conv2d):
    """A 3×3 convolution of stride 1 and padding 1 that takes this way with fp32 maps on a CPU."""

    _frozen: tuple[object, Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, K, H, W), in channels_last."""
        suits = input.device.type == "cpu" and input.dtype == torch.float32 and input.dim() == 4
        if not suits or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        maps_NKHW: Tensor = _Convolve.apply(input, self.weight, self.bias, self._kernels(), self.bias_matters)
        return maps_NKHW

    def _kernels(self) -> Tensor:
        """The kernels' values at the points; a teacher's are calculated once."""
        if self.weight.requires_grad:
            return kernel_values(self.weight.detach())
        state = (self.weight.data_ptr(), self.weight._version)
        if self._frozen is None or self._frozen[0] != state:
            with torch.inference_mode(mode=False):  # a training step may be the next to use them
                self._frozen = (state, kernel_values(self.weight.detach()))
        return self._frozen[1]


def applies(conv: nn.Conv2d) -> bool:
    """Whether it pays for this layer."""
    return is_plain(conv) and min(conv.in_channels, conv.out_channels) >= NARROWEST


def is_plain(conv: nn.Conv2d) -> bool:
    """Whether it is a 3×3 convolution of stride 1 with zeros around the maps, which keep their size."""
    shape = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def hasten(conv: nn.Conv2d) -> None:
    """Let `conv` go this way; names of weights stay."""
    conv.__class__ = WinogradConv2d


def kernel_values(weight_KCHW: Tensor, one_way: OneWay = KERNEL) -> Tensor:
    """The kernels' values at the points, (P, C, K)."""
    k, c = weight_KCHW.shape[:2]
    return (_of_kernels(one_way) @ weight_KCHW.permute(2, 3, 1, 0).reshape(9, c * k)).view(-1, c, k)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps_NCHW: Tensor,
        weight_KCHW: Tensor,  # for its gradient
        bias_K: Tensor | None,
        kernels_PCK: Tensor,
        bias_matters: bool,  # noqa: FBT001
    ) -> Tensor:
        ctx.save_for_backward(maps_NCHW, kernels_PCK)
        ctx.bias_matters = bias_matters
        maps_NHWC = maps_NCHW.permute(0, 2, 3, 1)
        n, height, width, _ = maps_NHWC.shape
        outputs_NKHW = torch.empty(  # not a view: autograd lets nobody write into one
            n, kernels_PCK.shape[2], height, width, memory_format=torch.channels_last
        )
        outputs_NHWK = outputs_NKHW.permute(0, 2, 3, 1)
        for tiles, images in _in_parts(maps_NHWC, outputs=outputs_NHWK.shape[-1]):
            tiles.multiply(tiles.values_of(maps_NHWC[images]), kernels_PCK)
            if bias_K is not None:
                tiles.add(bias_K)
            tiles.assemble(outputs_NHWK[images])
        return outputs_NKHW

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NKHW: Tensor) -> tuple[Tensor | None, ...]:
        maps_NCHW, kernels_PCK = ctx.saved_tensors
        maps_NHWC = maps_NCHW.permute(0, 2, 3, 1)
        gradient_NHWK = gradient_NKHW.permute(0, 2, 3, 1).contiguous()
        _, c, k = kernels_PCK.shape
        kernels_gradient = torch.zeros_like(kernels_PCK)
        back_NHWC = torch.empty(maps_NHWC.shape) if ctx.needs_input_grad[0] else None
        for tiles, images in _in_parts(maps_NHWC, outputs=k):
            products_PTK = tiles.disassemble(gradient_NHWK[images])
            kernels_gradient.baddbmm_(tiles.values_of(maps_NHWC[images]).mT, products_PTK)
            if back_NHWC is not None:
                tiles.overlap(products_PTK, kernels_PCK, back_NHWC[images])
        weight_33CK = (_of_kernels(KERNEL).mT @ kernels_gradient.view(POINTS, c * k)).view(3, 3, c, k)
        weight = weight_33CK.permute(3, 0, 1, 2).contiguous().permute(0, 3, 1, 2)
        bias_K = gradient_NHWK.new_zeros(k) if ctx.needs_input_grad[2] else None
        if bias_K is not None and ctx.bias_matters:
            bias_K = gradient_NHWK.flatten(0, 2).sum(0)
        back = None if back_NHWC is None else back_NHWC.permute(0, 3, 1, 2)
        return back, weight, bias_K, None, None


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
    """Room for the tiles of a few images: inputs as 6×6, overlapping by two; outputs as 4×4.

    Rows are transformed first on the way to the points, columns first on the way back, so that one of
    the two passes runs over whole rows of the maps and no tile is ever copied out of them.
    """

    def __init__(self, count: int, *, height: int, width: int, c: int, k: int, like: Tensor) -> None:
        down, across = -(-height // OUT), -(-width // OUT)
        t, self.count = count * down * across, count
        tall, wide = (down + 1) * OUT, (across + 1) * OUT  # with the overlap of the last tiles
        self._values = like.new_empty(POINTS, t, c)
        self._products = like.new_empty(POINTS, t, k)
        inputs = like.new_zeros(count, tall, wide, c)  # what is not filled in stays the padding
        outputs = like.new_zeros(count, down * OUT, across * OUT, k)
        self._inputs, self._outputs = inputs[:, 1 : height + 1, 1 : width + 1], outputs[:, :height, :width]
        overlap = like.new_empty(count, tall, wide, c)
        self._overlap = overlap[:, 1 : height + 1, 1 : width + 1]
        strips_c = like.new_empty(IN, count, down, wide, c)
        strips_k = like.new_empty(IN, count, down, across * OUT, k)
        room = like.new_empty(4 * max(strips_c[0].numel(), IN * t * max(c, k)))
        values = self._values.view(IN, IN, count, down, across, c).transpose(0, 1)
        products = self._products.view(IN, IN, count, down, across, k).transpose(0, 1)
        places_c = strips_c.view(IN, count, down, across + 1, OUT, c)
        places_k = strips_k.view(IN, count, down, across, OUT, k).permute(4, 0, 1, 2, 3, 5)
        rows_k = outputs.view(count, down, OUT, across * OUT, k).permute(2, 0, 1, 3, 4)
        self._to_values = [
            *_to_points(inputs.unfold(1, IN, OUT).permute(4, 0, 1, 2, 3), strips_c, room),
            *_to_points(strips_c.unfold(3, IN, OUT).permute(5, 0, 1, 2, 3, 4), values, room),
        ]
        self._to_outputs = [*_from_points(products, places_k, room), *_from_points(strips_k, rows_k, room)]
        self._to_products = [
            *_back_from_points(rows_k, strips_k, room),
            *_back_from_points(places_k, products, room),
        ]
        rows_c = overlap.view(count, down + 1, OUT, wide, c).permute(2, 1, 0, 3, 4)
        self._to_overlap = [
            *_back_to_points(values.permute(0, 4, 1, 2, 3, 5), places_c.permute(4, 3, 0, 1, 2, 5), room),
            *_back_to_points(strips_c.transpose(1, 2), rows_c, room),
        ]

    def values_of(self, maps_NHWC: Tensor) -> Tensor:
        """The values of the maps' tiles, (P, T, C)."""
        self._inputs.copy_(maps_NHWC)
        _do(self._to_values)
        return self._values

    def multiply(self, values_PTC: Tensor, kernels_PCK: Tensor) -> None:
        """The outputs' values, kept for `assemble`."""
        torch.bmm(values_PTC, kernels_PCK, out=self._products)

    def add(self, bias_K: Tensor) -> None:
        """Add a constant to all outputs: to their values at one point of 36, (1, 1)."""
        self._products[IN + 1].add_(bias_K)

    def assemble(self, outputs_NHWK: Tensor) -> None:
        """Fill in the outputs."""
        _do(self._to_outputs)
        outputs_NHWK.copy_(self._outputs)

    def disassemble(self, gradient_NHWK: Tensor) -> Tensor:
        """The way back through `assemble`, (P, T, K); not after it, whose edges are full."""
        self._outputs.copy_(gradient_NHWK)
        _do(self._to_products)
        return self._products

    def overlap(self, products_PTK: Tensor, kernels_PCK: Tensor, maps_NHWC: Tensor) -> None:
        """The way back through `multiply` and `values_of`, into `maps_NHWC`."""
        torch.bmm(products_PTK, kernels_PCK.mT, out=self._values)
        _do(self._to_overlap)
        maps_NHWC.copy_(self._overlap)


Steps = list[Callable[[], Tensor]]


def _do(steps: Steps) -> None:
    for step in steps:
        step()


def _parts(planes: int, like: Tensor, room: Tensor) -> Tensor:
    return room[: planes * like.numel()].view(planes, *like.shape)


def _sum(a: Tensor, b: Tensor, factor: int, out: Tensor) -> Callable[[], Tensor]:
    return partial(torch.add, a, b, alpha=factor, out=out)


def _to_points(inputs: Tensor, values: Tensor, room: Tensor) -> Steps:
    """Six inputs x to their values y at the points, along the first axis, by sums that share their parts.

    y0 = 4 x0 - 5 x2 + x4, y1 = -4 x1 - 4 x2 + x3 + x4, y2 = 4 x1 - 4 x2 - x3 + x4,
    y3 = -2 x1 - x2 + 2 x3 + x4, y4 = 2 x1 - x2 - 2 x3 + x4, y5 = 4 x1 - 5 x3 + x5.
    """
    x, y, parts = inputs.unbind(), values.unbind(), _parts(4, inputs[0], room)
    odd, even, odd_one, even_one = parts.unbind()
    return [
        _sum(inputs[3:5], inputs[1:3], -4, parts[:2]),
        _sum(inputs[3:5], inputs[1:3], -1, parts[2:]),
        _sum(even, odd, 1, y[1]),
        _sum(even, odd, -1, y[2]),
        _sum(even_one, odd_one, 2, y[3]),
        _sum(even_one, odd_one, -2, y[4]),
        _sum(x[0], x[2], -1, even),
        _sum(even_one, even, 4, y[0]),
        _sum(x[5], x[3], -1, odd),
        _sum(odd, odd_one, -4, y[5]),
    ]


def _from_points(values: Tensor, outputs: Tensor, room: Tensor) -> Steps:
    """Six values y to four outputs o, along the first axis.

    o0 = y0 + y1 + y2 + y3 + y4, o1 = y1 - y2 + 2 y3 - 2 y4, o2 = y1 + y2 + 4 y3 + 4 y4,
    o3 = y1 - y2 + 8 y3 - 8 y4 + y5.
    """
    y, o, parts = values.unbind(), outputs.unbind(), _parts(4, values[0], room)
    p, r, q, s = parts.unbind()
    return [
        _sum(values[1:5:2], values[2:5:2], 1, parts[:2]),
        _sum(values[1:5:2], values[2:5:2], -1, parts[2:]),
        _sum(q, s, 2, o[1]),
        _sum(p, r, 4, o[2]),
        _sum(p, r, 1, p),
        _sum(p, y[0], 1, o[0]),
        _sum(q, s, 8, q),
        _sum(q, y[5], 1, o[3]),
    ]


def _back_from_points(gradients: Tensor, values: Tensor, room: Tensor) -> Steps:
    """The transpose of `_from_points`, four to six."""
    g, y, parts = gradients.unbind(), values.unbind(), _parts(2, gradients[0], room)
    one, two = parts.unbind()
    return [
        _sum(gradients[:2], gradients[2:], 1, parts),
        _sum(one, two, 1, y[1]),
        _sum(one, two, -1, y[2]),
        _sum(gradients[:2], gradients[2:], 4, parts),
        _sum(one, two, 2, y[3]),
        _sum(one, two, -2, y[4]),
        partial(y[0].copy_, g[0]),
        partial(y[5].copy_, g[3]),
    ]


def _back_to_points(values: Tensor, inputs: Tensor, room: Tensor) -> Steps:
    """The transpose of `_to_points`: six to their tile's four places and two of the next (second axis)."""
    y, x, parts = values.unbind(), inputs.unbind(), _parts(4, values[0], room)
    own = [each[: values.shape[1]] for each in x]
    rest = inputs[:2, values.shape[1] :]
    p, r, q, s = parts.unbind()
    return [
        _sum(values[1:5:2], values[2:5:2], 1, parts[:2]),
        _sum(values[1:5:2], values[2:5:2], -1, parts[2:]),
        partial(torch.mul, y[0], 4, out=own[0]),
        _sum(q, s, 2, own[3]),
        _sum(own[3], y[5], -5, own[3]),
        _sum(s, q, 2, s),
        _sum(s, y[5], -2, s),
        partial(torch.mul, s, -2, out=own[1]),
        _sum(r, p, 4, s),
        _sum(s, y[0], 5, s),
        partial(torch.mul, s, -1, out=own[2]),
        _sum(p, r, 1, p),
        _sum(p, y[0], 1, p),
        rest.zero_,
        _sum(x[0][1:], p, 1, x[0][1:]),
        _sum(x[1][1:], y[5], 1, x[1][1:]),
    ]
