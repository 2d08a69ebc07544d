"""A teacher that is asked, and its answers where they are kept.

With one augmentation stream for all seeds (`recipe.augment_stream == "shared"`) the views of an epoch are
the same for every student. The teacher is then asked for a whole epoch *in image order, in fixed batches*,
and its answers are rounded to fp16 relative to the row's maximum. So each student gets the same numbers,
bit for bit, whether it asked itself or found the answers of another; keeping them changes no result.

Kept answers: `<results>/answers/<teacher>-<weights>-<context>/epoch-NNN.npy`, an fp16 array (N images,
K classes) followed by its sha256 (32 bytes, which numpy ignores). While an epoch is being asked, finished
blocks of images lie in `epoch-NNN.blocks/`; students that run at once divide the blocks among them, a lock
sees to it that each is asked by one, and they take each other's. Everything there may be deleted at any
time; what is missing or damaged is asked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch  # noqa: TID253 - reached only from the trainer and the worker
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli import locks, precision
from tfkd_cli.errors import RunError
from tfkd_cli.spec import RunSpec, canonical_json
from tfkd_cli.store import files

BATCH = 128
"""Images per question in image order; part of the context, since rounding may depend on it."""

BLOCK = 16 * BATCH
"""Images per block: some seconds of work, so that little is lost and two students can share an epoch."""

WAIT_SECONDS = 0.05  # between two looks at the blocks that others ask
PATIENCE_SECONDS = 120.0  # without a new block: whoever holds it hangs, and it is asked here too

FORMAT = 1
SHA256_BYTES = 32
LOWEST_FP16 = -65504.0

Rows = npt.NDArray[np.float16]
log = logging.getLogger("tfkd")


class AskedTeacher:
    """A trained network in eval mode that gives logits, shape (N, K), as fp32 and without gradients.

    With fp32 (paper scale) it calculates exactly as it is written. With bf16 (fast), BatchNorm is folded
    into the convolutions, and where there are units for it the weights are bf16.
    """

    def __init__(
        self, network: nn.Module, *, device: torch.device, precision_name: str, example: Tensor
    ) -> None:
        network.eval().requires_grad_(requires_grad=False)
        network = precision.place(network, device=device)
        if precision_name == "bf16":
            network = precision.folded(network, images_NCHW=example)
            if precision.arithmetic(precision_name, device) == "bf16":
                precision.store_as_bf16(network)
            else:
                precision.save_products(network, device=device)
        self._network = network
        self._device = device
        self._precision = precision_name

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """The logits of normalised images."""
        with torch.inference_mode(), precision.calculating(self._precision, self._device):
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
        return self.folder / f"epoch-{epoch:03d}.blocks"

    def has_room(self, extra_bytes: int) -> bool:
        """Whether `extra_bytes` more stay below the limit."""
        used = sum(each.stat().st_size for each in self.folder.parent.glob("*/*.npy"))
        return used + extra_bytes <= self.limit_bytes


def kept_in(
    answers: Path, *, spec: RunSpec, weights_digest: str, numerics: Mapping[str, Any], limit_gb: float
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
    name = hashlib.sha256(canonical_json(context)).hexdigest()[:8]
    folder = answers / f"{spec.teacher.mark}-{weights_digest[:8]}-{name}"
    return Kept(folder=folder, limit_bytes=limit_gb * 1e9)


@dataclass(kw_only=True)
class Answers:
    """A teacher's answers by epoch, asked or found; `kept` None: nobody shares them, they stay in memory."""

    teacher: AskedTeacher
    images: int
    classes: int
    device: torch.device
    kept: Kept | None = None
    order: random.Random = field(default_factory=random.Random)  # of asking: changes no answer

    def epoch(self, epoch: int, *, view: Callable[[Tensor], Tensor], at_step: Callable[[], None]) -> Tensor:
        """The answers to every view of this epoch, fp16 relative to the row's maximum, shape (images, K).

        `view` gives the normalised images of some indices; `at_step` is called between questions.
        """
        rows = None if self.kept is None else _read(self.kept.path(epoch), shape=self._shape)
        if rows is None:
            rows = self._asked(epoch, view=view, at_step=at_step)
        return torch.from_numpy(rows).to(self.device)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.images, self.classes

    def _asked(self, epoch: int, *, view: Callable[[Tensor], Tensor], at_step: Callable[[], None]) -> Rows:
        rows = np.empty(self._shape, np.float16)

        def ask(start: int) -> None:
            block = rows[start : start + BLOCK]
            for first in range(0, len(block), BATCH):
                part = block[first : first + BATCH]
                indices_N = torch.arange(start + first, start + first + len(part))
                part[:] = rounded(self.teacher(view(indices_N))).cpu().numpy()
                at_step()

        blocks = list(range(0, self.images, BLOCK))
        self.order.shuffle(blocks)  # where there are no locks, students that ask at once seldom ask the same
        kept = self.kept
        if kept is not None and not kept.has_room(rows.nbytes):
            log.info("epoch %d: the answers do not fit under --teacher-cache-gb, they are not kept", epoch)
            kept = None
        if kept is not None:
            try:
                _Shared(rows, kept=kept, epoch=epoch).fill(blocks, ask=ask, at_wait=at_step)
            except _NotKeptError as error:
                log.warning("the teacher's answers are not kept: %s", error)
        for start in blocks:  # what is left
            ask(start)
        return rows


