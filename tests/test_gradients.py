"""A convolution's lean backward pass gives torch's gradients; a bias before a BatchNorm gets none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Self

import pytest
import torch
from torch import Tensor, nn

from tests.twice import Twice
from tfkd_cli import gradients, models, precision
from tfkd_cli.gradients import LeanConv2d
from tfkd_cli.models.layers import PaddedPointwise
from tfkd_cli.winograd import WinogradConv2d

CONVOLUTIONS: dict[str, Callable[[], nn.Conv2d]] = {
    "1×1": lambda: nn.Conv2d(4, 6, 1),
    "1×1 without bias": lambda: nn.Conv2d(4, 6, 1, bias=False),
    "1×1 that strides": lambda: nn.Conv2d(4, 6, 1, stride=2),
    "3×3": lambda: nn.Conv2d(4, 6, 3, padding=1, dilation=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, padding=1, stride=2, groups=4),
    "padded": lambda: PaddedPointwise(4, 6),
}


def results(conv: nn.Module, maps: Tensor, *, layout: torch.memory_format) -> dict[str, Tensor | None]:
    x = maps.clone(memory_format=torch.preserve_format).contiguous(memory_format=layout).requires_grad_()
    y = conv(x)
    y.backward(torch.linspace(-1, 1, y.numel()).sin().view(y.shape))
    return {"maps": y.detach(), "back": x.grad, **{name: p.grad for name, p in conv.named_parameters()}}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("size", [5, 11])  # 11 × 11 pixels are too many for one product
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_maps_and_gradients_are_torchs(name: str, size: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    plain = CONVOLUTIONS[name]().to(memory_format=torch.channels_last)
    lean = copy.deepcopy(plain)
    assert gradients.applies(lean)
    gradients.spare(lean, bias_matters=True, products=True)
    maps = torch.randn(3, 4, size, size)
    ours, theirs = (results(conv, maps, layout=layout) for conv in (lean, plain))
    for key, wanted in theirs.items():
        torch.testing.assert_close(ours[key], wanted, rtol=1e-5, atol=1e-5)


def test_the_product_is_in_channels_last() -> None:
    lean = nn.Conv2d(4, 6, 1)
    gradients.spare(lean, bias_matters=True, products=True)
    lean(torch.randn(2, 4, 3, 3)).sum().backward()
    assert lean.weight.grad is not None
    assert lean.weight.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["plain-cnn", "mobilenetv2", "shufflenetv2"])
def test_biases_before_a_norm_get_zeros_and_all_else_torchs_gradients(name: str) -> None:
    torch.manual_seed(0)
    plain = models.build(name, classes=5, channels=3, size=32).to(memory_format=torch.channels_last)
    for each in plain.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    spared = copy.deepcopy(plain)
    images = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    precision.save_gradients(spared, images_NCHW=images[:2])
    for network in (plain, spared):
        network(images).square().mean().backward()
    wanted, largest = dict(plain.named_parameters()), 0.0
    for key, ours in spared.named_parameters():
        theirs = wanted[key].grad
        assert ours.grad is not None
        assert theirs is not None
        largest = max(largest, float(theirs.abs().max()))
        torch.testing.assert_close(ours.grad, theirs, rtol=1e-3, atol=1e-4 * largest)
    without = [each for each in spared.modules() if isinstance(each, LeanConv2d) and not each.bias_matters]
    norms = [each for each in spared.modules() if isinstance(each, nn.BatchNorm2d)]
    assert len(without) == len(norms)
    assert all(each.bias is not None and not each.bias.grad.any() for each in without)  # type: ignore[union-attr]


def test_a_bias_that_others_see_keeps_its_gradient() -> None:
    network = Twice()
    precision.save_gradients(network, images_NCHW=torch.randn(2, 3, 4, 4))
    assert isinstance(network.conv, LeanConv2d)
    assert network.conv.bias_matters


def test_a_bias_before_a_frozen_norm_keeps_its_gradient() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Self:
            return super().train(mode=False)

    network = nn.Sequential(nn.Conv2d(3, 3, 1), Frozen(3), nn.Flatten())
    precision.save_gradients(network, images_NCHW=torch.randn(2, 3, 4, 4))
    assert isinstance(network[0], LeanConv2d)
    assert network[0].bias_matters


def test_a_quick_convolution_leaves_out_the_bias_too() -> None:
    network = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.Flatten())
    precision.save_products(network, device=torch.device("cpu"))
    images = torch.randn(2, 64, 4, 4)
    precision.save_gradients(network, images_NCHW=images)
    conv = network[0]
    assert isinstance(conv, WinogradConv2d)
    assert not conv.bias_matters
    network(images).square().sum().backward()
    assert conv.bias is not None
    assert conv.bias.grad is not None
    assert not conv.bias.grad.any()


def test_without_avx512_alone_products_are_mkls(monkeypatch: pytest.MonkeyPatch) -> None:
    for newest, wanted in (("avx2", True), ("avx512f", False)):
        monkeypatch.setattr(precision, "_instructions", lambda newest=newest: frozenset({newest}))
        network = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
        precision.save_gradients(network, images_NCHW=torch.randn(2, 3, 4, 4))
        assert isinstance(network[0], LeanConv2d)
        assert network[0].by_product is wanted


def test_weights_keep_their_names_and_evaluation_its_numbers() -> None:
    network = models.build("mobilenetv2", classes=5, channels=3, size=32).eval()
    images, names = torch.randn(2, 3, 32, 32), list(network.state_dict())
    with torch.no_grad():
        before = network(images)
    precision.save_gradients(network, images_NCHW=images)
    with torch.no_grad():
        assert torch.equal(network(images), before)
    assert list(network.state_dict()) == names
