"""Image files of every kind as uint8 arrays, and no exception but ours on broken ones."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tfkd_cli.data.images import CHUNK, NAMED, Look, decode, levels_of, naming_all, parallel, read_header
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


GREY = np.asarray(COLOURS.convert("L"))
DEEP: list[tuple[type, str, int]] = [(np.uint16, "PNG", top) for top in (255, 1023, 4095, 16383, 65535)]
DEEP += [(np.uint16, "TIFF", 4095), (np.int32, "TIFF", 255), (np.int32, "TIFF", 65535)]
DEEP += [(np.float32, "TIFF", top) for top in (1, 255, 65535)]


@pytest.mark.parametrize(("kind", "file_format", "top"), DEEP)
def test_deep_images_are_scaled_by_the_range_of_their_set(kind: type, file_format: str, top: int) -> None:
    data = [
        saved(Image.fromarray((values / 255 * top).astype(kind)), file_format)
        for values in (GREY, 0.7 * GREY, np.full_like(GREY, 255))
    ]
    levels = levels_of([read_header(each, name="x") for each in data])
    assert levels == (("F" if kind is np.float32 else "I", 0.0, float(top)),)
    shown = decode(data[0], Look(40, 1, levels), name="x")[0]
    assert np.abs(shown.astype(int) - GREY).max() <= 1
    assert f"from 0 (black) to {top} (white)" in Look(40, 1, levels).text


def test_values_below_zero_and_above_sixteen_bits_are_stretched_between_their_extremes() -> None:
    values = np.linspace(-1000, 200_000, 40 * 40).reshape(40, 40)
    data = saved(Image.fromarray(values.astype(np.int32)), "TIFF")
    levels = levels_of([read_header(data, name="x")])
    assert levels == (("I", -1000.0, 200_000.0),)
    shown = decode(data, Look(40, 1, levels), name="x")
    assert (shown.min(), shown.max()) == (0, 255)


def test_a_float_that_is_no_number_is_black() -> None:
    values = np.full((40, 40), 0.5, np.float32)
    values[0, 0], values[0, 1] = np.nan, np.inf
    data = saved(Image.fromarray(values), "TIFF")
    levels = levels_of([read_header(data, name="x")])
    assert decode(data, Look(40, 1, levels), name="x")[0, 0, :3].tolist() == [0, 0, 128]


def drawing(mode: str) -> tuple[Image.Image, dict[str, object]]:
    """A black disc on nothing at all, and how a PNG is told what is nothing."""
    y, x = np.mgrid[:40, :40]
    disc = (y - 20) ** 2 + (x - 20) ** 2 < 100
    alpha = np.where(disc, 255, 0).astype(np.uint8)
    black = np.zeros((40, 40), np.uint8)
    if mode == "RGBA":
        return Image.fromarray(np.dstack([black, black, black, alpha])), {}
    if mode == "LA":
        return Image.fromarray(np.dstack([black, alpha])), {}
    if mode == "P":
        image = Image.fromarray(disc.astype(np.uint8))
        image.putpalette([0] * 768)
        return image, {"transparency": 0}
    if mode == "I;16":
        return Image.fromarray(np.where(disc, 0, 4000).astype(np.uint16)), {"transparency": 4000}
    key = {"1": 1, "L": 99, "RGB": (99, 99, 99)}[mode]
    grey = Image.fromarray(np.where(disc, 0, 99).astype(np.uint8))
    image = Image.fromarray(~disc) if mode == "1" else grey.convert(mode)
    return image, {"transparency": key}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "L", "RGB", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_transparent_is_white(mode: str, channels: int) -> None:
    image, options = drawing(mode)
    shown = decode(saved(image, "PNG", **options), Look(40, channels), name="x")
    assert (shown[:, 0, 0] == 255).all()
    assert (shown[:, 20, 20] == 0).all()


def test_what_is_half_transparent_is_half_white() -> None:
    image = Image.new("RGBA", (40, 40), (0, 0, 255, 128))
    for kind in ("PNG", "WEBP", "TIFF"):
        shown = decode(saved(image, kind), Look(32, 3), name="x")
        assert shown[:, 9, 9].tolist() == pytest.approx([127, 127, 255], abs=2)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def turned(place: str) -> bytes:
    """COLOURS, to be shown turned by a quarter clockwise, as `place` says."""
    exif, xmp = Image.Exif(), b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    exif[0x0112] = 6
    plain, tiff = saved(COLOURS), exif.tobytes().removeprefix(b"Exif\0\0")
    pixels, end = plain.index(b"IDAT") - 4, plain.rindex(b"IEND") - 4
    profile = b"Exif\0\0" + tiff
    raw = b"\nexif\n%8d\n%s\n" % (len(profile), profile.hex().encode())
    return {
        "PNG": lambda: saved(COLOURS, exif=exif),
        "WEBP": lambda: saved(COLOURS, "WEBP", exif=exif, lossless=True),
        "TIFF": lambda: saved(COLOURS, "TIFF", tiffinfo={0x0112: 6}),
        "PNG, eXIf after the pixels": lambda: plain[:end] + chunk(b"eXIf", tiff) + plain[end:],
        "PNG, raw profile": lambda: (
            plain[:pixels]
            + chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(raw))
            + plain[pixels:]
        ),
        "PNG, XMP": lambda: (
            plain[:pixels] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + plain[pixels:]
        ),
        "WEBP, XMP": lambda: saved(COLOURS, "WEBP", xmp=xmp, lossless=True),
    }[place]()


@pytest.mark.parametrize(
    "place",
    ["PNG", "WEBP", "TIFF", "PNG, eXIf after the pixels", "PNG, raw profile", "PNG, XMP", "WEBP, XMP"],
)
def test_an_image_is_turned_upright_wherever_its_orientation_stands(place: str) -> None:
    shown = decode(turned(place), Look(40, 3), name="x")
    assert (shown.transpose(1, 2, 0) == np.asarray(COLOURS.transpose(Image.Transpose.ROTATE_270))).all()


@pytest.mark.parametrize("exif", [b"junk", b"Exif\0\0junk", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_an_image_whose_exif_is_broken_is_shown_as_it_is(exif: bytes) -> None:
    shown = decode(saved(COLOURS, "WEBP", exif=exif, lossless=True), Look(40, 3), name="x")
    assert (shown.transpose(1, 2, 0) == np.asarray(COLOURS)).all()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_colours_of_four_inks_are_the_colours_that_are_seen(kind: str) -> None:
    image = Image.new("RGB", (40, 40), (200, 30, 60))
    shown = decode(saved(image.convert("CMYK"), kind), Look(32, 3), name="x")
    assert shown[:, 9, 9].tolist() == pytest.approx([200, 30, 60], abs=3)


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


def test_all_that_cannot_be_read_is_named_at_once_and_the_rest_counted() -> None:
    names = [f"{number:02}.png" for number in range(NAMED + 10)]

    def read(name: str) -> None:
        if name > "04.png":
            decode(b"no image", Look(32, 3), name=name)

    with pytest.raises(RequestError) as caught, naming_all(names, read):
        read(names[-1])
    assert f"{NAMED + 5} images cannot be used" in caught.value.what
    assert "'05.png'" in caught.value.what
    assert "and 5 more" in caught.value.what
    assert caught.value.expected
    assert caught.value.hint


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
