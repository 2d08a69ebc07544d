"""Counting a network without computing it: it is built and run on torch's meta device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tfkd_cli import models


class Counted(NamedTuple):
    """What one forward pass of one image did; `sides` are those of the convolutions' outputs."""

    parameters: int
    multiply_adds: int
    sides: tuple[int, ...]
    logits: tuple[int, ...]  # their shape


@cache
def on_meta(name: str, *, classes: int = 10, channels: int = 3) -> nn.Module:
    """A network without storage; built once, so leave no hooks on it."""
    with torch.device("meta"):
        return models.build(name, classes=classes, channels=channels, size=32)


@cache
def count(network: nn.Module, *, channels: int, size: int) -> Counted:
    """Counts with forward hooks: convolutions and fully connected layers, no BN, no activation."""
    adds: list[int] = []
    sides: dict[int, None] = {}

    def hook(module: Any, _: Any, out: Tensor) -> None:
        adds.append(module.weight[0].numel() * out.numel())
        if out.ndim == 4:
            sides[out.shape[-1]] = None

    counted = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [module.register_forward_hook(hook) for module in counted]
    logits = network.eval()(torch.zeros(1, channels, size, size, device="meta"))
    for each in hooks:
        each.remove()
    parameters = sum(p.numel() for p in network.parameters())
    return Counted(parameters, sum(adds), tuple(sides), tuple(logits.shape))


@pytest.fixture(name="on_meta")
def _on_meta() -> Callable[..., nn.Module]:
    return on_meta


@pytest.fixture(name="count")
def _count() -> Callable[..., Counted]:
    return count
