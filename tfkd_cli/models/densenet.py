"""DenseNet121 (Huang et al. 2017) as released for CIFAR: growth 32, blocks of 6, 12, 24 and 16 layers.

Source: released model/densenet.py. Quirks kept: a 3×3 stem to 64 channels without BN, and transitions
(BN, 1×1 convolution, 2×2 average) without ReLU.
"""

from __future__ import annotations

from typing import cast

import torch  # noqa: TID253  reached only through importlib
import torch.nn.functional as F  # noqa: TID253, N812
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.models.layers import global_average, lies_plainly

IN_CACHE = 500_000  # numbers that are still at hand for a second pass


class DenseLayer(nn.Module):
    """BN-ReLU-1×1-BN-ReLU-3×3; its maps are appended to the input."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.growth = growth
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


class DenseBlock(nn.Sequential):
    """Dense layers in a row; without gradients on a CPU all maps go to one place, none is copied again."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, C + layers × growth, H, W)."""
        if not _may_be_rewritten(input, self):
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        n, c, height, width = input.shape
        layers = [cast("DenseLayer", each) for each in self]
        maps_NHWC = input.new_empty(n, height, width, c + sum(layer.growth for layer in layers))
        maps_NHWC[..., :c] = input.permute(0, 2, 3, 1)
        for layer in layers:
            normalised_NCHW = _normalised(maps_NHWC[..., :c], cast("nn.BatchNorm2d", layer.layers[0]))
            new_NCHW = layer.layers[2:](normalised_NCHW)
            maps_NHWC[..., c : c + layer.growth] = new_NCHW.permute(0, 2, 3, 1)
            c += layer.growth
        return maps_NHWC.permute(0, 3, 1, 2)


class Transition(nn.Sequential):
    """BN, 1×1 convolution, 2×2 average; all linear, so without gradients the average comes first."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(nn.BatchNorm2d(c_in), nn.Conv2d(c_in, c_out, 1, bias=False), nn.AvgPool2d(2))

    def forward(self, input: Tensor) -> Tensor:
        """Maps (N, c_out, H / 2, W / 2)."""
        if not _may_be_rewritten(input, self):
            return super().forward(input)  # type: ignore[no-any-return, no-untyped-call]
        scale_C, shift_C = _scale_and_shift(cast("nn.BatchNorm2d", self[0]))
        kernels_KC11 = cast("nn.Conv2d", self[1]).weight
        bias_K = (kernels_KC11 * shift_C.view(1, -1, 1, 1)).sum((1, 2, 3))
        return F.conv2d(self[2](input), kernels_KC11 * scale_C.view(1, -1, 1, 1), bias_K)


def _may_be_rewritten(maps_NCHW: Tensor, module: nn.Module) -> bool:
    """Whether only the numbers matter here: an evaluation or a teacher's answers, fp32, channels_last."""
    learns = module.training or torch.is_grad_enabled()
    return lies_plainly(maps_NCHW) and not learns and not torch.is_autocast_enabled("cpu")


def _scale_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a BatchNorm in eval mode multiplies by, and adds then, (C,)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale_C = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale_C, norm.bias - norm.running_mean * scale_C


def _normalised(maps_NHWC: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """ReLU(BN(maps)), (N, C, H, W), of maps that lie among others; a few images at a time."""
    scale_C, shift_C = _scale_and_shift(norm)
    outputs_NHWC = maps_NHWC.new_empty(maps_NHWC.shape)
    images = max(1, IN_CACHE // maps_NHWC[0].numel())
    parts = (torch.split(each, images) for each in (maps_NHWC, outputs_NHWC))
    for maps, outputs in zip(*parts, strict=True):
        torch.addcmul(shift_C, maps, scale_C, out=outputs).clamp_min_(0)
    return outputs_NHWC.permute(0, 3, 1, 2)


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
            features.append(DenseBlock(*(DenseLayer(c + i * growth, growth) for i in range(count))))
            c += count * growth
        self.features = nn.Sequential(*features, nn.BatchNorm2d(c), nn.ReLU(inplace=True))
        self.classifier = nn.Linear(c, classes)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits (N, classes)."""
        maps = self.features(self.stem(images_NCHW))
        logits_NK: Tensor = self.classifier(global_average(maps))
        return logits_NK


def densenet121(*, classes: int, channels: int) -> nn.Module:
    """7 048 548 parameters at 100 classes."""
    return DenseNet((6, 12, 24, 16), growth=32, classes=classes, channels=channels)
