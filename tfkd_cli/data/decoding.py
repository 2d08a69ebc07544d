"""An image file of its own size, and the views that are cut from it: by Pillow, or by torchvision and torch.

Pillow's pixels are those of torchvision's transforms of PIL images. torchvision decodes JPEG files to the
same pixels; torch resizes bytes four times as fast as Pillow, and rounds the sums otherwise.

As torchvision's `ImageFolder`, both read files without regard to their EXIF orientation. Decoding on a GPU
(torchvision's batched `decode_jpeg` with nvJPEG) would be a third class here, and is not built.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch  # noqa: TID253  reached through the trainer only, never from the command line
from torch import Tensor  # noqa: TID253
from torch.utils.data import get_worker_info  # noqa: TID253

from tfkd_cli.data.image_files import Decoder
from tfkd_cli.data.images import MAX_PIXELS, readable_formats
from tfkd_cli.errors import RunError

if TYPE_CHECKING:
    from PIL import Image

RESIZED, CENTRE = 256, 224  # the shorter side of an evaluated image, and the centre that is cut out of it
END, ENDING = b"\xff\xd9", 64  # the marker that ends a JPEG, and how near to the end of the file it must be


class Picture(Protocol):
    """An image file that is open; nothing but its header may have been decoded yet."""

    size: tuple[int, int]  # height and width in pixels

    def resized(self, box: tuple[int, ...], to: tuple[int, int]) -> Tensor:
        """The box (top, left, height, width), uint8 (3, H, W) of this size: bilinear, antialiased."""
        ...


def opened(data: bytes, decoder: Decoder) -> Picture:
    """The picture in an image file; any exception when it is none."""
    if decoder == "torchvision" and (header := jpeg_header(data)) is not None:
        _refuse_enormous(header.height, header.width)
        return _Jpeg(data, header)
    return _ByPillow(data) if decoder == "pillow" else _Decoded(_by_pillow(data))


def evaluated(picture: Picture, size: int) -> Tensor:
    """As torchvision's Resize(size · 256/224) and CenterCrop(size): uint8 (3, size, size)."""
    (height, width), shorter = picture.size, size * RESIZED // CENTRE
    longer = int(shorter * max(height, width) / min(height, width))
    to = (longer, shorter) if height > width else (shorter, longer)
    top, left = (round((length - size) / 2) for length in to)
    return picture.resized((0, 0, height, width), to)[:, top : top + size, left : left + size]


class _ByPillow:
    """Decoded and resized by Pillow."""

    def __init__(self, data: bytes) -> None:
        self._image = _by_pillow(data)
        self.size = self._image.height, self._image.width

    def resized(self, box: tuple[int, ...], to: tuple[int, int]) -> Tensor:
        from PIL import Image

        top, left, height, width = box
        cut = self._image.crop((left, top, left + width, top + height))
        return _tensor(cut.resize((to[1], to[0]), Image.Resampling.BILINEAR))


class _Decoded:
    """Resized by torch; decoded already."""

    def __init__(self, image: Image.Image) -> None:
        self._image_CHW = _tensor(image)
        self.size = image.height, image.width

    def resized(self, box: tuple[int, ...], to: tuple[int, int]) -> Tensor:
        return _resized(self._image_CHW, box, to)


class _Jpeg:
    """Decoded by torchvision down to the last row that is needed, and resized by torch."""

    def __init__(self, data: bytes, header: JpegHeader) -> None:
        self._data, self._header = data, header
        self.size = header.height, header.width

    def resized(self, box: tuple[int, ...], to: tuple[int, int]) -> Tensor:
        # libjpeg writes to stderr how many bytes were not needed. In workers of a stream that leads nowhere.
        needed = self._header.height if get_worker_info() is None else box[0] + box[2]
        return _resized(_by_torchvision(first_rows(self._data, self._header, needed)), box, to)


class JpegHeader(NamedTuple):
    """The frame of a JPEG in colours or in grey."""

    height: int
    width: int
    height_at: int  # where in the file the height stands, in two bytes
    block: int  # rows that are coded together; 0 where first rows are not coded before others


def jpeg_header(data: bytes) -> JpegHeader | None:
    """The frame header (ITU T.81, B.2.2) of a JPEG in RGB or grey; None for anything else, CMYK too."""
    at = 2 if data.startswith(b"\xff\xd8") else len(data)
    while at + 19 < len(data) and data[at] == 0xFF:
        marker, height, components = data[at + 1], int.from_bytes(data[at + 5 : at + 7]), data[at + 9]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # not tables
            if height == 0 or components not in (1, 3):
                return None
            sampling = max(data[at + 11 + 3 * each] & 15 for each in range(components))
            block = 8 * sampling if marker in (0xC0, 0xC1) else 0  # of sequential frames
            return JpegHeader(height, int.from_bytes(data[at + 7 : at + 9]), at + 5, block)
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def first_rows(data: bytes, header: JpegHeader, rows: int) -> bytearray:
    """The same JPEG, said to be just high enough for so many rows, which are then all that is decoded.

    One block more is left, for chroma is interpolated between rows. A JPEG without an end is left whole: it
    is a truncated file, and that must be found whatever rows are needed.
    """
    cut = bytearray(data)
    if header.block and data.find(END, len(data) - ENDING) >= 0:
        high = (-(-rows // header.block) + 1) * header.block
        cut[header.height_at : header.height_at + 2] = min(high, header.height).to_bytes(2)
    return cut


def _by_torchvision(data: bytearray) -> Tensor:
    from torchvision.io import decode_jpeg

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # from torchvision 0.29 on
        try:
            image_CHW: Tensor = decode_jpeg(torch.frombuffer(data, dtype=torch.uint8))
        except RuntimeError as error:  # "decode_jpeg, FILE.cpp:171, Image is incomplete or truncated"
            raise ValueError(str(error).rpartition(", ")[2]) from error
    return image_CHW.expand(3, -1, -1)


def _by_pillow(data: bytes) -> Image.Image:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of broken EXIF data, and of large pictures; they name no file
        image = Image.open(io.BytesIO(data), formats=readable_formats())
        _refuse_enormous(image.height, image.width)
        return image.convert("RGB")


def _refuse_enormous(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ValueError(f"it has {width}×{height} pixels")


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _resized(image_CHW: Tensor, box: tuple[int, ...], to: tuple[int, int]) -> Tensor:
    top, left, height, width = box
    cut_1CHW = image_CHW[None, :, top : top + height, left : left + width]
    return torch.nn.functional.interpolate(
        cut_1CHW.contiguous(memory_format=torch.channels_last), to, mode="bilinear", antialias=True
    )[0]


def check(decoder: Decoder) -> None:
    """RunError where torchvision has no JPEG decoder; it is loaded here, once for all workers."""
    if decoder == "pillow":
        return
    try:
        from torchvision.io import decode_jpeg  # noqa: F401
    except ImportError as error:
        raise RunError(
            f"this torchvision decodes no JPEG files: {error}.",
            expected="a torchvision with torchvision.io.decode_jpeg.",
            hint="--set data.decoder=pillow decodes with Pillow (another run, with another key).",
        ) from error
