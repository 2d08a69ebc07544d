"""Image files as uint8 arrays: one declared way to look at them, many at once, nothing read twice.

Threads decode: Pillow releases the interpreter's lock while it does, and no process has to be started.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from tfkd_cli.data.facts import Levels
from tfkd_cli.data.reader import Progress
from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from numpy import uint8, uint16
    from numpy.typing import NDArray
    from PIL import Image

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".avif"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
# What a file may really hold, whatever its ending. Of other formats Pillow hands some to other programs, as
# PostScript to Ghostscript, which runs what the file says.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
MAX_PIXELS = 80_000_000  # below Pillow's own warning; a larger picture is a mistake or an attack
MAX_BYTES = 300_000_000
CHUNK = 1024  # images decoded between two writes
NAMED = 20  # unreadable images whose names are printed
# Pillow's modes with more than eight bits a value begin with I (integers) or F (floats). Of colours with 16
# bits (D here) it loads the upper bytes. What is white, no file says: the first of these levels that no value
# of the set exceeds, 1, 8, 10, 12, 14, 15 (signed) or 16 bits.
DEEP, WHITES = ("I", "F"), (1, 255, 1023, 4095, 16383, 32767, 65535)
COLOURS = "D"  # begins no mode of Pillow's
KINDS = {"I": "integers of more than 8 bits", "F": "floats", COLOURS: "colours of more than 8 bits"}
# Tags of TIFF files, and values of theirs.
BITS_PER_SAMPLE, PHOTOMETRIC, PLANAR_CONFIGURATION, SAMPLE_FORMAT = 258, 262, 284, 339
WHITE_IS_ZERO, PLANES, UNSIGNED, SIGNED = 0, 2, (1,), (2,)
# Raw modes of big-endian TIFF files whose values libtiff has put into this machine's order already.
NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
# Pillow's raw modes of 16-bit colours → the raw mode that loads their lower bytes instead of the upper ones.
LOWER = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
GREY_ALPHA = "LA;16B"  # of PNG files; read as RGBA, its four bytes are grey (upper, lower) and alpha

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Look:
    """How image files become arrays; part of the identity of own data.

    Turned upright (EXIF, XMP), laid on white where transparent, the centre square taken, resized (bilinear,
    antialiased; an image of the right size keeps its pixels). Colours as RGB, or grey with one channel.
    """

    size: int
    channels: int
    levels: Levels = ()

    @property
    def text(self) -> str:
        """The recipe in words, for the fingerprint and for the reader."""
        colours = "RGB" if self.channels == 3 else "grey"
        words = (
            f"{colours}, upright, transparent parts white, centre square, "
            f"resized to {self.size}×{self.size} (bilinear, antialiased)"
        )
        for mode, black, white in self.levels:
            words += f"; {KINDS[mode]} from {black:g} (black) to {white:g} (white)"
        return words


@dataclass(frozen=True)
class Header:
    """What an image file says of itself; of one with more than eight bits a value, also their range."""

    width: int
    height: int
    mode: str  # Pillow's, or COLOURS
    lowest: float = 0.0
    highest: float = 0.0

    @property
    def grey(self) -> bool:
        """Whether it has no colours, whatever its values."""
        return self.mode in ("1", "L", "LA") or self.mode[0] in DEEP


def read_header(data: bytes, *, name: str) -> Header:
    """Width, height and kind; RequestError when it is no image or an absurdly large one."""
    with _opened(data, name=name) as image:
        if (colours_HWC := _decoded(image, _deep_colours, name=name)) is not None:
            return Header(*image.size, COLOURS, 0.0, float(colours_HWC[..., :3].max()))
        if image.mode[0] not in DEEP:
            if _tag(image, SAMPLE_FORMAT, UNSIGNED) == SIGNED:
                raise unreadable(name, ValueError("Pillow reads no signed values of 8 bits"))
            return Header(image.width, image.height, image.mode)
        values_HW = _decoded(image, _values, name=name)
        if values_HW.min() < 0 and _tag(image, SAMPLE_FORMAT, UNSIGNED) == UNSIGNED:
            raise unreadable(name, ValueError("Pillow reads no unsigned values of 32 bits above 2^31"))
        return Header(*image.size, image.mode, float(values_HW.min()), float(values_HW.max()))


def levels_of(headers: Sequence[Header]) -> Levels:
    """The black and the white of a set's deep images, per kind of value.

    Black is 0 and white one of `WHITES`; where values are negative or larger, their own minimum and maximum.
    """
    levels = []
    for mode in KINDS:
        deep = [header for header in headers if header.mode[0] == mode]
        if deep:
            lowest, highest = min(each.lowest for each in deep), max(each.highest for each in deep)
            white = next((level for level in WHITES if highest <= level), None)
            stretched = lowest < 0 or white is None
            levels.append((mode, lowest, highest) if stretched else (mode, 0.0, float(white or 1)))
    return tuple(levels)


def decode(data: bytes, look: Look, *, name: str) -> NDArray[uint8]:
    """One image file as a uint8 array (C, size, size); RequestError naming the file when it is broken."""
    with _opened(data, name=name) as image:
        return see(image, look, name=name)


def see(image: Image.Image, look: Look, *, name: str) -> NDArray[uint8]:
    """The same for an image that is open already."""
    import numpy as np

    array = _decoded(image, lambda opened: np.asarray(_seen(opened, look)), name=name)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _decoded(image: Image.Image, work: Callable[[Image.Image], Result], *, name: str) -> Result:
    try:
        return work(image)
    except Exception as error:  # Pillow's plugins raise nearly anything on broken files
        raise unreadable(name, error) from error


def _seen(image: Image.Image, look: Look) -> Image.Image:
    from PIL import Image

    if min(image.size) >= 4 * look.size:  # a large JPEG is decoded at a fraction of its size
        image.draft(None, (2 * look.size, 2 * look.size))
    if (colours_HWC := _deep_colours(image)) is not None:
        _scale_colours(image, colours_HWC, look.levels)
    # Pillow heeds it in images of 8 bits only, and forgets it when it turns an image.
    negative = _tag(image, PHOTOMETRIC, None) == WHITE_IS_ZERO
    image = _upright(image)
    if image.mode[0] in DEEP:
        image = _eight_bits(image, look.levels, negative=negative)
    if image.has_transparency_data:
        image = _on_white(image)
    image = image.convert("RGB" if look.channels == 3 else "L")
    if image.size == (look.size, look.size):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((look.size, look.size), Image.Resampling.BILINEAR, box=box)


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its orientation says, be it in EXIF, a raw profile or XMP; a broken one is left aside."""
    from PIL import ImageOps

    image.load()
    if (profile := image.info.get("Raw profile type APP1")) is not None:  # as ImageMagick once called it
        image.info.setdefault("Raw profile type exif", profile)
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are whole: `load` has read them
        return image


