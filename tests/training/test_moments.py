"""BatchNorm from the moments of a convolution's input gives what BatchNorm gives, nearer to exact."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from tests.twice import Twice
from tfkd_cli import models
from tfkd_cli.models.layers import PaddedPointwise
from tfkd_cli.training import moments, precision
from tfkd_cli.training.moments import NormalisingConv2d, PassedBatchNorm2d

CONVOLUTIONS: dict[str, Callable[[], nn.Conv2d]] = {
    "1×1": lambda: nn.Conv2d(4, 12, 1),
    "1×1 without bias": lambda: nn.Conv2d(4, 12, 1, bias=False),
    "first 3×3": lambda: nn.Conv2d(3, 27, 3, padding=1),
    "first padded": lambda: PaddedPointwise(3, 9),
}


def both(name: str) -> tuple[nn.Sequential, nn.Sequential, Tensor]:
    """The same convolution and norm, plain and joined, and maps for them."""
    torch.manual_seed(0)
    conv = CONVOLUTIONS[name]()
    plain = nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels)).to(memory_format=torch.channels_last)
    nn.init.uniform_(plain[1].weight, 0.5, 1.5)  # type: ignore[arg-type]
    nn.init.normal_(plain[1].bias)  # type: ignore[arg-type]
    joined = copy.deepcopy(plain)
    moments.join(joined[0], joined[1])  # type: ignore[arg-type]
    maps = torch.randn(6, conv.in_channels, 5, 7) + 0.5
    return plain, joined, maps.contiguous(memory_format=torch.channels_last)


def results(layers: nn.Sequential, maps: Tensor, *, back: bool) -> dict[str, Tensor]:
    x = maps.clone().requires_grad_(back)
    y = layers(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view(y.shape))
    found = {"maps": y.detach(), **{name: p.grad for name, p in layers.named_parameters()}}
    found.pop("0.bias", None)  # zero: the norm takes it away again
    return {**found, **dict(layers.named_buffers()), **({"back": x.grad} if back else {})}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_maps_gradients_and_running_statistics_are_those_of_batch_norm(name: str) -> None:
    plain, joined, maps = both(name)
    back = "first" not in name
    exact = results(copy.deepcopy(plain).double(), maps.double(), back=back)
    for key, ours in results(joined, maps, back=back).items():
        wanted = exact[key].to(ours.dtype)
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_in_eval_mode_both_layers_are_what_they_were(name: str) -> None:
    plain, joined, maps = both(name)
    torch.testing.assert_close(joined.eval()(maps), plain.eval()(maps))


def test_a_3_by_3_convolution_that_must_pass_a_gradient_back_falls_back() -> None:
    plain, joined, maps = both("first 3×3")
    theirs, ours = (results(each, maps, back=True) for each in (plain, joined))
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key])


def test_large_means_cost_no_accuracy() -> None:
    plain, joined, maps = both("1×1")
    exact = copy.deepcopy(plain).double()(maps.double() + 30)
    error = (joined(maps + 30) - exact).abs().max()
    assert error < 2 * (plain(maps + 30) - exact).abs().max() + 1e-5


def test_it_is_for_convolutions_that_widen() -> None:
    def applies(conv: nn.Conv2d, *, first: bool = False) -> bool:
        return moments.applies(conv, nn.BatchNorm2d(conv.out_channels), first=first)

    assert applies(nn.Conv2d(16, 96, 1))
    assert applies(nn.Conv2d(3, 32, 3, padding=1), first=True)
    for other in (
        nn.Conv2d(96, 24, 1),
        nn.Conv2d(58, 58, 1),
        nn.Conv2d(464, 1024, 1),
        nn.Conv2d(16, 96, 1, stride=2),
        nn.Conv2d(16, 96, 1, groups=2),
        nn.Conv2d(3, 32, 3, padding=1),
    ):
        assert not applies(other)
    assert not moments.applies(nn.Conv2d(16, 96, 1), nn.BatchNorm2d(96, affine=False), first=False)


@pytest.mark.parametrize(("name", "joined"), [("plain-cnn", 1), ("mobilenetv2", 17), ("resnet18", 1)])
def test_a_network_s_gradients_are_as_near_to_exact_as_before(
    name: str, joined: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_has_avx512", lambda: True)
    torch.manual_seed(0)
    plain = models.build(name, classes=5, channels=3, size=32).to(memory_format=torch.channels_last)
    plain.register_module("dropout", nn.Identity())
    quick, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    images = torch.randn(16, 3, 32, 32)
    precision.save_passes(quick, images_NCHW=images[:2])
    assert sum(isinstance(each, PassedBatchNorm2d) for each in quick.modules()) == joined
    assert list(quick.state_dict()) == list(plain.state_dict())

    def gradients(network: nn.Module, images_NCHW: Tensor) -> Tensor:
        F.cross_entropy(network(images_NCHW), torch.arange(16) % 5).backward()  # type: ignore[no-untyped-call]
        return torch.cat(
            [each.grad.double().flatten() for each in network.parameters() if each.grad is not None]
        )

    wanted = gradients(exact, images.double())
    plain_error, quick_error = ((gradients(each, images) - wanted).norm() for each in (plain, quick))
    assert quick_error < 2 * plain_error


def test_a_convolution_whose_output_is_also_used_elsewhere_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(precision, "_has_avx512", lambda: True)

    network = Twice(9)
    precision.save_passes(network, images_NCHW=torch.randn(2, 3, 4, 4))
    assert not isinstance(network.conv, NormalisingConv2d)
