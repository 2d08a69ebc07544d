"""A teacher that is asked, and its answers where they are kept.

With one augmentation stream for all seeds (`recipe.augment_stream == "shared"`) the views of an epoch are
the same for every student. The teacher is then asked for a whole epoch *in image order, in fixed batches*,
and its answers are rounded to fp16 relative to the row's maximum. So each student gets the same numbers (on
a CPU bit for bit), whether it asked itself or found the answers of another; keeping them changes no result.

Kept answers: `<results>/answers/<teacher>-<weights>-<context>/epoch-NNN.npy`, an fp16 array (N images,
K classes) followed by its sha256 (32 bytes, which numpy ignores). While an epoch is being asked, finished
blocks of images lie in `epoch-NNN.blocks/`; students that run at once divide the blocks among them, a lock
sees to it that each is asked by one, and they take each other's. A student that shares with nobody keeps the
blocks of its epoch in progress only, so that a stop costs no more than a block. Everything there may be
deleted at any time; what is missing or damaged is asked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch  # noqa: TID253 - reached only from the trainer and the worker
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli import locks
from tfkd_cli.errors import RunError
from tfkd_cli.spec import RunSpec, canonical_json
from tfkd_cli.store import files
from tfkd_cli.store.teacher_logits import BLOCKS, bytes_below, name_of
from tfkd_cli.training import precision

BATCH = 128
"""Images per question in image order; part of the context, since rounding may depend on it."""

BLOCK = 16 * BATCH
"""Images per block: some seconds of work, so that little is lost and two students can share an epoch."""

WAIT_SECONDS = 0.05  # between two looks at the blocks that others ask
PATIENCE_SECONDS = 120.0  # without a sign of life of who holds a block: it hangs, and others ask too

FORMAT = 2  # of the files, and of how a teacher is calculated
SHA256_BYTES = 32
LOWEST_FP16 = -65504.0

Rows = npt.NDArray[np.float16]
Ask = Callable[[int, Callable[[], None]], None]
"""Asks the block that begins at an image; calls the second after every batch."""

log = logging.getLogger("tfkd")


class FrozenTeacher:
    """A trained network in eval mode that gives logits, shape (N, K), as fp32 and without gradients.

    `precision.prepare_teacher` says how it is computed.
    """

    def __init__(
        self, network: nn.Module, *, device: torch.device, precision_name: str, example: Tensor
    ) -> None:
        self._network = precision.prepare_teacher(
            network, precision=precision_name, device=device, example_NCHW=example
        )
        self._device = device
        self._precision = precision_name

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """The logits of normalised images."""
        with torch.inference_mode(), precision.autocast(self._precision, self._device):
            logits_NK: Tensor = self._network(images_NCHW)
        return logits_NK.float().clone()  # an inference tensor cannot be saved for a backward pass


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where answers are kept: the folder of one teacher in one context, and what all folders may take."""

    folder: Path
    limit_bytes: float

    def path(self, epoch: int) -> Path:
        """The file of an epoch's answers."""
        return self.folder / f"epoch-{epoch:03d}.npy"

    def blocks(self, epoch: int) -> Path:
        """The folder of an epoch that is being asked."""
        return self.folder / f"epoch-{epoch:03d}{BLOCKS}"

    def has_room(self, extra_bytes: int) -> bool:
        """Whether `extra_bytes` more stay below the limit."""
        return bytes_below(self.folder.parent) + extra_bytes <= self.limit_bytes


def kept_in(
    teacher_logits: Path, *, spec: RunSpec, weights_digest: str, numerics: Mapping[str, Any], limit_gb: float
) -> Kept:
    """Where the answers of `spec`'s teacher belong: they hold for equal weights, views and numerics only."""
    assert spec.teacher is not None
    context = {
        "format": FORMAT,
        "batch": BATCH,
        "dataset": spec.dataset,
        "holdout": spec.recipe.holdout,  # other images have other numbers
        "augment": spec.recipe.augment,
        "stream": spec.recipe.augment_stream,
        "precision": spec.recipe.precision,
        "weights": weights_digest,
        "numerics": dict(numerics),
    }
    digits = hashlib.sha256(canonical_json(context)).hexdigest()[:8]
    name = name_of(spec.teacher.mark, weights_digest=weights_digest, context=digits)
    return Kept(folder=teacher_logits / name, limit_bytes=limit_gb * 1e9)