def _tag(image: Image.Image, tag: int, default: Any) -> Any:
    """A tag of a TIFF file; `default` where it has none, and of other files."""
    return getattr(image, "tag_v2", {}).get(tag, default)


def _values(image: Image.Image) -> NDArray[Any]:
    """The values of a deep image (H, W) as float64; what is no number is 0."""
    import numpy as np

    return np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0.0, neginf=0.0)


def _eight_bits(image: Image.Image, levels: Levels, *, negative: bool) -> Image.Image:
    """A deep image in grey levels 0 to 255; Pillow would cut values off at 255."""
    import numpy as np
    from PIL import Image

    values_HW = _values(image)
    known = {mode: (black, white) for mode, black, white in levels}
    black, white = known.get(image.mode[0], (0.0, 65535.0))
    grey_HW = ((values_HW - black) * (255 / max(white - black, 1e-300))).round().clip(0, 255)
    if negative:
        grey_HW = 255 - grey_HW
    grey_HW[values_HW == image.info.get("transparency")] = 255
    return Image.fromarray(grey_HW.astype(np.uint8))


def _deep_colours(image: Image.Image) -> NDArray[uint16] | None:
    """The values (H, W, C) of an image whose colours have 16 bits, C = 3 or 4 (alpha); None for any other.

    Pillow loads the upper bytes; the lower ones it loads when told that the bytes lie the other way round.
    Those of a PPM file it loads in full when told that they are grey.
    """
    import numpy as np

    if image.mode not in ("RGB", "RGBA"):
        return None
    tiles = getattr(image, "tile", ())
    modes = {each.args if isinstance(each.args, str) else each.args[0] for each in tiles if each.args}
    if tiles and tiles[0].codec_name.startswith("ppm") and tiles[0].args[-1] > 255:  # becomes 65535
        grey_HW = np.asarray(_twin(image, "RGB", as_grey=True))
        return grey_HW.astype(np.uint16).reshape(image.height, image.width, 3)
    readable = modes & {*LOWER, GREY_ALPHA} and _tag(image, PLANAR_CONFIGURATION, 1) != PLANES
    if not readable:
        if max(_tag(image, BITS_PER_SAMPLE, (8,))) > 8:
            raise ValueError(
                "Pillow does not read colours of 16 bits that lie in planes or are multiplied by their alpha"
            )
        return None
    (mode,) = modes
    grey = mode == GREY_ALPHA
    twin = _twin(image, "RGBA" if grey else LOWER[mode])
    upper_HWC, lower_HWC = (np.asarray(each, dtype=np.uint16) for each in (image, twin))
    if grey:
        lower_HWC = lower_HWC[..., [1, 1, 1, 3]]
    values_HWC: NDArray[uint16] = upper_HWC << np.uint16(8) | lower_HWC
    return values_HWC


