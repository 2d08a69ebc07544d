"""A convolution's lean backward pass gives torch's gradients; a bias before a BatchNorm gets none."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Self

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.twice import Twice
from tfkd_cli import models
from tfkd_cli.models.layers import PaddedPointwise
from tfkd_cli.training import gradients, precision
from tfkd_cli.training.gradients import LeanConv2d
from tfkd_cli.training.winograd import WinogradConv2d

CONVOLUTIONS: dict[str, Callable[[], nn.Conv2d]] = {
    "1×1": lambda: nn.Conv2d(4, 6, 1),
    "1×1 without bias": lambda: nn.Conv2d(4, 6, 1, bias=False),
    "1×1 that strides": lambda: nn.Conv2d(4, 6, 1, stride=2),
    "3×3": lambda: nn.Conv2d(4, 6, 3, padding=1, dilation=2),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, padding=1, stride=2, groups=4),
    "padded": lambda: PaddedPointwise(4, 6),
}


def results(conv: nn.Module, maps: Tensor, *, layout: torch.memory_format) -> dict[str, Tensor | None]:
    x = maps.clone(memory_format=torch.preserve_format).contiguous(memory_format=layout).requires_grad_()
    y = conv(x)
    y.backward(torch.linspace(-1, 1, y.numel()).sin().view(y.shape))
    return {"maps": y.detach(), "back": x.grad, **{name: p.grad for name, p in conv.named_parameters()}}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("size", [5, 11])  # 11 × 11 pixels are too many for one product
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_maps_and_gradients_are_torchs(name: str, size: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    plain = CONVOLUTIONS[name]().to(memory_format=torch.channels_last)
    lean = copy.deepcopy(plain)
    assert gradients.applies(lean)
    gradients.spare(lean, products=True)
    maps = torch.randn(3, 4, size, size)
    ours, theirs = (results(conv, maps, layout=layout) for conv in (lean, plain))
    for key, wanted in theirs.items():
        torch.testing.assert_close(ours[key], wanted, rtol=1e-5, atol=1e-5)


@given(
    kernel=st.tuples(*[st.integers(1, 4)] * 2),
    stride=st.tuples(*[st.integers(1, 3)] * 2),
    padding=st.tuples(*[st.integers(0, 3)] * 2),
    size=st.tuples(*[st.integers(1, 6)] * 2),
)
def test_products_give_the_kernels_gradient_of_any_dense_convolution(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], size: tuple[int, int]
) -> None:
    assume(all(s + 2 * p >= k for s, p, k in zip(size, padding, kernel, strict=True)))
    conv = nn.Conv2d(2, 3, kernel, stride=stride, padding=padding, bias=False).double()
    maps = torch.randn(2, 2, *size, dtype=torch.float64)
    outputs = conv(maps)
    gradient = torch.randn_like(outputs)
    (wanted,) = torch.autograd.grad(outputs, conv.weight, gradient)
    torch.testing.assert_close(gradients.kernels_gradient(conv, maps, gradient), wanted)


def test_the_product_is_in_channels_last() -> None:
    lean = nn.Conv2d(4, 6, 1)
    gradients.spare(lean, products=True)
    lean(torch.randn(2, 4, 3, 3)).sum().backward()
    assert lean.weight.grad is not None
    assert lean.weight.grad.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["plain-cnn", "mobilenetv2", "shufflenetv2"])
def test_biases_before_a_norm_get_zeros_and_all_else_torchs_gradients(name: str) -> None:
    torch.manual_seed(0)
    plain = models.build(name, classes=5, channels=3, size=32).to(memory_format=torch.channels_last)
    for each in plain.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    spared = copy.deepcopy(plain)
    images = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    precision.save_gradients(spared, images_NCHW=images[:2])
    for network in (plain, spared):
        network(images).square().mean().backward()
    wanted, largest = dict(plain.named_parameters()), 0.0
    for key, ours in spared.named_parameters():
        theirs = wanted[key].grad
        assert ours.grad is not None
        assert theirs is not None
        largest = max(largest, float(theirs.abs().max()))
        torch.testing.assert_close(ours.grad, theirs, rtol=1e-3, atol=1e-4 * largest)
    without = [each for each in spared.modules() if isinstance(each, LeanConv2d) and not each.bias_matters]
    norms = [each for each in spared.modules() if isinstance(each, nn.BatchNorm2d)]
    assert len(without) == len(norms)
    assert all(each.bias is not None and not each.bias.grad.any() for each in without)  # type: ignore[union-attr]


def test_a_bias_that_others_see_keeps_its_gradient() -> None:
    network = Twice()
    precision.save_gradients(network, images_NCHW=torch.randn(2, 3, 4, 4))
    assert isinstance(network.conv, LeanConv2d)
    assert network.conv.bias_matters


def test_a_bias_before_a_frozen_norm_keeps_its_gradient() -> None:
    class Frozen(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> Self:
            return super().train(mode=False)

    network = nn.Sequential(nn.Conv2d(3, 3, 1), Frozen(3), nn.Flatten())
    precision.save_gradients(network, images_NCHW=torch.randn(2, 3, 4, 4))
    assert isinstance(network[0], LeanConv2d)
    assert network[0].bias_matters


def test_a_quick_convolution_leaves_out_the_bias_too() -> None:
    network = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.Flatten())
    precision.save_products(network, device=torch.device("cpu"))
    images = torch.randn(2, 64, 4, 4)
    precision.save_gradients(network, images_NCHW=images)
    conv = network[0]
    assert isinstance(conv, WinogradConv2d)
    assert not conv.bias_matters
    network(images).square().sum().backward()
    assert conv.bias is not None
    assert conv.bias.grad is not None
    assert not conv.bias.grad.any()


def test_products_are_taken_with_bf16_or_without_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFKD_BF16", raising=False)
    for newest, bf16, wanted in (("avx2", False, True), ("avx512f", False, False), ("avx512f", True, True)):
        monkeypatch.setattr(precision, "_instructions", lambda newest=newest: frozenset({newest}))
        monkeypatch.setattr(precision, "_has_bf16_units", lambda device, bf16=bf16: bf16)
        network = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
        precision.save_gradients(network, images_NCHW=torch.randn(2, 3, 4, 4))
        assert isinstance(network[0], LeanConv2d)
        assert network[0].by_product is wanted


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_under_autocast_maps_and_gradients_are_those_of_autocast(name: str) -> None:
    torch.manual_seed(0)
    plain = CONVOLUTIONS[name]().to(memory_format=torch.channels_last)
    lean = copy.deepcopy(plain)
    gradients.spare(lean, products=True)
    maps = torch.randn(3, 4, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = (results(conv, maps, layout=torch.channels_last) for conv in (lean, plain))
    for key, wanted in theirs.items():
        torch.testing.assert_close(ours[key], wanted, rtol=1e-2, atol=1e-2)


def test_a_strided_depthwise_convolution_passes_the_gradient_back_without_a_stride_in_bf16() -> None:
    """oneDNN's own takes 20 to 40 times the time; the numbers are fp32's, rounded once."""
    lean = nn.Conv2d(4, 8, 3, padding=1, stride=2, groups=4)
    gradients.spare(lean, products=True)
    maps = torch.randn(2, 4, 9, 8).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    with StridesSeen() as seen, torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = lean(maps)
        gradient = torch.randn_like(outputs)
        (back,) = torch.autograd.grad(outputs, maps, gradient)
    assert seen.strides == {(True, (1, 1)), (False, (2, 2))}
    exact = maps.detach().float().requires_grad_()
    with torch.no_grad():
        lean.weight.copy_(lean.weight.bfloat16())
    (wanted,) = torch.autograd.grad(lean(exact), exact, gradient.float())
    assert torch.equal(back, wanted.bfloat16())


class StridesSeen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """For each of torch's backward passes of a convolution: whether it gave the inputs', and its stride."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.strides: set[tuple[bool, tuple[int, ...]]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.strides.add((args[-1][0], tuple(args[4])))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [4, 8])
def test_wide_kernels_on_tiny_outputs_are_products_in_bf16(size: int) -> None:
    conv = nn.Conv2d(128, 128, 3, padding=1, bias=False)
    gradients.spare(conv, products=True)
    maps = torch.randn(2, 128, size, size).bfloat16()
    assert gradients._pays(conv, maps, maps) is (size == 4)
    assert not gradients._pays(conv, maps.float(), maps.float())


def test_weights_keep_their_names_and_evaluation_its_numbers() -> None:
    network = models.build("mobilenetv2", classes=5, channels=3, size=32).eval()
    images, names = torch.randn(2, 3, 32, 32), list(network.state_dict())
    with torch.no_grad():
        before = network(images)
    precision.save_gradients(network, images_NCHW=images)
    with torch.no_grad():
        assert torch.equal(network(images), before)
    assert list(network.state_dict()) == names
