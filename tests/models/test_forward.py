"""Shapes, memory formats, order of the modules, starting weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from tfkd_cli import models

NAMES = tuple(models.NETWORKS)
QUICK = ("plain-cnn", "mobilenetv2", "shufflenetv2", "googlenet", "resnet8")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("size", "channels", "classes"), [(28, 1, 2), (45, 3, 10), (64, 3, 10)])
def test_every_network_takes_28_to_64_pixels(
    name: str,
    size: int,
    channels: int,
    classes: int,
    count: Callable[..., Any],
    on_meta: Callable[..., nn.Module],
) -> None:
    network = on_meta(name, classes=classes, channels=channels)
    assert count(network, channels=channels, size=size).logits == (1, classes)


@pytest.mark.parametrize("name", QUICK)
def test_channels_last_gives_the_same_logits(name: str) -> None:
    torch.manual_seed(0)
    network = models.build(name, classes=10, channels=3, size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        contiguous = network(images)
        last = network.to(memory_format=torch.channels_last)(
            images.contiguous(memory_format=torch.channels_last)
        )
    assert torch.allclose(contiguous, last, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", QUICK)
def test_a_gradient_reaches_every_weight_in_channels_last(name: str) -> None:
    network = models.build(name, classes=3, channels=1, size=28).to(memory_format=torch.channels_last)
    network(torch.randn(4, 1, 28, 28)).sum().backward()
    missing = [key for key, weight in network.named_parameters() if weight.grad is None]
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_modules_are_registered_in_the_order_of_the_forward_pass(
    name: str, on_meta: Callable[..., nn.Module]
) -> None:
    network = on_meta(name)
    leaves = [module for module in network.modules() if not list(module.children())]
    leaves = [module for module in leaves if not isinstance(module, nn.Sequential)]  # identity shortcuts
    called: list[nn.Module] = []
    hooks = [each.register_forward_hook(lambda module, _args, _out: called.append(module)) for each in leaves]
    network.eval()(torch.zeros(2, 3, 32, 32, device="meta"))
    for each in hooks:
        each.remove()
    assert called == leaves


@pytest.mark.parametrize("name", NAMES)
def test_every_batch_norm_but_a_preactivation_follows_its_convolution(
    name: str, on_meta: Callable[..., nn.Module]
) -> None:
    layers = [m for m in on_meta(name).modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))]
    follows = [
        isinstance(before, nn.Conv2d) and before.out_channels == bn.num_features
        for before, bn in pairwise(layers)
        if isinstance(bn, nn.BatchNorm2d)
    ]
    assert all(follows) or name == "densenet121"


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet8"])
def test_the_seed_decides_the_weights(name: str) -> None:
    first, second, other = (_weights(name, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_the_released_batch_norm_bug_of_googlenet_is_kept(on_meta: Callable[..., nn.Module]) -> None:
    odd = [m for m in on_meta("googlenet").modules() if isinstance(m, nn.BatchNorm2d) and m.eps != 1e-5]
    assert [m.eps for m in odd] == [32, 96, 48, 64, 64, 64, 128, 128, 128]
    assert all(m.eps == m.num_features for m in odd)


def test_resnext_starts_as_released() -> None:
    torch.manual_seed(0)
    network = models.build("resnext29", classes=100, channels=3, size=32)
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:  # kaiming, fan_out: torch counts all output channels, groups or not
        spread = (2 / (conv.out_channels * conv.kernel_size[0] ** 2)) ** 0.5
        assert float(conv.weight.detach().std()) == pytest.approx(spread, rel=0.05)
    assert not network.get_submodule("classifier").get_parameter("bias").any()


def _weights(name: str, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return models.build(name, classes=10, channels=3, size=32).state_dict()
