"""Shared layers give what torch's own give, and their gradients stay in channels_last."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tfkd_cli import models
from tfkd_cli.models.layers import PaddedPointwise, ReLU6, global_average, interleaved, interleaved_halves


def maps(*, channels: int = 4, size: int = 5, scale: float = 4.0) -> Tensor:
    random = torch.Generator().manual_seed(0)
    values = scale * torch.randn(3, channels, size, size, generator=random)
    return values.contiguous(memory_format=torch.channels_last).requires_grad_()


def test_relu6_and_its_gradient_are_torchs_to_the_bit() -> None:
    edges = torch.tensor([-1.0, 0.0, 3.0, 6.0, 7.0]).expand(3, 4, 5, 5).contiguous().requires_grad_()
    for x in (maps(), edges):
        ours = ReLU6()(x * 1)
        (ours_gradient,) = torch.autograd.grad((ours * x.detach()).sum(), x)
        (gradient,) = torch.autograd.grad((F.relu6(x) * x.detach()).sum(), x)
        assert torch.equal(ours, F.relu6(x))
        assert torch.equal(ours_gradient, gradient)


def test_relu6_writes_over_its_gradient_only_where_that_is_one_of_its_own() -> None:
    x = maps()
    own = torch.ones(3, 4, 5, 5).contiguous(memory_format=torch.channels_last)
    shared = torch.ones(3, 4, 1, 1).expand(3, 4, 5, 5)  # as a mean's
    for gradient, written in ((own, True), (shared, False)):
        (passed,) = torch.autograd.grad(ReLU6()(x * 1), x, gradient)
        assert torch.equal(passed, ((x > 0) & (x < 6)).float())
        assert bool((gradient == 0).any()) == written


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_interleaving_is_a_concatenation_and_a_shuffle(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    even, odd = (maps(scale=scale).to(dtype).contiguous(memory_format=layout) for scale in (1.0, 2.0))
    ours = interleaved(even, odd)
    assert torch.equal(ours, F.channel_shuffle(torch.cat((even, odd), 1), 2))
    assert ours.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_interleaved_halves_and_their_gradients_are_those_of_a_shuffle(
    channels: int, layout: torch.memory_format, dtype: torch.dtype
) -> None:
    gradients = []
    for shuffled in (interleaved_halves, _shuffled_halves):
        inputs = [maps(channels=channels, scale=scale).detach().to(dtype) for scale in (1.0, 2.0)]
        even, odd = (each.contiguous(memory_format=layout).requires_grad_() for each in inputs)
        first, second = shuffled(even, odd)
        torch.autograd.backward((first.square() + second.pow(3)).sum())
        gradients.append((first, second, even.grad, odd.grad))
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def test_numbers_that_are_none_are_interleaved_bit_by_bit() -> None:
    odd_ones = torch.tensor([float("nan"), float("-inf"), -0.0, 1e-40]).bfloat16()
    even, odd = (each.expand(2, 3, 3, 4).contiguous().permute(0, 3, 1, 2) for each in (odd_ones, -odd_ones))
    ours, theirs = interleaved(even, odd), F.channel_shuffle(torch.cat((even, odd), 1), 2)
    bits = [each.permute(0, 2, 3, 1).contiguous().view(torch.int16) for each in (ours, theirs)]
    assert torch.equal(*bits)


def _shuffled_halves(even: Tensor, odd: Tensor) -> tuple[Tensor, ...]:
    return F.channel_shuffle(torch.cat((even, odd), 1), 2).chunk(2, dim=1)


def test_a_padded_pointwise_convolution_is_one_with_padding() -> None:
    torch.manual_seed(0)
    ours, theirs = PaddedPointwise(4, 6), nn.Conv2d(4, 6, 1, padding=1)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(maps()), theirs(maps()))


def test_the_gradient_of_the_global_average_is_channels_last() -> None:
    x = maps()
    average_NC = global_average(x)
    (gradient,) = torch.autograd.grad(average_NC.square().sum(), x)
    torch.testing.assert_close(average_NC, F.adaptive_avg_pool2d(x, 1).flatten(1))
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", sorted(models.NETWORKS))
def test_no_batch_norm_gets_a_gradient_in_another_layout(name: str) -> None:
    """It is then up to 20 times as slow on a CPU."""
    if name in ("resnext101", "resnet50", "resnext29"):
        pytest.skip("as its smaller relatives")
    network = models.build(name, classes=3, channels=3, size=32)
    network = network.to(memory_format=torch.channels_last)
    wrong: list[str] = []

    def watch(norm: str, module: nn.Module) -> None:
        def gradient_of(output: Tensor) -> None:
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda g: (
                    wrong.append(norm)
                    if g.shape[2] > 1 and not g.is_contiguous(memory_format=torch.channels_last)
                    else None
                )
            )

        module.register_forward_hook(lambda _, inputs, output: gradient_of(output))

    for norm, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            watch(norm, module)
    images = torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    network(images).square().sum().backward()
    assert wrong == []
