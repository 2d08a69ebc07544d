"""Parameters and multiply-adds: the released networks, the built ones and the table of facts agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from tfkd_cli import models

# Counted on the released networks with 100 classes: parameters, and multiply-adds at 32 pixels as printed.
RELEASED = {
    "plain-cnn": (369_124, "10.60 M"),
    "mobilenetv2": (2_369_380, "64.95 M"),
    "shufflenetv2": (1_360_896, "43.68 M"),
    "resnet18": (11_220_132, "555.5 M"),
    "resnet50": (23_705_252, "1.298 G"),
    "googlenet": (6_258_500, "1.522 G"),
    "densenet121": (7_048_548, "888.4 M"),
    "resnext29": (34_518_948, "5.387 G"),
}


@pytest.mark.parametrize("name", models.NETWORKS)
def test_the_facts_are_what_the_built_and_the_released_networks_have(
    name: str, count: Callable[..., Any], on_meta: Callable[..., nn.Module]
) -> None:
    facts = models.network(name)
    counted = count(on_meta(name, classes=100), channels=3, size=32)
    assert (facts.parameters, facts.multiply_adds) == (counted.parameters, counted.multiply_adds)
    if name in RELEASED:
        parameters, printed = RELEASED[name]
        digits, unit = printed.split()
        scaled = counted.multiply_adds / {"M": 1e6, "G": 1e9}[unit]
        assert counted.parameters == parameters
        assert f"{scaled:.{len(digits.partition('.')[2])}f}" == digits


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet8", "densenet121"])
def test_at_another_size_multiply_adds_grow_about_with_the_pixels(
    name: str, count: Callable[..., Any], on_meta: Callable[..., nn.Module]
) -> None:
    counted = count(on_meta(name, classes=100), channels=3, size=64)
    assert models.multiply_adds(name, size=64) == pytest.approx(counted.multiply_adds, rel=0.25)


def test_an_imagenet_network_is_never_the_cifar_one_of_the_same_name() -> None:
    ours, theirs = models.network("resnet18"), models.network("torchvision:resnet18")
    assert ours.name != theirs.name
    assert models.multiply_adds("resnet18", size=32) != models.multiply_adds("torchvision:resnet18", size=32)


def test_mobilenetv2_keeps_the_padded_stem(
    count: Callable[..., Any], on_meta: Callable[..., nn.Module]
) -> None:
    counted = count(on_meta("mobilenetv2"), channels=3, size=32)
    assert counted.sides == (34, 17, 9, 5, 1)  # the classifier is a convolution on the pooled map


def test_what_an_own_network_costs_is_unknown_before_it_is_built() -> None:
    assert models.parameters("timm:convnext_tiny") is None
    assert models.multiply_adds("python:mine:net", size=32) is None
