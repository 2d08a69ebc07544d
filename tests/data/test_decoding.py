"""Image files of their own size: what is read of a JPEG, and that no less is seen of it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, UnidentifiedImageError

from tests.data.ilsvrc import jpeg
from tfkd_cli.data.decoding import _by_torchvision, first_rows, jpeg_header, opened
from tfkd_cli.data.image_files import Decoder


def photograph(height: int, width: int, *, mode: str = "RGB", **saved: object) -> bytes:
    coarse = np.random.default_rng(height).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, "JPEG", **saved)
    return file.getvalue()


@given(
    st.integers(17, 90), st.integers(17, 90), st.floats(0, 1), st.sampled_from([0, 1, 2]),
    st.sampled_from(["RGB", "L"]), st.booleans(),
)  # fmt: skip
def test_the_first_rows_of_a_jpeg_are_those_of_the_whole(
    height: int, width: int, share: float, subsampling: int, mode: str, progressive: bool
) -> None:
    """4:4:4, 4:2:2 and 4:2:0, grey, progressive files (which are decoded whole), sizes that fill no block."""
    data = photograph(height, width, mode=mode, subsampling=subsampling, progressive=progressive)
    header = jpeg_header(data)
    assert header is not None
    assert (header.height, header.width, header.block == 0) == (height, width, progressive)
    rows = max(1, round(share * height))
    whole, part = _by_torchvision(bytearray(data)), _by_torchvision(first_rows(data, header, rows))
    assert part.shape[1] <= max(height if progressive else 0, rows + 31)
    assert torch.equal(part[:, :rows], whole[:, :rows])


def test_a_file_without_an_end_is_read_whole_so_that_it_is_found_to_be_corrupt() -> None:
    data = photograph(90, 60, quality=95)[:-200]
    header = jpeg_header(data)
    assert header is not None
    assert first_rows(data, header, 8) == data
    with pytest.raises(ValueError, match=r"^Image is incomplete or truncated"):
        opened(data, "torchvision").resized((0, 0, 90, 60), (8, 8))


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"GIF89a", bytes(100), b"\xff\xd8" + b"\xff" * 99]
)
def test_what_is_no_jpeg_has_no_header(data: bytes) -> None:
    assert jpeg_header(data) is None


@given(st.binary(max_size=60), st.integers(2, 400))
def test_headers_that_were_changed_end_in_an_exception_at_most(noise: bytes, at: int) -> None:
    data = jpeg(1)
    broken = data[:at] + noise + data[at + len(noise) :]
    header = jpeg_header(broken)
    assert header is None or header.height > 0


def test_cmyk_files_are_left_to_pillow() -> None:
    assert jpeg_header(jpeg(1, mode="CMYK")) is None
    assert opened(jpeg(1, mode="CMYK"), "torchvision").size == opened(jpeg(1), "pillow").size


@pytest.mark.parametrize("decoder", ["torchvision", "pillow"])
def test_other_formats_and_enormous_pictures_are_refused_whatever_decodes(decoder: Decoder) -> None:
    """Pillow would hand PostScript to Ghostscript, and fill the memory with a picture of one colour."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    enormous = io.BytesIO()
    Image.new("1", (40_000, 2_001)).save(enormous, "PNG")
    for data, error in ((script, UnidentifiedImageError), (enormous.getvalue(), ValueError)):
        with pytest.raises(error):
            opened(data, decoder)
