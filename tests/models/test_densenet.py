"""What DenseNet leaves out without gradients changes no answer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tfkd_cli.models import densenet
from tfkd_cli.models.densenet import DenseNet
from tfkd_cli.training import precision


def trained(*, size: int = 16) -> tuple[nn.Module, Tensor]:
    """A small network whose BatchNorms have seen something, in eval mode, and images for it."""
    torch.manual_seed(0)
    network = DenseNet((2, 3), growth=4, classes=5, channels=3)
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d):
            assert each.running_mean is not None
            assert each.running_var is not None
            each.running_mean.normal_(0, 0.3)
            each.running_var.uniform_(0.5, 2)
            nn.init.uniform_(each.weight, -1.5, 1.5)
            nn.init.normal_(each.bias, 0, 0.2)
    images_NCHW = torch.randn(6, 3, size, size).contiguous(memory_format=torch.channels_last)
    return network.to(memory_format=torch.channels_last).eval(), images_NCHW


@pytest.mark.parametrize("in_cache", [1, 10_000, densenet.IN_CACHE])
def test_answers_are_the_same_without_gradients(in_cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(densenet, "IN_CACHE", in_cache)
    network, images_NCHW = trained()
    with_gradients = network(images_NCHW).detach()
    with torch.no_grad():
        without = network(images_NCHW)
        folded = precision.folded(network, images_NCHW=images_NCHW)(images_NCHW)
    torch.testing.assert_close(without, with_gradients)
    torch.testing.assert_close(folded, with_gradients)


def test_without_gradients_nothing_is_copied_behind_another(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images_NCHW = trained()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("torch.cat was called")

    monkeypatch.setattr(torch, "cat", refuse)
    with torch.no_grad():
        network(images_NCHW)
    with pytest.raises(AssertionError, match=r"torch\.cat"):
        network.train()(images_NCHW)


def test_training_without_gradients_still_moves_the_statistics() -> None:
    network, images_NCHW = trained()
    norm = next(each for each in network.modules() if isinstance(each, nn.BatchNorm2d))
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    with torch.no_grad():
        network.train()(images_NCHW)
    assert not torch.equal(before, norm.running_mean)
