"""How a network is calculated: memory format, bf16, what a CPU is spared, BatchNorm folded for a teacher."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch  # noqa: TID253 - reached only from the trainer and the worker
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.training import gradients, moments, norms, pairs, small_maps, winograd

FOLDING_TOLERANCE = 1e-3  # largest |folded - plain| relative to the largest |logit|; seen: about 1e-6


def place(network: nn.Module, *, device: torch.device) -> nn.Module:
    """The network on `device`, its convolutions in channels_last."""
    # mypy knows no overload of `to` for a memory format alone.
    return network.to(device=device).to(memory_format=torch.channels_last)


def arithmetic(precision: str, device: torch.device) -> str:
    """What a recipe's precision comes to on this device: bf16 where it may and that is faster, else fp32.

    Without units for bf16 (tensor cores, AMX, AMD's AVX-512) it is slower than fp32, not only less exact.
    The variable TFKD_BF16=always uses it regardless, for comparisons. A run's numerics name what was used.
    """
    if precision != "bf16":
        return "fp32"
    fast = os.environ.get("TFKD_BF16") == "always" or _has_bf16_units(device.type)
    return "bf16" if fast else "fp32"


@cache
def _has_bf16_units(device_type: str) -> bool:
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device_type == "cpu" and _multiplies_bf16_fast(_instructions())


def _multiplies_bf16_fast(instructions: frozenset[str]) -> bool:
    """AMX, or avx512_bf16 as AMD has it (Zen 4: twice fp32's products); Intel's is slower than its fp32."""
    return "amx_bf16" in instructions or {"avx512_bf16", "AuthenticAMD"} <= instructions


def _has_avx512() -> bool:
    return "avx512f" in _instructions()


@cache
def _instructions() -> frozenset[str]:
    """What this processor says it can, and whose it is; nothing where it does not say."""
    with contextlib.suppress(OSError):
        return frozenset(Path("/proc/cpuinfo").read_text().split())
    return frozenset()


def calculating(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast where that is this precision's arithmetic here, else nothing."""
    if arithmetic(precision, device) == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def hasten(network: nn.Module, *, images_NCHW: Tensor) -> None:
    """All that follows, where it pays, for a network in training with bf16, on the device of the images.

    Names of weights stay.
    """
    device = images_NCHW.device
    if device.type != "cpu":
        return
    if arithmetic("bf16", device) == "fp32":
        save_products(network, device=device)
        save_passes(network, images_NCHW=images_NCHW)
    save_gradients(network, images_NCHW=images_NCHW)
    save_shared_lines(network)


def save_products(network: nn.Module, *, device: torch.device) -> None:
    """Let wide 3×3 convolutions go Winograd's way on the CPU, in fp32."""
    _hasten_plain(network, device=device, applies=winograd.applies, hasten=winograd.hasten)


def save_products_of_small_maps(network: nn.Module, *, device: torch.device) -> None:
    """Let a frozen network's widest go that way in bf16 where maps are small; before `store_as_bf16`."""
    _hasten_plain(network, device=device, applies=small_maps.applies, hasten=small_maps.hasten)


def _hasten_plain(
    network: nn.Module,
    *,
    device: torch.device,
    applies: Callable[[nn.Conv2d], bool],
    hasten: Callable[[nn.Conv2d], None],
) -> None:
    if device.type != "cpu":
        return
    for each in network.modules():
        if type(each) is nn.Conv2d and applies(each):
            hasten(each)


def save_passes(network: nn.Module, *, images_NCHW: Tensor) -> None:
    """Let widening convolutions normalise as well.

    With AVX2 alone the additional products take as long as the passes that they save.
    """
    if not _has_avx512():
        return
    for conv, norm in pairs.in_training(network, images_NCHW):
        first = conv.in_channels == images_NCHW.shape[1]
        if moments.applies(conv, norm, first=first):
            moments.join(conv, norm)


def save_shared_lines(network: nn.Module) -> None:
    """Let BatchNorms of few or odd channels take wide rows."""
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d) and norms.applies(each):
            norms.widen(each)


def save_gradients(network: nn.Module, *, images_NCHW: Tensor) -> None:
    """Let the other convolutions calculate no gradient in vain.

    That one product is faster than oneDNN was seen in bf16 and, in fp32, with AVX2 alone.
    """
    products = arithmetic("bf16", images_NCHW.device) == "bf16" or not _has_avx512()
    convs = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    with_bias = any(each.bias is not None for each in convs)
    behind = dict(pairs.in_training(network, images_NCHW)) if with_bias else {}
    for conv in convs:
        if gradients.applies(conv):
            gradients.spare(conv, products=products)
        if isinstance(conv, norms.BeforeNorm) and conv in behind:
            conv.behind = (behind[conv],)


def folded(network: nn.Module, *, images_NCHW: Tensor) -> nn.Module:
    """The network, in eval mode, with BatchNorms that alone follow a convolution folded into it.

    What follows what is seen by running `images_NCHW` through it, so any architecture will do; a pair
    whose folding changes the outputs all the same stays as it was.
    """
    names = {module: name for name, module in network.named_modules()}
    found = [
        (names[conv], names[norm])
        for conv, norm in pairs.in_evaluation(network, images_NCHW)
        if "weight" in conv._parameters  # else made of others, as weight_norm does
    ]
    with torch.no_grad():
        _fold(network, found, images_NCHW, network(images_NCHW))
    return network


def _fold(network: nn.Module, found: list[tuple[str, str]], images_NCHW: Tensor, plain_NK: Tensor) -> None:
    """Fold these (convolution, norm) pairs; where that is wrong, undo it and fold the halves apart."""
    before = {name: network.get_submodule(name) for pair in found for name in pair}
    for name, norm_name in found:
        conv, norm = before[name], before[norm_name]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        _replace(network, name, torch.nn.utils.fuse_conv_bn_eval(conv, norm))
        _replace(network, norm_name, nn.Identity())
    difference = (network(images_NCHW) - plain_NK).abs().max() / plain_NK.abs().max().clamp_min(1e-6)
    if float(difference) <= FOLDING_TOLERANCE:
        return
    for name, module in before.items():
        _replace(network, name, module)
    half = len(found) // 2
    for part in (found[:half], found[half:]):
        if half:
            _fold(network, part, images_NCHW, plain_NK)


def _replace(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def store_as_bf16(network: nn.Module) -> None:
    """Keep the weights of convolutions and linear layers as bf16: autocast need not cast them again."""
    for each in network.modules():
        if isinstance(each, nn.Conv2d | nn.Linear):
            each.to(torch.bfloat16)
