"""A frozen teacher's convolutions of small maps give what the plain ones give, as exactly as bf16 can."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.quick_convs import plain_and_quick
from tfkd_cli import models
from tfkd_cli.training import small_maps
from tfkd_cli.training.small_maps import SmallMapConv2d
from tfkd_cli.training.teacher_logits import FrozenTeacher

CPU = torch.device("cpu")
SMALL = ((2, 2), (2, 4), (4, 2), (4, 4), (2, 8), (8, 2))


def both(c_in: int, c_out: int, *, bias: bool = True) -> tuple[nn.Conv2d, SmallMapConv2d]:
    """A convolution in fp32, and one with its weights that goes the other way in bf16."""
    exact, quick = plain_and_quick(small_maps.hasten, c_in, c_out, bias=bias)
    assert isinstance(quick, SmallMapConv2d)
    return exact, quick.to(torch.bfloat16)


def maps_of(n: int, channels: int, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    maps_NCHW = torch.randn(n, channels, *size, generator=generator).relu_().bfloat16()
    return maps_NCHW.contiguous(memory_format=torch.channels_last)


def error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.float() - exact).norm() / exact.norm())


@given(n=st.integers(1, 5), size=st.sampled_from(SMALL), bias=st.booleans())
@settings(max_examples=25, deadline=None)
def test_outputs_are_those_of_the_plain_convolution_but_for_bf16s_rounding(
    n: int, size: tuple[int, int], bias: bool
) -> None:
    exact, quick = both(24, 40, bias=bias)
    maps_NCHW = maps_of(n, 24, size)
    with torch.inference_mode():
        ours_NKHW = quick(maps_NCHW)
        assert error(ours_NKHW, exact(maps_NCHW.float())) < 1e-2  # seen: 5e-3; bf16 numbers: 2e-3
    assert (ours_NKHW.shape, ours_NKHW.dtype) == ((n, 40, *size), torch.bfloat16)
    assert ours_NKHW.is_contiguous(memory_format=torch.channels_last)


def test_whole_numbers_come_out_exactly() -> None:
    exact, _ = both(8, 8, bias=False)
    with torch.no_grad():
        exact.weight.copy_(4 * torch.randint(-1, 2, exact.weight.shape))  # quarters of it are whole
    quick = copy.deepcopy(exact)
    small_maps.hasten(quick)
    quick.bfloat16()
    maps_NCHW = torch.zeros(1, 8, 4, 4, dtype=torch.bfloat16)
    for place in range(16):  # one pixel at a time: no sum is longer than bf16 holds
        one_NCHW = maps_NCHW.clone()
        one_NCHW[0, place % 8, place // 4, place % 4] = 1
        with torch.inference_mode():
            assert torch.equal(quick(one_NCHW).float(), exact(one_NCHW.float()))


@pytest.mark.parametrize("size", [(3, 4), (5, 5), (6, 4), (1, 1), (16, 16)])
def test_other_maps_go_the_plain_way(size: tuple[int, int]) -> None:
    exact, quick = both(8, 8)
    maps_NCHW = maps_of(2, 8, size)
    with torch.inference_mode():
        assert torch.equal(quick(maps_NCHW), exact.bfloat16()(maps_NCHW))


def test_with_gradients_it_is_the_plain_convolution() -> None:
    exact, quick = both(8, 8)
    maps_NCHW = maps_of(2, 8, (4, 4)).requires_grad_()
    assert torch.equal(quick(maps_NCHW), exact.bfloat16()(maps_NCHW))


def test_only_wide_plain_3x3_convolutions_are_taken() -> None:
    assert small_maps.applies(nn.Conv2d(512, 512, 3, padding=1))
    assert not small_maps.applies(nn.Conv2d(256, 512, 3, padding=1))
    assert not small_maps.applies(nn.Conv2d(512, 512, 3, padding=1, stride=2))
    assert not small_maps.applies(nn.Conv2d(512, 512, 3))
    assert not small_maps.applies(nn.Conv2d(512, 512, 1))
    assert not small_maps.applies(nn.Conv2d(512, 512, 3, padding=1, groups=512))


def test_a_resnet18_teacher_answers_as_it_would_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFKD_BF16", "always")
    images_NCHW = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def asked(precision_name: str) -> FrozenTeacher:
        torch.manual_seed(0)
        network = models.build("resnet18", classes=10, channels=3, size=32)
        return FrozenTeacher(network, device=CPU, precision_name=precision_name, example=images_NCHW)

    exact_NK, quick_NK = asked("fp32")(images_NCHW), asked("bf16")(images_NCHW)
    quick = [each for each in asked("bf16")._network.modules() if isinstance(each, SmallMapConv2d)]
    assert len(quick) == 3
    monkeypatch.setattr(small_maps, "applies", lambda conv: False)
    plain_NK = asked("bf16")(images_NCHW)
    assert error(quick_NK, exact_NK) < 1.5 * error(plain_NK, exact_NK) + 1e-3
