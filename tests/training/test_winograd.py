"""The quick way through a 3×3 convolution gives what the plain way gives, and its gradients."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.quick_convs import plain_and_quick
from tfkd_cli import models
from tfkd_cli.training import precision, winograd
from tfkd_cli.training.teacher_logits import FrozenTeacher
from tfkd_cli.training.winograd import WinogradConv2d

CPU = torch.device("cpu")


def both(c_in: int, c_out: int, *, bias: bool = True) -> tuple[nn.Conv2d, WinogradConv2d]:
    plain, quick = plain_and_quick(winograd.hasten, c_in, c_out, bias=bias)
    assert isinstance(quick, WinogradConv2d)
    return plain, quick


def close(ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-4 of the largest value: a hundred times what is seen is wrong."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


@given(
    n=st.integers(1, 3), size=st.tuples(st.integers(1, 11), st.integers(1, 11)), bias=st.booleans(),
    channels_last=st.booleans(),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_outputs_and_gradients_are_those_of_the_plain_convolution(
    n: int, size: tuple[int, int], bias: bool, channels_last: bool
) -> None:
    compare(*both(5, 7, bias=bias), n=n, size=size, channels_last=channels_last)


def test_the_last_images_may_be_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(winograd, "TILES", 12)
    compare(*both(5, 7), n=8, size=(8, 8), channels_last=True)  # 4 tiles each: 3, 3 and 2 images


def compare(
    plain: nn.Conv2d, quick: nn.Conv2d, *, n: int, size: tuple[int, int], channels_last: bool
) -> None:
    maps = torch.randn(n, 5, *size)
    if channels_last:
        maps = maps.contiguous(memory_format=torch.channels_last)
    results = []
    for conv in (plain, quick):
        x = maps.clone().requires_grad_()
        y = conv(x)
        y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape))
        results.append([y.detach(), x.grad, *(each.grad for each in conv.parameters())])
    for theirs, ours in zip(*results, strict=True):
        assert theirs is not None
        assert ours is not None
        close(ours, theirs)


def test_maps_and_gradients_are_channels_last() -> None:
    _, quick = both(4, 4)
    x = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = quick(x)
    y.square().sum().backward()
    for each in (y, x.grad, quick.weight.grad):
        assert each is not None
        assert each.is_contiguous(memory_format=torch.channels_last)


def test_it_is_for_wide_plain_3_by_3_convolutions_only() -> None:
    assert winograd.applies(nn.Conv2d(64, 128, 3, padding=1))
    for other in (
        nn.Conv2d(32, 64, 3, padding=1),
        nn.Conv2d(256, 32, 3, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 3, padding=1, groups=8),
        nn.Conv2d(128, 128, 1),
    ):
        assert not winograd.applies(other)


def test_a_frozen_network_calculates_its_kernels_once() -> None:
    _, quick = both(4, 4)
    quick.requires_grad_(requires_grad=False)
    images = torch.randn(1, 4, 4, 4)
    first = quick(images)
    kept = quick._frozen
    assert kept is not None
    assert torch.equal(quick(images), first)
    assert quick._frozen is kept


def test_frozen_kernels_that_are_loaded_anew_are_calculated_anew() -> None:
    plain, quick = both(4, 4)
    images = torch.randn(1, 4, 4, 4)
    for each in (plain, quick):
        each.requires_grad_(requires_grad=False)
        each(images)
        each.load_state_dict({"weight": torch.ones(4, 4, 3, 3), "bias": torch.ones(4)})
    torch.testing.assert_close(quick(images), plain(images), rtol=1e-4, atol=1e-4)


def test_frozen_kernels_of_an_evaluation_may_be_trained_with() -> None:
    _, quick = both(4, 4)
    quick.requires_grad_(requires_grad=False)
    images = torch.randn(1, 4, 4, 4)
    with torch.inference_mode():
        quick(images)
    images.requires_grad_()
    quick(images).sum().backward()
    assert images.grad is not None


def test_what_follows_may_write_into_the_outputs() -> None:
    plain, quick = both(4, 4)
    images = torch.randn(2, 4, 5, 5)
    for each in (plain, quick):
        nn.Sequential(each, nn.ReLU(inplace=True))(images).square().sum().backward()
    assert plain.weight.grad is not None
    assert quick.weight.grad is not None
    torch.testing.assert_close(quick.weight.grad, plain.weight.grad, rtol=1e-3, atol=1e-3)


def test_a_second_derivative_is_refused() -> None:
    _, quick = both(4, 4)
    images = torch.randn(1, 4, 4, 4, requires_grad=True)
    (first,) = torch.autograd.grad(quick(images).square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()  # type: ignore[no-untyped-call]


def test_trained_kernels_are_never_stale() -> None:
    plain, quick = both(4, 4)
    images = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        quick(images)
        for conv in (plain, quick):
            conv.weight.mul_(2)
        close(quick(images), plain(images))


def test_weights_keep_their_names_and_the_teacher_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_has_bf16_units", lambda device: False)
    torch.manual_seed(0)
    network = models.build("resnet18", classes=5, channels=3, size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    names = set(network.state_dict())
    with torch.no_grad():
        plain_NK = network(images)
        precision.save_products(network, device=CPU)
        close(network(images), plain_NK)
    assert set(network.state_dict()) == names
    assert any(isinstance(each, WinogradConv2d) for each in network.modules())
    close(FrozenTeacher(network, device=CPU, precision_name="bf16", example=images)(images), plain_NK)
