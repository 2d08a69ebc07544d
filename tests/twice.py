"""A network that several tests of BatchNorms need: what the norm sees, others see too."""

from __future__ import annotations

from torch import Tensor, nn


class Twice(nn.Module):
    """A convolution whose output goes to a BatchNorm and past it."""

    def __init__(self, c_out: int = 3) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, c_out, 1), nn.BatchNorm2d(c_out)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """(N, c_out)."""
        seen: Tensor = self.conv(images_NCHW)
        mixed: Tensor = self.norm(seen) + seen
        return mixed.mean((2, 3))
