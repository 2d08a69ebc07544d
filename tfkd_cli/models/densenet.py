"""DenseNet121 (Huang et al. 2017) as released for CIFAR: growth 32, blocks of 6, 12, 24 and 16 layers.

Source: released model/densenet.py. Quirks kept: a 3×3 stem to 64 channels without BN, and transitions
(BN, 1×1 convolution, 2×2 average) without ReLU.
"""

from __future__ import annotations

from functools import partial

import torch  # noqa: TID253  reached only through importlib
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.models.layers import global_average


class DenseLayer(nn.Module):
    """BN-ReLU-1×1-BN-ReLU-3×3; its maps are appended to the input."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(c_in),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_in, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Maps (N, C + growth, H, W)."""
        return torch.cat((maps_NCHW, self.layers(maps_NCHW)), dim=1)


class Transition(nn.Sequential):
    """BN, 1×1 convolution, 2×2 average pool."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(nn.BatchNorm2d(c_in), nn.Conv2d(c_in, c_out, 1, bias=False), nn.AvgPool2d(2))


class DenseNet(nn.Module):
    """Stem, dense blocks with halving transitions between them, global average, classifier."""

    def __init__(self, blocks: tuple[int, ...], *, growth: int, classes: int, channels: int) -> None:
        super().__init__()
        c = 2 * growth
        self.stem = nn.Conv2d(channels, c, 3, padding=1, bias=False)
        features: list[nn.Module] = []
        for index, count in enumerate(blocks):
            if index:
                features.append(Transition(c, c // 2))
                c //= 2
            features.append(nn.Sequential(*(DenseLayer(c + i * growth, growth) for i in range(count))))
            c += count * growth
        self.features = nn.Sequential(*features, nn.BatchNorm2d(c), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(c, classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes)."""
        maps = self.features(self.stem(images_NCHW))
        logits_NK: Tensor = self.classifier(global_average(maps))
        return logits_NK


densenet121 = partial(DenseNet, (6, 12, 24, 16), growth=32)
