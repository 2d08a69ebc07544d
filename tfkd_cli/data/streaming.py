"""Image files decoded while a network trains: by worker processes, in the order in which they are needed.

An image is decoded anew for each of its views. What it looks like depends on the file and on (stream, epoch,
index) alone, not on the number of processes. Workers give uint8 images; conversion to floats and
normalisation are left to the device.

Of data sets whose views are cut from images of their own size (`DataSet.full_size`), a training image is a
random resized crop and an evaluated one the centre of the image at 256/224 of its size, as torchvision's
`RandomResizedCrop(224)`, and `Resize(256)`, `CenterCrop(224)`. As torchvision's `ImageFolder` does, they are
read without regard to their EXIF orientation. Other images are what `images.Look` says, pixel by pixel as in
the decoded data set.

Decoding on a GPU (torchvision's batched `decode_jpeg` with nvJPEG) would replace `_Picture` and is not built.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch  # noqa: TID253  reached through the trainer only, never from the command line
from torch import Tensor  # noqa: TID253
from torch.utils.data import DataLoader, Dataset  # noqa: TID253

from tfkd_cli.data.augment import crop_boxes, flips
from tfkd_cli.data.image_files import Decoder, ImageFiles
from tfkd_cli.data.images import Look, decode
from tfkd_cli.errors import RequestError, RunError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

UNIT = 32  # images that a worker decodes at once: at 224 pixels they take 4.8 MB
AHEAD = 4  # units that each worker decodes ahead of time
SHARE_OF_SHM = 0.5  # of the free memory below /dev/shm, through which workers hand over images
RESIZED, CENTRE = 256, 224  # the shorter side of an evaluated image, and the centre that is cut out of it
IN_A_ROW = 100  # corrupt files after which nothing is left to skip

log = logging.getLogger("tfkd")


class Request(NamedTuple):
    """Images that a worker is asked for."""

    indices_N: NDArray[np.int64]
    crops_of: (
        tuple[int, int] | None
    )  # stream and epoch of random resized crops, flipped or not; None: as evaluated


class Decoded(NamedTuple):
    """What a worker gives back."""

    indices_N: Tensor  # int64: those that were requested, unless a corrupt file was skipped
    images_NCHW: Tensor  # uint8, channels_last
    skipped: tuple[str, ...] = ()  # what was wrong with corrupt files
    failure: tuple[str, str, str] | None = None  # why nothing was decoded: a RequestError in its three parts


class Stream:
    """Decodes the files of a part, by `files.reading.workers` processes that live as long as this object."""

    def __init__(self, files: ImageFiles, *, pin_memory: bool) -> None:
        _check_decoder(files.reading.decoder)
        self._files, self._requests = files, list[Request]()
        self._skipped: set[str] = set()
        workers = files.reading.workers
        more: dict[str, Any] = {}
        if workers:
            more = {
                "persistent_workers": True,
                "prefetch_factor": _ahead(workers, unit_bytes=UNIT * int(np.prod(files.shape[1:]))),
                "worker_init_fn": _begin_worker,
                "multiprocessing_context": "fork" if sys.platform == "linux" else "spawn",
            }
        with _without_warnings():
            self._loader: DataLoader[Decoded] = DataLoader(
                _Decoding(files), batch_size=None, sampler=self._requests, num_workers=workers,
                collate_fn=_as_it_is, pin_memory=pin_memory, generator=torch.Generator(), **more,
            )  # fmt: skip

    def __call__(self, requests: Sequence[Request]) -> Iterator[Decoded]:
        """The images of each request, in order. RunError for a corrupt file, or a worker that died."""
        self._requests[:] = requests
        with _signals_blocked(), _without_warnings():
            decoded = iter(self._loader)
        while (each := _next(decoded)) is not None:
            if each.failure:
                what, expected, hint = each.failure
                raise RunError(what, expected=expected, hint=hint)
            for what in each.skipped:
                if what not in self._skipped:
                    log.warning("skipped: %s", what)
            self._skipped.update(each.skipped)
            yield each


def decoded(files: ImageFiles, indices: Sequence[int]) -> NDArray[np.uint8]:
    """These images as they are evaluated, uint8 NCHW, decoded in this process."""
    found = _Decoding(files)[Request(np.asarray(indices, dtype=np.int64), None)]
    if found.failure:
        what, expected, hint = found.failure
        raise RunError(what, expected=expected, hint=hint)
    return found.images_NCHW.numpy()


def requests(batches: Sequence[Tensor], crops_of: tuple[int, int] | None) -> list[list[Request]]:
    """Each batch of indices in pieces of at most UNIT images, so that all workers are at the same batch."""
    return [[Request(unit.numpy(), crops_of) for unit in torch.split(each, UNIT)] for each in batches]


class _Decoding(Dataset[Decoded]):
    """What a worker does."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files

    def __getitem__(self, request: Request) -> Decoded:
        size, skipped = self._files.facts.size, list[str]()
        shape = len(request.indices_N), *self._files.shape[1:]
        images_NCHW = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        try:
            found = [self._readable(int(index), skipped) for index in request.indices_N]
        except RequestError as error:
            failure = error.what, error.expected, error.hint
            return Decoded(torch.empty(0), torch.empty(0), failure=failure)
        indices_N = torch.tensor([index for index, _ in found], dtype=torch.int64)
        if request.crops_of is not None:
            stream, epoch = request.crops_of
            sizes_N2 = torch.tensor([picture.size for _, picture in found], dtype=torch.int64).view(-1, 2)
            boxes_N4 = crop_boxes(*sizes_N2.unbind(1), stream=stream, epoch=epoch, indices_N=indices_N)
            views = zip(found, boxes_N4.tolist(), flips(stream, epoch, indices_N).tolist(), strict=True)
            for image_CHW, ((_, picture), box, flip) in zip(images_NCHW, views, strict=True):
                seen_1CHW = picture.resized(tuple(box), (size, size))[None]
                image_CHW.copy_((seen_1CHW.flip(3) if flip else seen_1CHW)[0])
        else:
            for image_CHW, (_, picture) in zip(images_NCHW, found, strict=True):
                image_CHW.copy_(picture.evaluated(size))
        return Decoded(indices_N, images_NCHW, tuple(skipped))

    def _readable(self, index: int, skipped: list[str]) -> tuple[int, _Picture]:
        """The picture of this index; where it is corrupt and may be skipped, that of the next one."""
        files = self._files
        for tried in range(IN_A_ROW):
            at = (index + tried) % len(files)
            data = files.read(at)
            try:
                return at, self._picture(data, name=files.name(at))
            except RequestError as error:
                if files.reading.corrupt == "fail":
                    raise RequestError(
                        error.what,
                        expected="image files that are whole, in a format that Pillow reads.",
                        hint="replace it, or give --set data.corrupt=skip (another run, with another key).",
                    ) from error
                skipped.append(error.what)
        raise RequestError(f"{IN_A_ROW} files in a row are corrupt, the last is {files.name(at)!r}.")

    def _picture(self, data: bytes, *, name: str) -> _Picture:
        facts = self._files.facts
        if not facts.full_size:
            return _Seen(decode(data, Look(facts.size, facts.channels, facts.levels), name=name))
        try:
            return _ByTorch(data) if self._files.reading.decoder == "torchvision" else _ByPillow(data)
        except Exception as error:  # Pillow's plugins raise nearly anything on broken files
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise RequestError(f"image {name!r} cannot be read: {reason}.") from error


