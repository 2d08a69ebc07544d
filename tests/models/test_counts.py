"""Parameters and multiply-adds: the published figures, the built networks and the closed form agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from tfkd_cli import models

# Counted on the released networks: parameters at 100, 10 and 200 classes; multiply-adds at 32 px with 100
# classes and at 64 px with 200, to the printed digits (None: the released network cannot take 64 px).
RELEASED = {
    "plain-cnn": (369_124, 357_514, None, "10.60 M", None),
    "mobilenetv2": (2_369_380, 2_254_090, 2_497_480, "64.95 M", "215.7 M"),
    "shufflenetv2": (1_360_896, 1_268_646, 1_463_396, "43.68 M", "174.5 M"),
    "resnet18": (11_220_132, 11_173_962, 11_271_432, "555.5 M", "2.222 G"),
    "resnet50": (23_705_252, 23_520_842, 23_910_152, "1.298 G", "5.192 G"),
    "googlenet": (6_258_500, 6_166_250, 6_361_000, "1.522 G", "6.087 G"),
    "densenet121": (7_048_548, 6_956_298, 7_151_048, "888.4 M", "3.554 G"),
    "resnext29": (34_518_948, 34_426_698, 34_621_448, "5.387 G", "21.55 G"),
}


def as_printed(multiply_adds: int | None, like: str) -> str:
    """The number with the unit and the digits of `like`: 10_600_320 like "10.60 M" is "10.60 M"."""
    assert multiply_adds is not None
    digits, unit = like.split()
    decimals = len(digits.partition(".")[2])
    return f"{multiply_adds / {'M': 1e6, 'G': 1e9}[unit]:.{decimals}f} {unit}"


@pytest.mark.parametrize("name", RELEASED)
def test_the_facts_are_the_released_figures(name: str) -> None:
    at_100, at_10, at_200, small, large = RELEASED[name]
    assert models.parameters(name, classes=100) == at_100
    assert models.parameters(name, classes=10) == at_10
    assert at_200 in (None, models.parameters(name, classes=200))
    assert as_printed(models.multiply_adds(name, size=32, classes=100), small) == small
    assert large is None or as_printed(models.multiply_adds(name, size=64, classes=200), large) == large


@pytest.mark.parametrize("name", models.NETWORKS)
@pytest.mark.parametrize(("classes", "channels", "size"), [(2, 1, 28), (10, 3, 45), (10, 3, 64)])
def test_the_facts_are_what_the_built_network_has(
    name: str,
    classes: int,
    channels: int,
    size: int,
    count: Callable[..., Any],
    on_meta: Callable[..., nn.Module],
) -> None:
    counted = count(on_meta(name, classes=classes, channels=channels), channels=channels, size=size)
    assert models.parameters(name, classes=classes, channels=channels) == counted.parameters
    facts = models.multiply_adds(name, size=size, classes=classes, channels=channels)
    assert facts == counted.multiply_adds


def test_an_imagenet_network_is_never_the_cifar_one_of_the_same_name() -> None:
    ours, theirs = models.network("resnet18"), models.network("torchvision:resnet18")
    assert ours.name != theirs.name
    assert models.parameters("resnet18", classes=100) != models.parameters(
        "torchvision:resnet18", classes=100
    )


def test_mobilenetv2_keeps_the_padded_stem(
    count: Callable[..., Any], on_meta: Callable[..., nn.Module]
) -> None:
    counted = count(on_meta("mobilenetv2"), channels=3, size=32)
    assert counted.sides == (34, 17, 9, 5, 1)  # the classifier is a convolution on the pooled map


def test_what_an_own_network_costs_is_unknown_before_it_is_built() -> None:
    assert models.parameters("timm:convnext_tiny", classes=2) is None
    assert models.multiply_adds("python:mine:net", size=32, classes=2) is None