@dataclass(kw_only=True)
class TeacherLogits:
    """A teacher's answers by epoch, found where they are kept, or asked; `kept` None: in memory only."""

    teacher: FrozenTeacher
    images: int
    classes: int
    device: torch.device
    kept: Kept | None = None
    shared: bool = True  # others will ask the same: whole epochs are kept, else the one in progress
    order: random.Random = field(default_factory=random.Random)  # of asking: changes no answer

    def epoch(self, epoch: int, *, view: Callable[[Tensor], Tensor], at_step: Callable[[], None]) -> Tensor:
        """The answers to every view of this epoch, fp16 relative to the row's maximum, shape (images, K).

        `view` gives the normalised images of some indices; `at_step` is called between questions.
        """
        rows = None
        if self.kept is not None:
            self._forget_blocks(self.kept, before=epoch)
            rows = _read(self.kept.path(epoch), shape=self._shape)
        if rows is None:
            rows = self._asked(epoch, view=view, at_step=at_step)
        return torch.from_numpy(rows).to(self.device)

    def end(self, epochs: int) -> None:
        """The run is over: leave nothing that only it needed."""
        if self.kept is not None:
            self._forget_blocks(self.kept, before=epochs + 1)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.images, self.classes

    def _forget_blocks(self, kept: Kept, *, before: int) -> None:
        """Remove the blocks of the epoch before, which nobody needs any more, if they are there."""
        blocks = kept.blocks(before - 1)
        if blocks.is_dir() and (not self.shared or kept.path(before - 1).exists()):
            with contextlib.suppress(RunError):  # another student may be removing them too
                files.remove(blocks)
            with contextlib.suppress(OSError):  # unless answers are kept there
                kept.folder.rmdir()
                kept.folder.parent.rmdir()

    def _asked(self, epoch: int, *, view: Callable[[Tensor], Tensor], at_step: Callable[[], None]) -> Rows:
        rows = np.empty(self._shape, np.float16)

        def ask(start: int, alive: Callable[[], None]) -> None:
            block = rows[start : start + BLOCK]
            for first in range(0, len(block), BATCH):
                part = block[first : first + BATCH]
                indices_N = torch.arange(start + first, start + first + len(part))
                part[:] = rounded(self.teacher(view(indices_N))).cpu().numpy()
                alive()
                at_step()

        left = list(range(0, self.images, BLOCK))
        self.order.shuffle(left)  # where there are no locks, students that ask at once seldom ask the same
        if self.kept is not None and self._has_room(self.kept, rows.nbytes):
            together = _Together(rows, kept=self.kept, epoch=epoch, shared=self.shared)
            try:
                together.fill(left, ask=ask, at_wait=at_step)
            except _NotKeptError as error:
                self._warn_once(f"the teacher's answers are asked and not kept: {error}")
        for start in left:
            ask(start, lambda: None)
        return rows

    def _has_room(self, kept: Kept, size: int) -> bool:
        if kept.has_room(size):
            return True
        if self.shared:
            self._warn_once(
                f"the teacher's answers are asked and not kept: {size / 1e6:,.0f} MB more would exceed "
                "--teacher-cache-gb. `tfkd clean` frees those that no run asks for."
            )
        return False

    def _warn_once(self, text: str) -> None:
        if not self._warned:
            log.warning("%s", text)
        self._warned = True

    _warned: bool = field(default=False, init=False)


class _NotKeptError(Exception):
    """Answers cannot be written, which costs time and not the run."""


