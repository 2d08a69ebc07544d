"""How a network is calculated: folding, the fp32 exception of bf16, memory format."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tests.twice import Twice
from tfkd_cli import models
from tfkd_cli.training import precision

CPU = torch.device("cpu")


def trained_looking(name: str) -> nn.Module:
    """A network whose BatchNorms have statistics and weights like after training, so that folding shows."""
    torch.manual_seed(0)
    network = models.build(name, classes=5, channels=3, size=32)
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.normal_(each.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(each.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(each.weight, 0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("name", ["plain-cnn", "mobilenetv2", "shufflenetv2", "resnet8", "densenet121"])
def test_a_folded_network_gives_the_same_logits(name: str) -> None:
    network = trained_looking(name)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        plain = network(images)
        folded = precision.folded(copy.deepcopy(network), images_NCHW=images[:2])
        torch.testing.assert_close(folded(images), plain, rtol=1e-3, atol=1e-3 * float(plain.abs().max()))
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (network, folded)]
    assert norms[1] < norms[0] * 0.6  # DenseNet normalises before it convolves: half of its norms remain


def test_a_batch_norm_is_not_folded_where_the_convolution_is_also_used_elsewhere() -> None:
    network = Twice().eval()
    nn.init.uniform_(network.norm.weight, 2, 3)
    images = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        plain = network(images)
        assert torch.equal(precision.folded(network, images_NCHW=images)(images), plain)
    assert isinstance(network.norm, nn.BatchNorm2d)


def test_bf16_is_calculated_only_where_there_are_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFKD_BF16", raising=False)
    for units, used in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(precision, "_has_bf16_units", lambda device_type, units=units: units)
        assert precision.arithmetic("bf16", CPU) == used
        assert precision.arithmetic("fp32", CPU) == "fp32"
    monkeypatch.setenv("TFKD_BF16", "always")
    assert precision.arithmetic("bf16", CPU) == "bf16"


@pytest.mark.parametrize(
    ("instructions", "fast"),
    [
        ("GenuineIntel avx512f avx512_bf16 amx_bf16", True),
        ("AuthenticAMD avx512f avx512_bf16", True),
        ("GenuineIntel avx512f avx512_bf16", False),  # measured: slower than fp32
        ("AuthenticAMD avx2", False),
    ],
)
def test_which_processors_multiply_bf16_faster_than_fp32(
    instructions: str, *, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TFKD_BF16", raising=False)
    monkeypatch.setattr(precision, "_instructions", lambda: frozenset(instructions.split()))
    precision._has_bf16_units.cache_clear()
    try:
        assert precision.arithmetic("bf16", CPU) == ("bf16" if fast else "fp32")
    finally:
        precision._has_bf16_units.cache_clear()


def test_fp32_is_left_as_it_is() -> None:
    with precision.calculating("fp32", CPU):
        assert torch.ones(2, 2).matmul(torch.ones(2, 2)).dtype == torch.float32