class _Picture(Protocol):
    """A decoded image."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    def resized(self, box: tuple[int, ...], to: tuple[int, int]) -> Tensor:
        """The box (top, left, height, width), uint8 (C, H, W) of this size: bilinear, antialiased."""
        ...

    def evaluated(self, size: int) -> Tensor:
        """The image as it is evaluated, uint8 (C, size, size)."""
        ...


class _Seen:
    """An image that is as it is evaluated already."""

    def __init__(self, image_CHW: NDArray[np.uint8]) -> None:
        self._image_CHW = torch.from_numpy(image_CHW.copy())
        self.size = image_CHW.shape[1], image_CHW.shape[2]

    def resized(self, box: tuple[int, ...], to: tuple[int, int]) -> Tensor:
        raise NotImplementedError("random resized crops are cut from images of their own size only")

    def evaluated(self, size: int) -> Tensor:
        return self._image_CHW


class _OwnSize:
    """An image of its own size, of which views are cut."""

    size: tuple[int, int]

    def resized(self, box: tuple[int, ...], to: tuple[int, int]) -> Tensor:
        raise NotImplementedError

    def evaluated(self, size: int) -> Tensor:
        """As torchvision's Resize(size · 256/224) and CenterCrop(size)."""
        (height, width), shorter = self.size, size * RESIZED // CENTRE
        longer = int(shorter * max(height, width) / min(height, width))
        to = (longer, shorter) if height > width else (shorter, longer)
        top, left = (round((length - size) / 2) for length in to)
        return self.resized((0, 0, height, width), to)[:, top : top + size, left : left + size]


