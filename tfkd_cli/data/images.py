"""Image files as uint8 arrays: one declared way to look at them, many at once, nothing read twice.

Threads decode: Pillow lets go of the interpreter while it does, and no process has to be started.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from tfkd_cli.data.reader import Progress
from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from PIL import Image

SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"))
MAX_PIXELS = 80_000_000  # below Pillow's own warning; a larger picture is a mistake or an attack
MAX_BYTES = 300_000_000
CHUNK = 1024  # images decoded between two writes

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Look:
    """How image files become arrays; part of the identity of own data.

    Turned upright (EXIF), the centre square taken, resized (bilinear, antialiased; an image of the right
    size keeps its pixels). Colours as RGB, or grey with one channel; transparency is dropped.
    """

    size: int
    channels: int

    @property
    def text(self) -> str:
        """The recipe in words, for the fingerprint and for the reader."""
        colours = "RGB" if self.channels == 3 else "grey"
        return (
            f"{colours}, upright, centre square, resized to {self.size}×{self.size} (bilinear, antialiased)"
        )


@dataclass(frozen=True)
class Header:
    """What an image file says of itself, before its pixels are decoded."""

    width: int
    height: int
    grey: bool


def read_header(data: bytes, *, name: str) -> Header:
    """Width, height and kind; RequestError when it is no image or an absurdly large one."""
    with _opened(data, name=name) as image:
        return Header(image.width, image.height, image.mode in ("1", "L", "LA") or image.mode[0] == "I")


def decode(data: bytes, look: Look, *, name: str) -> NDArray[uint8]:
    """One image file as a uint8 array (C, size, size); RequestError naming the file when it is broken."""
    with _opened(data, name=name) as image:
        return see(image, look, name=name)


def see(image: Image.Image, look: Look, *, name: str) -> NDArray[uint8]:
    """The same for an image that is open already."""
    import numpy as np

    try:
        array = np.asarray(_seen(image, look))
    except Exception as error:  # Pillow's plugins raise nearly anything on broken files
        raise unreadable(name, error) from error
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _seen(image: Image.Image, look: Look) -> Image.Image:
    from PIL import Image, ImageOps

    mode = "RGB" if look.channels == 3 else "L"
    if min(image.size) >= 4 * look.size:  # a large JPEG is decoded at a fraction of its size
        image.draft(None, (2 * look.size, 2 * look.size))
    if image.mode[0] == "I":
        image = _eight_bits(image)
    if "exif" in image.info:
        image = ImageOps.exif_transpose(image)
    if image.size == (look.size, look.size):
        return image.convert(mode)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.convert(mode).resize((look.size, look.size), Image.Resampling.BILINEAR, box=box)


def _eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit grey image by its high bytes; Pillow would cut values off at 255."""
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype(np.uint8))


@cache
def _without_warnings() -> None:
    """Large pictures are refused here with a message; Pillow's own warning would only come before it."""
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def _opened(data: bytes, *, name: str) -> Image.Image:
    from PIL import Image

    _without_warnings()
    try:
        image = Image.open(io.BytesIO(data))
    except Exception as error:
        raise unreadable(name, error) from error
    if image.width * image.height > MAX_PIXELS:
        raise RequestError(
            f"image {name!r} is {image.width}×{image.height} pixels.",
            expected=f"at most {MAX_PIXELS // 1_000_000} million pixels.",
            hint="scale it down, or take it out of the folder.",
        )
    return image


def unreadable(name: str, error: Exception) -> RequestError:
    """A broken image file, named."""
    from PIL import UnidentifiedImageError

    unknown = isinstance(error, UnidentifiedImageError)  # whose text is the address of a buffer
    reason = "no known image format" if unknown else str(error)[:200] or type(error).__name__
    return RequestError(
        f"image {name!r} cannot be read: {reason}.",
        expected="an image file that is whole.",
        hint="replace it or take it out of the folder; nothing was trained.",
    )


def workers() -> int:
    """Threads that decode: one per core this process may use, at most eight."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, count)


def parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[list[Result]]:
    """`work` on all items, in order, in lists of `CHUNK`; never more than two lists in memory."""
    with ThreadPoolExecutor(workers()) as pool:
        waiting = iter(range(0, len(items), CHUNK))
        ahead = [pool.map(work, items[start : start + CHUNK]) for start in islice(waiting, 2)]
        while ahead:
            done = list(ahead.pop(0))
            ahead += [pool.map(work, items[start : start + CHUNK]) for start in islice(waiting, 1)]
            yield done


def decode_all(
    items: Sequence[Item], read: Callable[[Item], NDArray[uint8]], *, what: str, progress: Progress
) -> Iterator[NDArray[uint8]]:
    """Chunks (NCHW) of the arrays that `read` gives, in the order of the items."""
    import numpy as np

    done = 0
    for arrays in parallel(read, items):
        done += len(arrays)
        progress(what, done / len(items))
        yield np.stack(arrays)
