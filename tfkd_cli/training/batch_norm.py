"""BatchNorm over the batch of all ranks: torch's own on GPUs, the same in plain terms on a CPU.

`torch.nn.SyncBatchNorm` refuses tensors on a CPU (torch 2.14).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch  # noqa: TID253 - reached only from the trainer
import torch.distributed as dist  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.nn.modules.batchnorm import _BatchNorm  # noqa: TID253


def synchronised(network: nn.Module, device: torch.device) -> nn.Module:
    """The network, its BatchNorm layers synchronised; the names in its state dict do not change."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-any-return,no-untyped-call]
    for each in network.modules():
        if isinstance(each, _BatchNorm):
            each.forward = partial(_forward, each)  # type: ignore[method-assign]
    return network


class _SumOverRanks(torch.autograd.Function):
    """Every rank's loss depends on the sum, so that its gradient is the sum of theirs.

    `torch.distributed.nn.functional.all_reduce` is the same; torch 2.14 deprecates it for a private function.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _forward(layer: _BatchNorm, maps_NC: Tensor) -> Tensor:
    """Maps (N, C, …) normalised by the mean and biased variance of all ranks (Ioffe and Szegedy 2015).

    Sums are in float64, so that the variance as a difference of two large numbers keeps its digits.
    """
    if not layer.training or layer.running_mean is None:
        return type(layer).forward(layer, maps_NC)
    values_NC, others = maps_NC.double(), [0, *range(2, maps_NC.dim())]  # all dimensions but C
    counts_C = torch.full_like(layer.running_mean, maps_NC.numel() // maps_NC.shape[1])
    sums_3C = torch.stack([counts_C.double(), values_NC.sum(others), values_NC.square().sum(others)])
    count_C, sum_C, squares_C = _SumOverRanks.apply(sums_3C)
    mean_C = sum_C / count_C
    variance_C = squares_C / count_C - mean_C.square()
    _track(layer, mean_C.detach(), (variance_C * count_C / (count_C - 1)).detach())
    shape = [1, -1, *([1] * (maps_NC.dim() - 2))]
    normalised_NC = (values_NC - mean_C.view(shape)) * (variance_C + layer.eps).rsqrt().view(shape)
    if layer.affine:
        normalised_NC = normalised_NC * layer.weight.view(shape) + layer.bias.view(shape)
    result_NC: Tensor = normalised_NC.to(maps_NC.dtype)
    return result_NC


def _track(layer: _BatchNorm, mean_C: Tensor, variance_C: Tensor) -> None:
    """Move the running statistics, as `_BatchNorm.forward` does: the unbiased variance enters them."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.add_(1)
    share = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean_C.to(layer.running_mean.dtype), share)
    layer.running_var.lerp_(variance_C.to(layer.running_var.dtype), share)
