"""Splitting by class and content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli.data.split import split
from tfkd_cli.errors import RequestError

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}
bodies = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), min_size=1, max_size=150)


@given(bodies)
def test_every_image_is_in_one_part_and_equal_ones_in_the_same(body: list[tuple[int, int]]) -> None:
    labels, hashes = [label for label, _ in body], [b"%d" % content_hash for _, content_hash in body]
    try:
        parts = split(hashes, labels, SHARES)
    except RequestError:
        assert (
            min(len({m for m, k in zip(hashes, labels, strict=True) if k == label}) for label in labels) < 3
        )
        return
    assert sorted(position for positions in parts.values() for position in positions) == list(
        range(len(body))
    )
    where = {body[position]: name for name, positions in parts.items() for position in positions}
    assert all(where[body[position]] == name for name, positions in parts.items() for position in positions)
    assert all({labels[p] for p in positions} == set(labels) for positions in parts.values())


def test_a_hundred_images_are_split_70_15_15() -> None:
    parts = split([b"%d" % i for i in range(100)], [0] * 100, SHARES)
    assert {name: len(positions) for name, positions in parts.items()} == {"train": 70, "val": 15, "test": 15}


def test_the_split_is_by_content_not_by_order() -> None:
    hashes = [b"%d" % i for i in range(50)]
    one, other = split(hashes, [0] * 50, SHARES), split(hashes[::-1], [0] * 50, SHARES)
    assert {hashes[i] for i in one["test"]} == {hashes[::-1][i] for i in other["test"]}


def test_another_seed_gives_another_split() -> None:
    hashes = [b"%d" % i for i in range(50)]
    assert split(hashes, [0] * 50, SHARES)["test"] != split(hashes, [0] * 50, SHARES, seed=1)["test"]


def test_a_class_of_two_images_cannot_be_split_in_three() -> None:
    with pytest.raises(RequestError, match="class 0 has 2 different images"):
        split([b"a", b"b"], [0, 0], SHARES)
