"""Image files decoded while a network trains: by worker processes, in the order in which they are needed.

An image is decoded anew for each of its views. What it looks like depends on the file and on (stream, epoch,
index) alone, not on the number of processes. Workers give uint8 images; conversion to floats and
normalisation are left to the device.

Of data sets whose views are cut from images of their own size (`DataSet.full_size`), a training image is a
random resized crop and an evaluated one the centre of the image at 256/224 of its size, as torchvision's
`RandomResizedCrop(224)`, and `Resize(256)`, `CenterCrop(224)`. Other images are what `images.Look` says,
pixel by pixel as in the decoded data set.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch  # noqa: TID253  reached through the trainer only, never from the command line
from torch import Tensor  # noqa: TID253
from torch.utils.data import DataLoader, Dataset  # noqa: TID253

from tfkd_cli.data.augment import crop_boxes, flips
from tfkd_cli.data.decoding import Picture, check, evaluated, opened
from tfkd_cli.data.image_files import ImageFiles
from tfkd_cli.data.images import Look, decode, unreadable
from tfkd_cli.errors import RequestError, RunError

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNIT = 32  # images that a worker decodes at once: at 224 pixels they take 4.8 MB
AHEAD = 4  # units that each worker decodes ahead of time
SHARE_OF_SHM = 0.5  # of the free memory below /dev/shm, through which workers hand over images
IN_A_ROW = 100  # corrupt files among the images of a request after which nothing is left to skip


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

    def check(self) -> None:
        """RunError where nothing was decoded."""
        if self.failure:
            what, expected, hint = self.failure
            raise RunError(what, expected=expected, hint=hint)


class Stream:
    """Decodes the files of a part, by `files.reading.workers` processes that live as long as this object."""

    def __init__(self, files: ImageFiles, *, pin_memory: bool) -> None:
        check(files.reading.decoder)
        self._files, self._requests = files, list[Request]()
        self.skipped: set[str] = set()  # what was wrong with corrupt files
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
            each.check()
            self.skipped.update(each.skipped)
            yield each

    def close(self) -> None:
        """End the processes. Left to the garbage collector, torch would wait five seconds for each."""
        del self._loader


def decoded(files: ImageFiles, indices: Sequence[int]) -> NDArray[np.uint8]:
    """These images as they are evaluated, uint8 NCHW, decoded in this process."""
    found = _Decoding(files)[Request(np.asarray(indices, dtype=np.int64), None)]
    found.check()
    return found.images_NCHW.numpy()


def requests(batches: Sequence[Tensor], crops_of: tuple[int, int] | None) -> list[list[Request]]:
    """Each batch of indices in pieces of at most UNIT images, so that all workers are at the same batch."""
    return [[Request(unit.numpy(), crops_of) for unit in torch.split(each, UNIT)] for each in batches]


class _Decoding(Dataset[Decoded]):
    """What a worker does."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files

    def __getitem__(self, request: Request) -> Decoded:
        wanted, skipped = request.indices_N.tolist(), list[str]()
        shape = len(wanted), *self._files.shape[1:]
        images_NCHW = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        try:
            for place, seen in enumerate(self._seen(wanted, request.crops_of)):
                while isinstance(seen, RequestError):
                    self._skip(seen, skipped)
                    wanted[place] = (wanted[place] + 1) % len(self._files)
                    [seen] = self._seen([wanted[place]], request.crops_of)
                images_NCHW[place].copy_(seen)
        except RequestError as error:
            failure = error.what, error.expected, error.hint
            return Decoded(torch.empty(0), torch.empty(0), failure=failure)
        return Decoded(torch.tensor(wanted, dtype=torch.int64), images_NCHW, tuple(skipped))

    def _seen(self, wanted: list[int], crops_of: tuple[int, int] | None) -> Iterator[Tensor | RequestError]:
        """Each of these images as it is seen, or why its file is corrupt."""
        if not self._files.facts.full_size:
            yield from map(self._square, wanted)
            return
        pictures, size = [self._opened(index) for index in wanted], self._files.facts.size
        boxes, flipped = _crops(pictures, wanted, crops_of) if crops_of else ([None] * len(wanted),) * 2
        for index, picture, box, flip in zip(wanted, pictures, boxes, flipped, strict=True):
            if isinstance(picture, RequestError):
                yield picture
                continue
            try:
                seen_CHW = picture.resized(box, (size, size)) if box else evaluated(picture, size)
            except Exception as error:  # Pillow's plugins raise nearly anything on broken files
                yield unreadable(self._files.name(index), error)
            else:
                yield seen_CHW[None].flip(3)[0] if flip else seen_CHW  # torch flips batches of bytes faster

    def _square(self, index: int) -> Tensor | RequestError:
        facts, data, name = self._files.facts, self._files.read(index), self._files.name(index)
        try:
            look = Look(facts.size, facts.channels, facts.levels)
            return torch.from_numpy(decode(data, look, name=name).copy())
        except RequestError as error:
            return error

    def _opened(self, index: int) -> Picture | RequestError:
        data = self._files.read(index)
        try:
            return opened(data, self._files.reading.decoder)
        except Exception as error:
            return unreadable(self._files.name(index), error)

    def _skip(self, corrupt: RequestError, skipped: list[str]) -> None:
        """Note a corrupt file that may be skipped; RequestError where it may not, or nothing else is left."""
        if self._files.reading.corrupt == "fail" or len(skipped) >= IN_A_ROW:
            raise RequestError(
                corrupt.what,
                expected="image files that are whole, in a format that Pillow reads.",
                hint="replace it, or give --set data.corrupt=skip (another run, with another key).",
            )
        skipped.append(corrupt.what)


def _crops(
    pictures: Sequence[Picture | RequestError], indices: list[int], crops_of: tuple[int, int]
) -> tuple[list[Any], list[Any]]:
    """The box of each random resized crop, and whether it is flipped."""
    sizes_N2 = torch.tensor([(1, 1) if isinstance(each, RequestError) else each.size for each in pictures])
    (stream, epoch), indices_N = crops_of, torch.tensor(indices)
    heights_N, widths_N = sizes_N2.view(-1, 2).long().unbind(1)
    boxes_N4 = crop_boxes(heights_N, widths_N, stream=stream, epoch=epoch, indices_N=indices_N)
    return boxes_N4.tolist(), flips(stream, epoch, indices_N).tolist()


def _next(decoded: Iterator[Decoded]) -> Decoded | None:
    """The next images; RunError when a worker was killed."""
    try:
        return next(decoded, None)
    except RuntimeError as error:
        if (died := worker_died(error)) is not None:
            raise died from error
        raise


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

    torch ends a worker whose parent is gone, too, within five seconds. libjpeg's remarks on what it reads go
    nowhere: they name no file.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
