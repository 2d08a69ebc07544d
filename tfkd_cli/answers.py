"""A teacher that is asked, and its answers where they are kept.

With one augmentation stream for all seeds (`recipe.augment_stream == "shared"`) the views of an epoch are
the same for every student. The teacher is then asked for a whole epoch *in image order, in fixed batches*,
and its answers are rounded to fp16 relative to the row's maximum. So each student gets the same numbers,
bit for bit, whether it asked itself or found the answers of another; keeping them changes no result.

Kept answers: `<results>/answers/<teacher>-<weights>-<context>/epoch-NNN.npy`, an fp16 array (N images,
K classes) followed by its sha256 (32 bytes, which numpy ignores). While an epoch is being asked, finished
blocks of images lie in `epoch-NNN.blocks/`; students that run at once ask different blocks and take each
other's. Everything there may be deleted at any time; what is missing or damaged is asked again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch  # noqa: TID253 - reached only from the trainer and the worker
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli import precision
from tfkd_cli.errors import RunError
from tfkd_cli.spec import RunSpec, Teacher, canonical_json
from tfkd_cli.store import files

BATCH = 128
"""Images per question in image order; part of the context, since rounding may depend on it."""

BLOCK = 16 * BATCH
"""Images per block: some seconds of work, so that little is lost and two students can share an epoch."""

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
    key = spec.teacher.run.key[:12] if isinstance(spec.teacher, Teacher) else "foreign"
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
    return Kept(folder=answers / f"{key}-{weights_digest[:8]}-{name}", limit_bytes=limit_gb * 1e9)


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
        rows = self._found(epoch)
        if rows is None:
            rows = self._asked(epoch, view=view, at_step=at_step)
        return torch.from_numpy(rows).to(self.device)

    def _found(self, epoch: int) -> Rows | None:
        return None if self.kept is None else _read(self.kept.path(epoch), shape=(self.images, self.classes))

    def _asked(self, epoch: int, *, view: Callable[[Tensor], Tensor], at_step: Callable[[], None]) -> Rows:
        rows = np.empty((self.images, self.classes), np.float16)
        keeping = self._keeping(epoch, rows.nbytes)
        blocks = list(range(0, self.images, BLOCK))
        self.order.shuffle(blocks)  # students that ask at once seldom ask the same
        for start in blocks:
            block = rows[start : start + BLOCK]
            path = keeping.blocks(epoch) / f"{start // BLOCK:04d}.npy" if keeping else None
            found = _read(path, shape=block.shape) if path else None
            if found is None and keeping and (whole := self._found(epoch)) is not None:
                return whole
            if found is None:
                self._ask(block, start=start, view=view, at_step=at_step)
                keeping = keeping if path and _write(path, block) else None
            else:
                block[:] = found
        if keeping and _write(keeping.path(epoch), rows):
            with contextlib.suppress(RunError):  # another student may be removing them too
                files.remove(keeping.blocks(epoch))
        return rows

    def _ask(
        self, block: Rows, *, start: int, view: Callable[[Tensor], Tensor], at_step: Callable[[], None]
    ) -> None:
        for first in range(0, len(block), BATCH):
            part = block[first : first + BATCH]
            indices_N = torch.arange(start + first, start + first + len(part))
            part[:] = rounded(self.teacher(view(indices_N))).cpu().numpy()
            at_step()

    def _keeping(self, epoch: int, size: int) -> Kept | None:
        if self.kept is None:
            return None
        if not self.kept.has_room(size):
            log.info("epoch %d: the answers do not fit under --teacher-cache-gb, they are not kept", epoch)
            return None
        return self.kept


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
    except (OSError, ValueError, EOFError):
        return None
    good = rows.shape == shape and rows.dtype == np.float16
    if not good or hashlib.sha256(rows.tobytes()).digest() != sha256:
        log.warning("%s is damaged, its answers are asked again", path)
        return None
    return rows


def _write(path: Path, rows: Rows) -> bool:
    """Keep rows for others; False where that cannot be (a full disk costs time, not the run)."""
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    try:
        files.make_folder(path.parent)
        files.write_atomic(path, buffer.getvalue() + hashlib.sha256(rows.tobytes()).digest())
    except (OSError, RunError) as error:
        log.warning("the teacher's answers are not kept: %s", error)
        return False
    return True