class _NotKeptError(Exception):
    """Answers cannot be written, which costs time and not the run."""


class _Shared:
    """An epoch's rows, while students that run at once ask for them: each block is asked by one of them."""

    def __init__(self, rows: Rows, *, kept: Kept, epoch: int) -> None:
        self._rows = rows
        self._whole, self._folder = kept.path(epoch), kept.blocks(epoch)

    def fill(self, left: list[int], *, ask: Callable[[int], None], at_wait: Callable[[], None]) -> None:
        """Fill the rows and keep them; `left`: where blocks begin that have no rows yet.

        _NotKeptError when they cannot be kept; `left` then says what is still to be asked.
        """
        settled_at = time.monotonic()
        while left:
            patient = time.monotonic() - settled_at < PATIENCE_SECONDS
            for start in tuple(left):
                if self._settle(start, left, ask=ask, patient=patient):
                    settled_at, patient = time.monotonic(), True
            if left:  # others are at these
                at_wait()
                time.sleep(WAIT_SECONDS)
        if not self._whole.exists():
            _write(self._whole, self._rows)
        with contextlib.suppress(RunError):  # another student may be removing them too
            files.remove(self._folder)

    def _settle(self, start: int, left: list[int], *, ask: Callable[[int], None], patient: bool) -> bool:
        """Take this block from another student, or ask; False while another one asks."""
        path = self._folder / f"{start // BLOCK:04d}.npy"
        if not self._take(path, start):
            with contextlib.suppress(RunError, OSError):  # then there is no lock, and writing will say why
                files.make_folder(self._folder)
            with locks.held(path.with_suffix(".lock")) as mine:
                if mine is False and patient:
                    return False
                if not self._take(path, start):
                    ask(start)
                    left.remove(start)
                    _write(path, self._rows[start : start + BLOCK])
                    return True
        left.remove(start)
        return True

    def _take(self, path: Path, start: int) -> bool:
        block = self._rows[start : start + BLOCK]
        found = _read(path, shape=block.shape)
        if found is None and (whole := _read(self._whole, shape=self._rows.shape)) is not None:
            found = whole[start : start + BLOCK]
        if found is not None:
            block[:] = found
        return found is not None


def rounded(logits_NK: Tensor) -> Tensor:
    """Logits minus their row's maximum, as fp16: softmax is the same but for rounding, shape (N, K)."""
    relative_NK = logits_NK - logits_NK.amax(1, keepdim=True)
    return relative_NK.clamp_min(LOWEST_FP16).half()


def _read(path: Path, *, shape: tuple[int, ...]) -> Rows | None:
    """The kept rows, memory-mapped; None when missing, damaged or of another shape."""
    try:
        rows: Rows = np.load(path, mmap_mode="c", allow_pickle=False)
        with path.open("rb") as stream:
            stream.seek(-SHA256_BYTES, io.SEEK_END)
            sha256 = stream.read()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        good = False
    else:
        good = rows.shape == shape and rows.dtype == np.float16
        good = good and hashlib.sha256(rows.tobytes()).digest() == sha256
    if not good:
        log.warning("%s is damaged, its answers are asked again", path)
        with contextlib.suppress(OSError):
            path.unlink()
    return rows if good else None


def _write(path: Path, rows: Rows) -> None:
    """Keep rows for others; _NotKeptError when that cannot be."""
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    try:
        files.make_folder(path.parent)
        files.write_atomic(path, buffer.getvalue() + hashlib.sha256(rows.tobytes()).digest())
    except (OSError, RunError) as error:
        raise _NotKeptError(str(error)) from error
