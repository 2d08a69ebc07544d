"""Weights of the released networks, loaded in order of registration, give the same outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tfkd_cli import models

# released_logits.json was made with the released classes (see its _source) and the same `fill`.
RELEASED = json.loads((Path(__file__).parent / "released_logits.json").read_text())["logits"]
IMAGES_STREAM = 99


def uniform(count: int, stream: int) -> Tensor:
    """Numbers in [0, 1) from integer arithmetic alone: the same on every machine and version."""
    mixed = torch.arange(count, dtype=torch.int64) + stream * 7_919
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 16)).double() / 2**32).float()


def fill(network: nn.Module) -> None:
    """Sets weights, biases and running statistics by their place in the order of registration."""
    for stream, (key, value) in enumerate(network.state_dict().items()):
        if not value.is_floating_point():
            continue
        drawn = uniform(value.numel(), stream).view(value.shape)
        kind = key.rsplit(".", 1)[-1]
        if kind == "running_var" or (kind == "weight" and value.ndim == 1):
            value.copy_(0.5 + drawn)
        elif value.ndim > 1:
            value.copy_((2 * drawn - 1) * (6 / value[0].numel()) ** 0.5)
        else:
            value.copy_((drawn - 0.5) * 0.2)


@pytest.mark.parametrize("name", RELEASED)
def test_released_weights_in_order_of_registration_give_the_released_outputs(name: str) -> None:
    network = models.build(name, classes=100, channels=3, size=32).eval()
    fill(network)
    with torch.no_grad():
        logits = network(uniform(2 * 3 * 32 * 32, IMAGES_STREAM).view(2, 3, 32, 32) * 4 - 2)
    expected = torch.tensor(RELEASED[name])
    assert torch.allclose(logits[:, :6], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
