"""How a network is computed: memory format, bf16 where it is fast, BatchNorm folded for a teacher."""

from __future__ import annotations

import contextlib
from functools import cache, partial
from typing import Any, Literal

import torch  # noqa: TID253 - reached only from the trainer and the worker
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.training import provenance

FOLDING_TOLERANCE = 1e-3  # largest |folded − plain| relative to the largest |logit|; seen: about 1e-6

Arithmetic = Literal["fp32", "tf32", "bf16"]


def arithmetic(precision: str, device: torch.device) -> Arithmetic:
    """The arithmetic that a recipe's precision means on this device: bf16 only where it is faster than fp32.

    A processor without bf16 matrix units (tensor cores, AMX, AMD's AVX-512) emulates bf16: slower than fp32
    and less exact. On a GPU, fp32 is tf32 where `configure` has set it. A run's numerics record which it was.
    """
    if precision == "bf16" and _has_bf16_units(device):
        return "bf16"
    tf32 = device.type == "cuda" and torch.get_float32_matmul_precision() == "high"
    return "tf32" if tf32 else "fp32"


def configure(device: torch.device, *, tf32: bool) -> None:
    """Set what holds for a whole process on a GPU: cuDNN's choice of kernels, and TF32 or IEEE fp32.

    With `tf32`, convolutions and matrix products in fp32 round their inputs to a mantissa of 10 bits, on GPUs
    of compute capability 8.0 or higher. torch's own default is TF32 for convolutions alone.
    """
    if device.type != "cuda":
        return
    torch.backends.cudnn.benchmark = True  # shapes do not change; bit equality is promised on the CPU only
    tf32 = tf32 and torch.cuda.get_device_capability(device) >= (8, 0)
    # torch.backends.….fp32_precision sets the same, but makes the getter raise that torch.compile uses.
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


@cache
def _has_bf16_units(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    return provenance.cpu_has_bf16_units()


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """A bf16 autocast context where `arithmetic` is bf16, else one that does nothing."""
    if arithmetic(precision, device) == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def prepare(network: nn.Module, *, precision: str, device: torch.device) -> nn.Module:
    """The network on `device` in channels_last, ready for training under `autocast`.

    Under bf16 autocast on a CPU, strided depthwise convolutions stay in fp32: there, the input gradient of
    torch's bf16 kernel takes 20 to 40 times as long as that of its fp32 kernel. Names in the state dict
    do not change.
    """
    network = _placed(network, device)
    if device.type == "cpu" and arithmetic(precision, device) == "bf16":
        for each in network.modules():
            if isinstance(each, nn.Conv2d) and each.groups == each.in_channels > 1 and max(each.stride) > 1:
                each.forward = partial(_forward_in_fp32, each)  # type: ignore[method-assign]
    return network


def prepare_teacher(
    network: nn.Module, *, precision: str, device: torch.device, example_NCHW: Tensor
) -> nn.Module:
    """A trained network, on the CPU, as a frozen teacher on `device`: eval mode, no gradients, channels_last.

    With precision fp32 (paper scale) the network is computed as it is written; with bf16 (fast), BatchNorm
    layers are folded into the convolutions before them. `example_NCHW`: a few normalised images, on which
    the folded network's logits are compared with the original's.
    """
    network = network.eval().requires_grad_(requires_grad=False)
    if precision == "bf16":
        network = _folded(network, example_NCHW.cpu())
    return _placed(network, device)


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    # mypy knows no overload of `to` for a memory format.
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[no-any-return,call-overload]


def _forward_in_fp32(conv: nn.Conv2d, maps_NCHW: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        maps_NKHW: Tensor = type(conv).forward(conv, maps_NCHW.to(conv.weight.dtype))
    return maps_NKHW


def _folded(network: nn.Module, example_NCHW: Tensor) -> nn.Module:
    """The network with BatchNorms folded; itself where it cannot be traced or the logits would differ."""
    from torch.fx.experimental.optimization import fuse

    try:
        folded: nn.Module = fuse(network)
        with torch.no_grad():
            plain_NK, folded_NK = network(example_NCHW), folded(example_NCHW)
    except Exception:
        return network
    tolerance = FOLDING_TOLERANCE * plain_NK.abs().max().clamp_min(1e-6)
    return folded if bool((folded_NK - plain_NK).abs().max() <= tolerance) else network
