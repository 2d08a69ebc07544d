"""bf16 by rounding gives autocast's numbers."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from benchmarks.rounded import round_to_bf16
from tfkd_cli import models


def test_logits_and_gradients_are_much_nearer_to_autocast_s_than_fp32_s_are() -> None:
    torch.manual_seed(0)
    plain = models.build("plain-cnn", classes=10, channels=3, size=32)
    plain.register_module("dropout", nn.Identity())
    cast, rounded = copy.deepcopy(plain), copy.deepcopy(plain)
    names = list(rounded.state_dict())
    round_to_bf16(rounded)
    assert list(rounded.state_dict()) == names
    images, labels = torch.randn(16, 3, 32, 32), torch.arange(16) % 10

    def trained(network: nn.Module) -> tuple[Tensor, Tensor]:
        logits_NK: Tensor = network(images)
        F.cross_entropy(logits_NK.float(), labels).backward()  # type: ignore[no-untyped-call]
        gradients = [each.grad.flatten() for each in network.parameters() if each.grad is not None]
        return logits_NK.detach().float(), torch.cat(gradients)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = trained(cast)
    for theirs, exact, ours in zip(wanted, trained(plain), trained(rounded), strict=True):
        assert (ours - theirs).norm() < 0.5 * (exact - theirs).norm()