def _twin(image: Image.Image, raw_mode: str, *, as_grey: bool = False) -> Any:
    """The same image opened once more, its bytes to be taken for another of Pillow's raw modes.

    `as_grey`: for three times as many grey pixels of more than eight bits.
    """
    from PIL import Image

    file: Any = image.fp  # type: ignore[attr-defined]  # of an image that is open and not loaded yet
    position = file.tell()
    file.seek(0)
    twin: Any = Image.open(io.BytesIO(file.read()), formats=readable_formats())
    file.seek(position)
    if as_grey:
        twin._mode, twin._size = "I", (3 * twin.width, twin.height)
        twin.tile = [each._replace(extents=(0, 0, *twin.size)) for each in twin.tile]
    twin.tile = [_as(raw_mode, each) for each in twin.tile]
    return twin


def _as(raw_mode: str, tile: Any) -> Any:
    """One of Pillow's tiles, to be read in another raw mode."""
    return tile._replace(args=raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:]))


def _scale_colours(image: Image.Image, values_HWC: NDArray[uint16], levels: Levels) -> None:
    """Replace the upper bytes in `image` by its values scaled to the range of the set; alpha stays."""
    import numpy as np
    from PIL import Image

    white = {mode: white for mode, _, white in levels}.get(COLOURS)
    values_HW3, alpha_HW1 = values_HWC[..., :3], values_HWC[..., 3:] >> 8
    # Without a white the identity of the set is older than its levels, and its pixels stay as they were.
    eight_HW3 = (values_HW3 * (255 / white)).round().clip(0, 255) if white else values_HW3 >> 8
    key = image.info.pop("transparency", None)
    if isinstance(key, tuple):
        eight_HW3[(values_HW3 == key).all(axis=2)] = 255
    image.paste(Image.fromarray(np.concatenate([eight_HW3, alpha_HW1], axis=2).astype(np.uint8)))


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA"))


@cache
def readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow reads; its warnings, which name no file, are turned off."""
    from PIL import Image

    Image.init()
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    return tuple(each for each in FORMATS if each in Image.OPEN)


def _opened(data: bytes, *, name: str) -> Image.Image:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=readable_formats())
    except Exception as error:
        raise unreadable(name, error) from error
    for each in (tiles := getattr(image, "tile", [])):
        if each.codec_name == "libtiff" and each.args[0] in NATIVE:
            tiles[tiles.index(each)] = _as(NATIVE[each.args[0]], each)
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
    reason = str(error)[:200] or type(error).__name__
    if unknown:
        reason = "no known image format, or a variant that Pillow does not read"
    return RequestError(
        f"image {name!r} cannot be read: {reason}.",
        expected="an image file that is whole, in a format that Pillow reads.",
        hint="convert or replace it, or take it out of the folder; nothing was trained.",
    )


@contextlib.contextmanager
def naming_all(items: Sequence[Item], read: Callable[[Item], object]) -> Iterator[None]:
    """When something in the block cannot be read: `read` all items, and one RequestError that names each."""
    try:
        yield
    except RequestError as error:

        def failure(item: Item) -> RequestError | None:
            try:
                read(item)
            except RequestError as broken:
                return broken
            return None

        broken = [each for block in parallel(failure, items) for each in block if each is not None]
        if len(broken) < 2:
            raise
        lines = [f"  {each.what}" for each in broken[:NAMED]]
        lines += [f"  … and {len(broken) - NAMED:,} more"] * (len(broken) > NAMED)
        raise RequestError(
            "\n".join([f"{len(broken):,} images cannot be used:", *lines]),
            expected="image files that are whole, in a format that Pillow reads.",
            hint="convert or replace them, or take them out of the folder; nothing was trained.",
        ) from error


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
    items: Sequence[Item], read: Callable[[Item], NDArray[uint8]], what: str, progress: Progress
) -> Iterator[NDArray[uint8]]:
    """Chunks (NCHW) of the arrays that `read` gives, in the order of the items."""
    import numpy as np

    done = 0
    for arrays in parallel(read, items):
        done += len(arrays)
        progress(what, done / len(items))
        yield np.stack(arrays)