class _Together:
    """An epoch's rows, while students that run at once ask for them: each block is asked by one of them."""

    def __init__(self, rows: Rows, *, kept: Kept, epoch: int, shared: bool) -> None:
        self._rows, self._shared = rows, shared
        self._whole, self._folder = kept.path(epoch), kept.blocks(epoch)

    def fill(self, left: list[int], *, ask: Ask, at_wait: Callable[[], None]) -> None:
        """Fill the rows and keep them; `left`: where blocks begin that have no rows yet.

        _NotKeptError when they cannot be kept; `left` then says what is still to be asked.
        """
        moved_at, signs = time.monotonic(), self._signs(left)
        while left:
            patient = time.monotonic() - moved_at < PATIENCE_SECONDS
            for start in tuple(left):
                if start in left and self._settle(start, left, ask=ask, patient=patient):
                    moved_at, patient = time.monotonic(), True
            if left:  # others are at these
                at_wait()
                time.sleep(WAIT_SECONDS)
                if signs != (signs := self._signs(left)):
                    moved_at = time.monotonic()
        if self._shared:
            if not self._whole.exists():
                _write(self._whole, self._rows)
            with contextlib.suppress(RunError):  # another student may be removing them too
                files.remove(self._folder)

    def _settle(self, start: int, left: list[int], *, ask: Ask, patient: bool) -> bool:
        """Take this block from another student, or ask; False while another one asks."""
        path, lock = self._block(start), self._lock(start)
        if self._take(path, start, left):
            return True
        with contextlib.suppress(RunError, OSError):  # then there is no lock, and writing will say why
            files.make_folder(self._folder)
        with locks.held(lock) as mine:
            if mine is False and patient:
                return False
            if not self._take(path, start, left):
                ask(start, lambda: _touch(lock))
                left.remove(start)
                _write(path, self._rows[start : start + BLOCK])
        return True

    def _take(self, path: Path, start: int, left: list[int]) -> bool:
        """Take this block where another student has asked it, or all that are left from the whole epoch."""
        block = self._rows[start : start + BLOCK]
        found = _read(path, shape=block.shape)
        if found is not None:
            block[:] = found
            left.remove(start)
            return True
        whole = _read(self._whole, shape=self._rows.shape)
        if whole is not None:
            for each in left:
                self._rows[each : each + BLOCK] = whole[each : each + BLOCK]
            left.clear()
        return whole is not None

    def _block(self, start: int) -> Path:
        return self._folder / f"{start // BLOCK:04d}.npy"

    def _lock(self, start: int) -> Path:
        return self._block(start).with_suffix(".lock")

    def _signs(self, left: Sequence[int]) -> list[int]:
        """What changes while those who hold these blocks live."""
        return [_changed(self._lock(start)) for start in left]


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def rounded(logits_NK: Tensor) -> Tensor:
    """Logits minus their row's maximum, as fp16: softmax is the same but for rounding, shape (N, K)."""
    relative_NK = logits_NK - logits_NK.amax(1, keepdim=True)
    return relative_NK.clamp_min(LOWEST_FP16).half()


def _read(path: Path, *, shape: tuple[int, ...]) -> Rows | None:
    """The kept rows, memory-mapped; None when missing, damaged or of another shape."""
    header = _header(shape)
    expected = len(header) + 2 * math.prod(shape) + SHA256_BYTES
    try:
        with path.open("rb") as stream:
            good = stream.seek(0, io.SEEK_END) == expected
            stream.seek(0)
            good = good and stream.read(len(header)) == header
            if good:
                rows = np.memmap(stream, np.float16, mode="c", offset=len(header), shape=shape)
                stream.seek(-SHA256_BYTES, io.SEEK_END)
                good = hashlib.sha256(rows.tobytes()).digest() == stream.read()
    except OSError:  # writing will say what is wrong with the folder
        return None
    if not good:
        log.warning("%s is damaged, its answers are asked again", path)
        with contextlib.suppress(OSError):
            path.unlink()
    return rows if good else None


def _header(shape: tuple[int, ...]) -> bytes:
    """What `np.save` puts before fp16 rows of this shape. It is compared, not parsed: it may be damaged."""
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False}
    np.lib.format.write_array_header_1_0(buffer, {**fields, "shape": shape})
    return buffer.getvalue()


def _write(path: Path, rows: Rows) -> None:
    """Keep rows for others; not forced to the disk, for their sum is looked at. _NotKeptError if it fails."""
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    try:
        files.make_folder(path.parent)
        files.write_hint(path, buffer.getvalue() + hashlib.sha256(rows.tobytes()).digest())
    except OSError as error:
        raise _NotKeptError(str(error)) from error
    except RunError as error:
        raise _NotKeptError(error.what) from error
