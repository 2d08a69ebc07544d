"""Image files of every kind as uint8 arrays, and no exception but ours on broken ones."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
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


def png_of(values_HWC: NDArray[Any], **chunks: bytes) -> bytes:
    """A PNG file of 16 bits a value: grey and alpha, colours, or colours and alpha."""
    height, width, channels = values_HWC.shape
    lines = b"".join(b"\0" + row_WC.astype(">u2").tobytes() for row_WC in values_HWC)
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    content = {"IHDR": header, **chunks, "IDAT": zlib.compress(lines), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name.encode(), data) for name, data in content.items())


@pytest.mark.parametrize("top", [255, 1023, 4095, 16383, 65535])
@pytest.mark.parametrize("channels", [2, 3, 4])
def test_deep_colours_are_scaled_by_the_range_of_their_set(top: int, channels: int) -> None:
    alpha_HW = np.full((40, 40), 65535)
    grey = channels == 2
    shown_HWC = np.dstack([GREY] * 3) if grey else np.asarray(COLOURS)
    values_HWC = (shown_HWC[..., :1] if grey else shown_HWC) / 255 * top
    with_alpha_HWC = np.dstack([values_HWC, alpha_HW]) if channels != 3 else values_HWC
    bright_HWC = np.dstack([np.full((40, 40, 1 if grey else 3), top), alpha_HW])[..., :channels]
    data = [png_of(each) for each in (with_alpha_HWC, bright_HWC)]
    levels = levels_of([read_header(each, name="x") for each in data])
    assert levels == (("D", 0.0, float(top)),)
    shown = decode(data[0], Look(40, 3, levels), name="x").transpose(1, 2, 0)
    assert np.abs(shown.astype(int) - shown_HWC).max() <= 1
    assert f"colours of more than 8 bits from 0 (black) to {top} (white)" in Look(40, 3, levels).text


def tiff_of(values_HWC: NDArray[Any], order: str, compression: str, *, planes: bool = False) -> bytes:
    """A TIFF file of these values, grey or colours, its pixels together or its colours in three planes."""
    end: Literal["<", ">"] = "<" if order == "II" else ">"
    height, width, channels = values_HWC.shape
    parts = values_HWC.transpose(2, 0, 1) if planes else [values_HWC]
    strips = [part.astype(part.dtype.newbyteorder(end)).tobytes() for part in parts]
    strips = [zlib.compress(each) for each in strips] if compression == "deflate" else strips
    sizes = [len(each) for each in strips]
    bits, sample_format = 8 * values_HWC.dtype.itemsize, {"u": 1, "i": 2, "f": 3}[values_HWC.dtype.kind]
    shorts = {258: [bits] * channels, 259: [8 if compression == "deflate" else 1], 277: [channels]}
    shorts |= {262: [2 if channels == 3 else 1], 284: [2 if planes else 1], 339: [sample_format] * channels}
    longs = {256: [width], 257: [height], 273: [0] * len(strips), 278: [height], 279: sizes}
    start = 8 + 2 + 12 * (len(shorts) + len(longs)) + 4  # of what does not fit into an entry
    behind = start + 4 * len(shorts | longs) * 4
    longs[273] = [behind + sum(sizes[:place]) for place in range(len(strips))]
    entries, more = b"", b""
    for tag, values in sorted((shorts | longs).items()):
        kind = "H" if tag in shorts else "I"
        data = struct.pack(f"{end}{len(values)}{kind}", *values)
        if len(data) > 4:
            more, data = more + data, struct.pack(f"{end}I", start + len(more))
        entries += struct.pack(f"{end}HHI", tag, 3 if kind == "H" else 4, len(values)) + data.ljust(4, b"\0")
    head = order.encode() + struct.pack(f"{end}HIH", 42, 8, len(shorts | longs)) + entries + bytes(4) + more
    return head.ljust(behind, b"\0") + b"".join(strips)


@pytest.mark.parametrize("top", [255, 4095, 65535])
@pytest.mark.parametrize("declared", [4095, 65535])
@pytest.mark.parametrize("magic", ["P6", "P3"])
def test_deep_colours_of_a_ppm_file_are_scaled_like_all_others(top: int, declared: int, magic: str) -> None:
    values_HWC = np.asarray(COLOURS) / 255 * min(top, declared)
    values_HWC = values_HWC.round().astype(np.uint16)
    plain = " ".join(map(str, values_HWC.ravel())).encode()
    pixels = values_HWC.astype(">u2").tobytes() if magic == "P6" else plain
    data = f"{magic} # a comment\n40 40\n{declared}\n".encode() + pixels
    shown = decode(data, Look(40, 3, levels_of([read_header(data, name="x")])), name="x")
    assert np.abs(shown.transpose(1, 2, 0).astype(int) - np.asarray(COLOURS)).max() <= 1


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("compression", ["raw", "deflate"])
@pytest.mark.parametrize("kind", ["i2", "i4", "f4"])
def test_deep_grey_of_a_tiff_file_is_read_in_its_byte_order(order: str, compression: str, kind: str) -> None:
    top = 1 if kind == "f4" else 32767
    values_HW1 = (GREY / 255 * top).astype(kind)[..., None]
    data = tiff_of(values_HW1, order, compression)
    shown = decode(data, Look(40, 1, levels_of([read_header(data, name="x")])), name="x")
    assert np.abs(shown[0].astype(int) - GREY).max() <= 1


@pytest.mark.parametrize("order", ["II", "MM"])
@pytest.mark.parametrize("compression", ["raw", "deflate"])
def test_deep_colours_of_a_tiff_file_are_read_in_its_byte_order(order: str, compression: str) -> None:
    values_HWC = np.asarray(COLOURS).astype(np.uint16) * 16
    data = tiff_of(values_HWC, order, compression)
    levels = levels_of([read_header(data, name="x")])
    assert levels == (("D", 0.0, 4095.0),)
    shown = decode(data, Look(40, 3, levels), name="x").transpose(1, 2, 0)
    assert np.abs(shown.astype(int) - np.asarray(COLOURS)).max() <= 1


@pytest.mark.parametrize("compression", ["raw", "deflate"])
@pytest.mark.parametrize(
    ("values_HWC", "planes"), [(np.asarray(COLOURS).astype(np.uint16) * 16, True), (GREY[..., None], False)]
)
def test_values_that_pillow_would_read_as_others_are_refused(
    values_HWC: NDArray[Any], planes: bool, compression: str
) -> None:
    signed_HWC = values_HWC if planes else values_HWC.view(np.int8)
    with pytest.raises(
        RequestError, match=r"Pillow (does not read colours of 16 bits|reads no signed values)"
    ):
        read_header(tiff_of(signed_HWC, "II", compression, planes=planes), name="x")


def test_the_transparent_colour_of_a_deep_image_is_white_and_its_neighbour_is_not() -> None:
    values_HWC = np.full((40, 40, 3), 1000)
    values_HWC[:, 20:] = 1001
    data = png_of(values_HWC, tRNS=struct.pack(">HHH", 1000, 1000, 1000))
    levels = levels_of([read_header(data, name="x"), read_header(png_of(values_HWC * 4), name="x")])
    shown = decode(data, Look(40, 3, levels), name="x")
    assert (shown[:, :, :20] == 255).all()
    assert (shown[:, :, 20:] == round(1001 * 255 / 4095)).all()


def test_values_below_zero_and_above_sixteen_bits_are_stretched_between_their_extremes() -> None:
    values = np.linspace(-1000, 200_000, 40 * 40).reshape(40, 40)
    data = saved(Image.fromarray(values.astype(np.int32)), "TIFF")
    levels = levels_of([read_header(data, name="x")])
    assert levels == (("I", -1000.0, 200_000.0),)
    shown = decode(data, Look(40, 1, levels), name="x")
    assert (shown.min(), shown.max()) == (0, 255)


def test_unsigned_values_that_pillow_reads_as_negative_are_refused() -> None:
    values = np.linspace(0, 2**32 - 1, 40 * 40).astype(np.uint32).reshape(40, 40)
    signed = saved(Image.fromarray(values.view(np.int32)), "TIFF")
    entry = struct.pack("<HHI", 339, 3, 1)  # SampleFormat, one short: 2 is signed, 1 is not
    assert signed.count(entry + b"\2") == 1
    data = signed.replace(entry + b"\2", entry + b"\1")
    with pytest.raises(RequestError, match="unsigned values of 32 bits"):
        read_header(data, name="x")


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


def profile_chunk(name: str, profile: bytes) -> bytes:
    return chunk(b"zTXt", f"Raw profile type {name}\0\0".encode() + zlib.compress(profile))


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
        "PNG, raw profile exif": lambda: plain[:pixels] + profile_chunk("exif", raw) + plain[pixels:],
        "PNG, raw profile APP1": lambda: plain[:pixels] + profile_chunk("APP1", raw) + plain[pixels:],
        "PNG, XMP": lambda: (
            plain[:pixels] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp) + plain[pixels:]
        ),
        "WEBP, XMP": lambda: saved(COLOURS, "WEBP", xmp=xmp, lossless=True),
    }[place]()


@pytest.mark.parametrize(
    "place",
    [
        *("PNG", "WEBP", "TIFF", "PNG, eXIf after the pixels", "PNG, XMP", "WEBP, XMP"),
        *("PNG, raw profile exif", "PNG, raw profile APP1"),
    ],
)
def test_an_image_is_turned_upright_wherever_its_orientation_stands(place: str) -> None:
    shown = decode(turned(place), Look(40, 3), name="x")
    assert (shown.transpose(1, 2, 0) == np.asarray(COLOURS.transpose(Image.Transpose.ROTATE_270))).all()


@pytest.mark.parametrize("exif", [b"junk", b"Exif\0\0junk", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
def test_an_image_whose_exif_is_broken_is_shown_as_it_is(exif: bytes) -> None:
    shown = decode(saved(COLOURS, "WEBP", exif=exif, lossless=True), Look(40, 3), name="x")
    assert (shown.transpose(1, 2, 0) == np.asarray(COLOURS)).all()


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_file_in_which_white_is_zero_is_no_negative(bits: int) -> None:
    ink_HW = 255 - GREY if bits == 8 else (255 - GREY).astype(np.uint16) * 257
    plain = saved(Image.fromarray(ink_HW), "TIFF")
    entry = struct.pack("<HHI", 262, 3, 1)  # PhotometricInterpretation, one short: 1 is black is zero
    assert plain.count(entry + b"\1") == 1
    data = plain.replace(entry + b"\1", entry + b"\0")
    shown = decode(data, Look(40, 1, levels_of([read_header(data, name="x")])), name="x")
    assert (shown[0] == GREY).all()


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_colours_of_four_inks_are_the_colours_that_are_seen(kind: str) -> None:
    image = Image.new("RGB", (40, 40), (200, 30, 60))
    data = saved(image.convert("CMYK"), kind)
    assert levels_of([read_header(data, name="x")]) == ()
    shown = decode(data, Look(32, 3), name="x")
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


def test_a_format_that_another_program_would_have_to_run_is_no_image() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\nshowpage\n"
    with pytest.raises(RequestError, match="no known image format"):
        decode(postscript, Look(32, 3), name="x")


@given(st.binary(max_size=300))
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    with pytest.raises(RequestError):
        decode(data, Look(32, 3), name="x")
