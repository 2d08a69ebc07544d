"""A frozen teacher's wide 3×3 convolutions of small maps, in bf16 with four ninths of the products.

Winograd's way (Lavin and Gray 2016) with tiles of 2×2 outputs, which look at 4×4 inputs: 16 products per
tile and pair of channels instead of 36. Its sums have factors of 1 only, so bf16 can bear it: the error is
5e-3 of the outputs' norm, where oneDNN's own bf16 convolution has 2.3e-3. A map of 4×4 is so small that its
transform, all tiles and points at once, is one matrix; the layer is three matrix products.

Shapes: N images, T tiles, C channels in, K channels out, P = 16 points.
"""

from __future__ import annotations

from functools import cache

import torch  # noqa: TID253 - reached only through the precision of a network
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.training import winograd

OUT, IN, POINTS = 2, 4, 16  # a tile's outputs and inputs per side; values per tile
NARROWEST = 384  # channels; with fewer, the transforms cost what is saved
PIXELS = 16  # per map; the matrices of larger ones are mostly zeros

TO_VALUES = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL = ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1))
TO_OUTPUTS = ((1, 1, 1, 0), (0, 1, -1, -1))


class SmallMapConv2d(nn.Conv2d):
    """A 3×3 convolution of stride 1 and padding 1 that takes this way with small bf16 maps on a CPU."""

    kernels_PCK: Tensor

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, K, H, W), in channels_last."""
        if not _suits(input) or torch.is_grad_enabled():
            return super().forward(input)
        height, width = input.shape[2:]
        to_values, to_outputs = _transforms(height, width)
        maps = input.permute(2, 3, 0, 1).reshape(height * width, -1)
        values_PTC = (to_values @ maps).view(POINTS, -1, self.in_channels)
        products = torch.bmm(values_PTC, self.kernels_PCK).view(len(to_values), -1)
        outputs_HWNK = (to_outputs @ products).view(height, width, -1, self.out_channels)
        outputs_NKHW = torch.empty_like(outputs_HWNK.permute(2, 3, 0, 1), memory_format=torch.channels_last)
        bias_K = 0 if self.bias is None else self.bias.to(torch.bfloat16)[:, None, None]
        return torch.add(outputs_HWNK.permute(2, 3, 0, 1), bias_K, out=outputs_NKHW)


def applies(conv: nn.Conv2d) -> bool:
    """Whether it pays for this layer, should its maps be small."""
    return winograd.is_plain(conv) and min(conv.in_channels, conv.out_channels) >= NARROWEST


def hasten(conv: nn.Conv2d) -> None:
    """Let `conv` go this way; its weights, still fp32, may not change afterwards."""
    conv.__class__ = SmallMapConv2d
    conv.kernels_PCK = winograd.kernel_values(conv.weight.detach(), KERNEL).to(torch.bfloat16)


def _suits(maps_NCHW: Tensor) -> bool:
    if maps_NCHW.device.type != "cpu" or maps_NCHW.dtype != torch.bfloat16 or maps_NCHW.dim() != 4:
        return False
    height, width = maps_NCHW.shape[2:]
    return height * width <= PIXELS and height % OUT == width % OUT == 0 and len(maps_NCHW) > 0


@cache
def _transforms(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Of whole maps to the values of all tiles, (P·T, H·W), and of products to maps, (H·W, P·T)."""
    (values_h, outputs_h), (values_w, outputs_w) = _one_way(height), _one_way(width)
    to_values = torch.einsum("pth,qsw->pqtshw", values_h, values_w).reshape(-1, height * width)
    to_outputs = torch.einsum("hpt,wqs->hwpqts", outputs_h, outputs_w).reshape(height * width, -1)
    return to_values.bfloat16(), to_outputs.bfloat16()  # ones: nothing is rounded


def _one_way(side: int) -> tuple[Tensor, Tensor]:
    """The same for a row of `side` numbers: (4, tiles, side) and (side, 4, tiles)."""
    tiles = side // OUT
    to_values, to_outputs = torch.zeros(IN, tiles, side + 2), torch.zeros(tiles, OUT, IN, tiles)
    for tile in range(tiles):
        to_values[:, tile, OUT * tile : OUT * tile + IN] = torch.tensor(TO_VALUES)
        to_outputs[tile, :, :, tile] = torch.tensor(TO_OUTPUTS)
    return to_values[:, :, 1:-1], to_outputs.flatten(0, 1)  # without the padding