class _ByPillow(_OwnSize):
    """Decoded and resized by Pillow: the pixels of torchvision's transforms of PIL images."""

    def __init__(self, data: bytes) -> None:
        self._image = _opened(data)
        self.size = self._image.height, self._image.width

    def resized(self, box: tuple[int, ...], to: tuple[int, int]) -> Tensor:
        from PIL import Image

        top, left, height, width = box
        cut = self._image.crop((left, top, left + width, top + height))
        seen = cut.resize((to[1], to[0]), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(seen)).permute(2, 0, 1)


class _ByTorch(_OwnSize):
    """Decoded by torchvision and resized by torch, both on bytes; what is no plain JPEG, by Pillow."""

    def __init__(self, data: bytes) -> None:
        image_CHW = _decoded_jpeg(data)
        if image_CHW is None:
            image_CHW = torch.from_numpy(np.array(_opened(data))).permute(2, 0, 1)
        self._image_CHW = image_CHW
        self.size = self._image_CHW.shape[1], self._image_CHW.shape[2]

    def resized(self, box: tuple[int, ...], to: tuple[int, int]) -> Tensor:
        top, left, height, width = box
        cut_1CHW = self._image_CHW[None, :, top : top + height, left : left + width]
        return torch.nn.functional.interpolate(
            cut_1CHW.contiguous(memory_format=torch.channels_last), to, mode="bilinear", antialias=True
        )[0]


def _opened(data: bytes) -> Image.Image:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of broken EXIF data, and of large pictures; they name no file
        return Image.open(io.BytesIO(data)).convert("RGB")


def _decoded_jpeg(data: bytes) -> Tensor | None:
    """A JPEG in colours or in grey as RGB (3, H, W); None for anything else, such as CMYK or a PNG."""
    from torchvision.io import decode_jpeg

    if not data.startswith(b"\xff\xd8"):
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # from torchvision 0.29 on
        image_CHW: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return image_CHW.expand(3, -1, -1) if len(image_CHW) in (1, 3) else None


def _check_decoder(decoder: Decoder) -> None:
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


def _next(decoded: Iterator[Decoded]) -> Decoded | None:
    """The next images; RunError when a worker was killed."""
    try:
        return next(decoded, None)
    except RuntimeError as error:
        raise (worker_died(error) or error) from error


def worker_died(error: BaseException) -> RunError | None:
    """The error that torch raises when a worker process was killed, explained; None for any other."""
    if "DataLoader worker (pid" not in str(error):
        return None
    return RunError(
        f"a process that decodes images ended: {' '.join(str(error).split())[:300]}",
        expected="memory for the processes that decode, and room in /dev/shm for what they hand over.",
        hint="give the command again: it continues from the last saved state. In a container, raise the size "
        "of /dev/shm (--shm-size=8g).",
    )


def _ahead(workers: int, *, unit_bytes: int) -> int:
    """Units that each worker decodes ahead of time, as far as /dev/shm has room for them."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return AHEAD
    room = SHARE_OF_SHM * found.f_bavail * found.f_frsize
    return max(1, min(AHEAD, int(room / (workers * unit_bytes))))


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "This DataLoader will create"
        )  # more processes than cores: as asked
        # From Python 3.12 on, of a fork; the threads of torch hold no lock that a worker needs.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        yield


def _as_it_is(decoded: Any) -> Any:
    return decoded


FOR_THE_TRAINER = frozenset({signal.SIGTERM, signal.SIGUSR2, signal.SIGINT})
"""Signals that ask a run to save and stop; schedulers and terminals send them to its workers, too."""


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Worker processes that are started here have these signals blocked, from their first instruction on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_TRAINER)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker(worker: int) -> None:
    """Let the process that started this one end it by SIGTERM, and nobody else.

    torch ends a worker whose parent is gone, too, within five seconds.
    """
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
