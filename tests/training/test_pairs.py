"""A convolution and a norm are a pair only where nothing else can see what is between them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tfkd_cli import models
from tfkd_cli.training import gradients, moments, pairs, precision, winograd
from tfkd_cli.training.teacher_logits import FrozenTeacher

CPU = torch.device("cpu")
IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Branch(nn.Module):
    """A branch whose gain is still zero, around what is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.gain = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Parameter(torch.zeros(()))

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        made = self.conv(maps_NCHW)
        return cast("Tensor", maps_NCHW + self.gain * (self.norm(made) + made)).flatten(1)


class Running(nn.BatchNorm2d):
    """Uses its running statistics in training too."""

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, training=False
        )


class Alias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.again = self.norm

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        return cast("Tensor", self.again(self.conv(maps_NCHW))).flatten(1)


def chain(*between: nn.Module, norm: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), *between, norm or nn.BatchNorm2d(3), nn.Flatten())


def deep() -> nn.Module:
    """What the first convolution gives is used twice, and six layers later nearly forgotten."""
    rest = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(6)]
    return nn.Sequential(Branch(), nn.Unflatten(1, (3, 8, 8)), *rest, nn.Flatten())


@pytest.mark.parametrize("name", ["plain-cnn", "mobilenetv2", "shufflenetv2", "resnet8", "resnet18"])
def test_every_norm_of_these_networks_belongs_to_a_convolution(name: str) -> None:
    network = models.build(name, classes=5, channels=3, size=32)
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    images = torch.randn(2, 3, 32, 32)
    assert len(pairs.in_training(network, images)) == len(norms)
    assert len(pairs.in_evaluation(network.eval(), images)) == len(norms)


@pytest.mark.parametrize(
    ("make", "in_training", "in_evaluation"),
    [
        (chain, 1, 1),
        (lambda: chain(nn.Dropout(0.3)), 0, 1),
        (lambda: chain(nn.Dropout2d(0.3)), 0, 1),
        (lambda: chain(nn.ReLU(inplace=True)), 0, 0),
        (lambda: chain(norm=Running(3)), 0, 1),
        (lambda: chain(norm=nn.BatchNorm2d(3, track_running_stats=False)), 1, 0),
        (Branch, 0, 0),
        (Alias, 0, 0),
        (deep, 6, 6),
    ],
)
def test_what_else_sees_the_output_is_seen(
    make: Callable[[], nn.Module], in_training: int, in_evaluation: int
) -> None:
    network = make()
    before = {name: each.clone() for name, each in network.state_dict().items()}
    assert len(pairs.in_training(network, IMAGES)) == in_training
    assert len(pairs.in_evaluation(network.eval(), IMAGES)) == in_evaluation
    assert all(torch.equal(each, before[name]) for name, each in network.state_dict().items())


def test_looking_draws_no_random_numbers() -> None:
    network = chain(nn.Dropout(0.3))
    torch.manual_seed(0)
    wanted = torch.rand(1)
    torch.manual_seed(0)
    pairs.in_training(network, IMAGES)
    assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda: chain(norm=nn.BatchNorm2d(3, track_running_stats=False)),
        lambda: chain(norm=Running(3)),
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3), nn.Flatten()
        ),
        lambda: nn.Sequential(
            nn.Conv2d(3, 64, 1), nn.ReLU(inplace=True), nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(inplace=True), nn.Flatten(),
        ),
        Branch,
        Alias,
    ],
)  # fmt: skip
def test_networks_of_others_train_and_teach_as_they_would_without_haste(
    make: Callable[[], nn.Module], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_has_bf16_units", lambda device: bf16)
    monkeypatch.setattr(precision, "_has_avx512", lambda: True)
    torch.manual_seed(0)
    plain = make().to(memory_format=torch.channels_last)
    torch.manual_seed(0)
    quick = make().to(memory_format=torch.channels_last)
    precision.hasten(quick, images_NCHW=IMAGES)
    for network in (plain, quick):
        network.train()(IMAGES).square().mean().backward()
    for ours, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    with torch.inference_mode():
        wanted = plain.eval()(IMAGES)
    teacher = FrozenTeacher(plain, device=CPU, precision_name="fp32", example=IMAGES)
    torch.testing.assert_close(teacher(IMAGES), wanted, rtol=1e-4, atol=1e-5)
    folded = precision.folded(plain, images_NCHW=IMAGES)
    torch.testing.assert_close(folded(IMAGES), wanted, rtol=1e-4, atol=1e-5)


def test_a_norm_that_is_put_to_eval_later_takes_no_bias_away_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "_has_bf16_units", lambda device: False)
    monkeypatch.setattr(precision, "_has_avx512", lambda: True)
    for conv, kind in (
        (nn.Conv2d(9, 32, 1), moments.NormalisingConv2d),
        (nn.Conv2d(9, 8, 1), gradients.LeanConv2d),
        (nn.Conv2d(64, 64, 3, padding=1), winograd.WinogradConv2d),
    ):
        plain = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels))
        quick = copy.deepcopy(plain)
        images = torch.randn(2, conv.in_channels, 4, 4)
        precision.hasten(quick, images_NCHW=images)
        assert isinstance(quick[0], kind)
        for network in (plain, quick):
            network.train()
            network[1].eval()
            network(images).square().mean().backward()
        for ours, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
