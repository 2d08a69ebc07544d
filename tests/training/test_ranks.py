"""Shares of a batch, and what one process is without the others. Several train in `tests/backends`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli.training.ranks import Ranks


@given(images=st.integers(0, 100), size=st.integers(1, 9))
def test_each_index_has_one_rank_and_parts_differ_by_one_at_most(images: int, size: int) -> None:
    parts = [Ranks(rank, size).share(torch.arange(images)) for rank in range(size)]
    assert torch.equal(torch.cat(parts), torch.arange(images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(images=st.integers(1, 100), size=st.integers(1, 9))
def test_the_images_of_a_batch_count_once_in_all_and_no_rank_has_less_than_two(
    images: int, size: int
) -> None:
    parts = [Ranks(rank, size).share_of_batch(torch.arange(images)) for rank in range(size)]
    weights = [Ranks(rank, size).weight(len(part), images=images) for rank, part in enumerate(parts)]
    counted = sum(weight * len(part) for weight, part in zip(weights, parts, strict=True))
    assert counted == pytest.approx(images)
    assert min(map(len, parts)) >= min(2, images)


def test_a_process_finds_the_variables_of_torchrun_and_is_alone_without_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    alone = Ranks.of_environment(sync_batch_norm=True)
    assert (alone.rank, alone.size, alone.numerics) == (0, 1, {})
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    found = Ranks.of_environment(sync_batch_norm=True)
    assert (found.rank, found.size, found.local_rank, found.local_size) == (5, 8, 1, 4)
    assert found.numerics == {"processes": 8, "sync_batch_norm": True}
