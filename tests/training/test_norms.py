"""A BatchNorm of wide rows gives torch's maps, gradients and statistics, and steps aside elsewhere."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tfkd_cli import models
from tfkd_cli.training import norms, precision
from tfkd_cli.training.norms import WideBatchNorm2d

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_maps_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "SMALLEST", 0)


def both(channels: int) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    """torch's, and the same one widened."""
    torch.manual_seed(channels)
    plain = nn.BatchNorm2d(channels)
    nn.init.uniform_(plain.weight, -1.5, 1.5)
    nn.init.normal_(plain.bias)
    wide = copy.deepcopy(plain)
    assert norms.applies(wide)
    norms.widen(wide)
    return plain, wide


def maps(channels: int, *, mean: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    random = torch.Generator().manual_seed(0)
    values = mean + torch.randn(8, channels, 8, 8, generator=random)
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def results(norm: nn.Module, maps_NCHW: Tensor) -> dict[str, Tensor]:
    x = maps_NCHW.clone(memory_format=torch.preserve_format).requires_grad_()
    y = norm(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).sin().view(y.shape))
    assert x.grad is not None
    gradients = {name: p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return {"maps": y.detach(), "back": x.grad, **gradients, **dict(norm.named_buffers())}


@given(channels=st.integers(1, 70).filter(lambda c: c < 32 or c % 16))
def test_maps_gradients_and_statistics_are_torchs(channels: int) -> None:
    plain, wide = both(channels)
    theirs, ours = results(plain, maps(channels)), results(wide, maps(channels))
    assert theirs.keys() == ours.keys()
    for key, wanted in theirs.items():
        torch.testing.assert_close(ours[key], wanted, rtol=1e-4, atol=1e-4, msg=key)


def test_in_bf16_they_are_as_near_to_exact_as_torchs() -> None:
    exact_norm, wide = both(58)
    plain, exact_norm = copy.deepcopy(exact_norm), exact_norm.double()
    x = maps(58, dtype=torch.bfloat16)
    exact, theirs, ours = results(exact_norm, x.double()), results(plain, x), results(wide, x)
    assert ours["maps"].dtype == ours["back"].dtype == torch.bfloat16
    for key in ("maps", "back", "weight", "bias", "running_mean", "running_var"):
        wrong, wrong_of_torch = ((each[key] - exact[key]).norm() for each in (ours, theirs))
        assert wrong <= 2 * wrong_of_torch + 1e-5 * exact[key].norm(), key


def test_a_mean_of_thirty_standard_deviations_leaves_three_digits() -> None:
    plain, wide = both(20)
    far = maps(20, mean=30.0)
    torch.testing.assert_close(results(wide, far)["maps"], results(plain, far)["maps"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("odd", ["NCHW", "eval", "without gradients", "batch"])
def test_elsewhere_it_is_torchs_to_the_bit(odd: str) -> None:
    plain, wide = both(20)
    x = maps(20)
    if odd == "NCHW":
        x = x.contiguous()
    if odd == "batch":
        x = x[:3, :, :7, :5].contiguous(memory_format=torch.channels_last)  # 105 pixels: no rows of 16
    for norm in (plain, wide):
        norm.train(odd != "eval")
    with torch.set_grad_enabled(odd != "without gradients"):
        assert torch.equal(wide(x), plain(x))
    for ours, theirs in zip(wide.buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_small_maps_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norms, "SMALLEST", maps(20).numel() + 1)
    plain, wide = both(20)
    assert torch.equal(wide(maps(20)), plain(maps(20)))


def test_it_is_for_few_or_odd_channels() -> None:
    for channels, wanted in ((16, True), (24, True), (32, False), (58, True), (64, False), (144, False)):
        assert norms.applies(nn.BatchNorm2d(channels)) is wanted
    assert not norms.applies(nn.BatchNorm2d(16, affine=False))
    assert not norms.applies(nn.BatchNorm2d(16, track_running_stats=False))
    assert not norms.applies(nn.BatchNorm2d(16, momentum=None))


def test_what_comes_next_may_write_into_the_maps() -> None:
    plain, wide = both(20)
    for norm in (plain, wide):
        nn.Sequential(norm, nn.ReLU(inplace=True))(maps(20)).square().sum().backward()
    torch.testing.assert_close(wide.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)


def test_a_network_keeps_the_names_of_its_weights_and_its_loss() -> None:
    torch.manual_seed(0)
    network = models.build("shufflenetv2", classes=5, channels=3, size=32)
    network = network.to(memory_format=torch.channels_last)
    wide = copy.deepcopy(network)
    precision.save_shared_lines(wide)
    assert list(wide.state_dict()) == list(network.state_dict())
    assert sum(isinstance(each, WideBatchNorm2d) for each in wide.modules()) > 10
    images = torch.randn(8, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    ours, theirs = (each(images).square().mean() for each in (wide, network))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    ours.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in wide.parameters())
