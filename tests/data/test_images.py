"""Image files of every kind as uint8 arrays, and no exception but ours on broken ones."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tfkd_cli.data.images import CHUNK, Look, decode, parallel, read_header
from tfkd_cli.errors import RequestError


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


COLOURS = Image.fromarray(np.random.RandomState(0).randint(0, 256, (40, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("RGB", "PNG"),
        ("L", "PNG"),
        ("1", "PNG"),
        ("P", "GIF"),
        ("LA", "PNG"),
        ("RGBA", "PNG"),
        ("CMYK", "JPEG"),
        ("RGB", "WEBP"),
        ("RGB", "BMP"),
        ("RGB", "PPM"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [32, 40])
def test_every_kind_of_image_becomes_an_array(mode: str, kind: str, channels: int, size: int) -> None:
    array = decode(saved(COLOURS.convert(mode), kind), Look(size, channels), name="x")
    assert array.shape == (channels, size, size)
    assert array.dtype == np.uint8
    assert array.std() > 5


def test_an_image_of_the_right_size_keeps_its_pixels() -> None:
    array = decode(saved(COLOURS), Look(40, 3), name="x")
    assert (array.transpose(1, 2, 0) == np.asarray(COLOURS)).all()


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    grey = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    array = decode(saved(Image.fromarray(grey)), Look(32, 1), name="x")
    assert (array[0] == np.round(grey / 257)).all()


def test_a_long_strip_is_cut_to_its_middle_without_growing_large() -> None:
    strip = Image.new("RGB", (60_000, 2))
    strip.paste((255, 255, 255), (29_990, 0, 30_010, 2))
    assert decode(saved(strip), Look(64, 3), name="x").min() == 255


def test_a_header_says_size_and_colours() -> None:
    header = read_header(saved(COLOURS.convert("L").resize((7, 9))), name="x")
    assert (header.width, header.height, header.grey) == (7, 9, True)


def test_work_in_parallel_keeps_its_order() -> None:
    items = range(2 * CHUNK + 10)
    assert [each for block in parallel(lambda item: item * 2, items) for each in block] == [
        2 * i for i in items
    ]


WHOLE = [saved(COLOURS, kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")]


@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8))
def test_damaged_images_give_an_array_or_our_error(whole: bytes, changes: list[tuple[int, int]]) -> None:
    data = bytearray(whole)
    for position, value in changes:
        data[position % len(data)] = value
    with contextlib.suppress(RequestError):
        assert decode(bytes(data), Look(32, 3), name="x").shape == (3, 32, 32)


@given(st.sampled_from(WHOLE), st.floats(0, 0.9))
def test_truncated_images_are_refused(whole: bytes, share: float) -> None:
    with contextlib.suppress(RequestError):  # a bitmap format may have all its pixels by then
        assert decode(whole[: int(len(whole) * share)], Look(32, 3), name="x").shape == (3, 32, 32)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    with pytest.raises(RequestError):
        decode(data, Look(32, 3), name="x")
