"""The layer that most of the networks share."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: TID253, N812  reached only through importlib
from torch import Tensor  # noqa: TID253  reached only through importlib


def global_average(maps_NCHW: Tensor) -> Tensor:
    """The mean of each map, shape (N, C).

    Unlike an adaptive pool's or `mean`'s, the gradient of this pool stays in channels_last.
    """
    return F.avg_pool2d(maps_NCHW, maps_NCHW.shape[-2:]).flatten(1)
