"""A frozen teacher and the cache of its logits.

With one augmentation stream for all seeds (`recipe.augment_stream == "shared"`) every student of a teacher
sees the same views in an epoch. The teacher's logits are then computed for a whole epoch at once, in image
order and in batches of a fixed size, and rounded to fp16 relative to the maximum of the row. A student gets
the same numbers (bit for bit on a CPU) whether it computed them or read them: the cache changes no result.

`<results>/teacher-logits/<teacher>-<weights>-<context>/epoch-NNN.npy` holds an fp16 array, shape
(images, K), as `numpy.save` writes it, followed by the SHA-256 of these bytes (`numpy.load` ignores it). The
first student to reach an epoch computes and writes it while it holds `epoch-NNN.lock`; the others wait for
the lock and read the file. If the writer ends early, the kernel releases the lock and the next student
computes the whole epoch: a stop costs at most one epoch of teacher forward passes. Where locks do not work,
every student computes for itself. Everything in the cache may be deleted at any time; what is missing or
damaged is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: TID253 - reached only from the trainer and the worker
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli import locks, models
from tfkd_cli.data import DataSet
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.models import borrowed
from tfkd_cli.regular_files import open_regular
from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher, canonical_json
from tfkd_cli.store import files
from tfkd_cli.store.teacher_logits import bytes_below
from tfkd_cli.training import checkpoints, precision
from tfkd_cli.training.parts import Images

Views = Callable[[Sequence[Tensor]], Iterator[Images]]

FORMAT = 3  # of the files, and of how a teacher is computed
HEADER_BYTES, SHA256_BYTES = 128, 32  # before and after the array

log = logging.getLogger("tfkd")


class FrozenTeacher:
    """A trained network in eval mode that gives logits, shape (N, K), as fp32 and without gradients.

    `precision.prepare_teacher` says how it is computed. `as_cached`: they are rounded as the cache rounds
    them, so that a student that runs its teacher at each step learns from the same numbers.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        device: torch.device,
        precision_name: str,
        example: Tensor,
        as_cached: bool = False,
    ) -> None:
        self._network = precision.prepare_teacher(
            network, precision=precision_name, device=device, example_NCHW=example
        )
        self._device = device
        self._precision = precision_name
        self._as_cached = as_cached

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """The logits of normalised images."""
        with torch.inference_mode(), precision.autocast(self._precision, self._device):
            logits_NK: Tensor = self._network(images_NCHW)
            logits_NK = rounded(logits_NK.float()) if self._as_cached else logits_NK
        return logits_NK.float().clone()  # an inference tensor cannot be saved for a backward pass


class OwnInputs(nn.Module):
    """A network that is given images as a teacher from another code base was trained to see them.

    It takes the student's images, shape (N, C, H, W), normalised with the mean and std of the data set.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, teacher: ForeignTeacher, facts: DataSet) -> None:
        super().__init__()
        self.network = network
        self.given = facts.size  # pixels of a side
        self.cut = teacher.size or teacher.resize or facts.size
        self.resize = teacher.resize or self.cut
        values = (facts.mean, facts.std, teacher.mean or facts.mean, teacher.std or facts.std)
        given_mean, given_std, mean, std = (
            torch.tensor(each).expand(facts.channels).view(1, -1, 1, 1) for each in values
        )
        self.register_buffer("scale", given_std / std)
        self.register_buffer("shift", (given_mean - mean) / std)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """The network's logits, shape (N, K)."""
        if self.resize != self.given:
            images_NCHW = nn.functional.interpolate(
                images_NCHW, size=(self.resize, self.resize), mode="bilinear", antialias=True
            )
        if self.cut != self.resize:
            first = (self.resize - self.cut) // 2
            images_NCHW = images_NCHW[:, :, first : first + self.cut, first : first + self.cut]
        logits_NK: Tensor = self.network(images_NCHW * self.scale + self.shift)
        return logits_NK


def build_teacher(teacher: Teacher | ForeignTeacher, weights: Path, facts: DataSet) -> tuple[nn.Module, str]:
    """A teacher with the weights in this file, and a note on what was changed to make the file fit.

    RunError where they do not fit; RequestError for a normalisation of another number of channels.
    """
    if isinstance(teacher, ForeignTeacher) and teacher.published:
        return borrowed.published_network(teacher.network), ""
    inputs = teacher.inputs if isinstance(teacher, ForeignTeacher) else {}
    if len(inputs.get("mean", ())) not in (0, 1, facts.channels):
        raise RequestError(
            f"--teacher-mean has {len(inputs['mean'])} values, and the images of {facts.label} have "
            f"{facts.channels} channel{'s' * (facts.channels > 1)}.",
            expected="one value per channel, or one for all.",
        )
    size = inputs.get("size") or inputs.get("resize") or facts.size
    network = models.build(teacher.network, classes=facts.classes, channels=facts.channels, size=size)
    note = checkpoints.fill(network, checkpoints.read_weights(weights), path=weights, name=teacher.network)
    if isinstance(teacher, ForeignTeacher) and inputs:
        network = OwnInputs(network, teacher, facts)
    return network, note


def cache_folder(
    teacher_logits: Path, *, spec: RunSpec, weights_digest: str, numerics: Mapping[str, Any], batch: int
) -> Path:
    """The folder below `teacher_logits` whose name depends on all that decides the logits of a teacher."""
    assert spec.teacher is not None
    inputs = spec.teacher.inputs if isinstance(spec.teacher, ForeignTeacher) else {}
    context = {
        **({"inputs": inputs} if inputs else {}),
        "format": FORMAT,
        "batch": batch,  # rounding may depend on it
        "dataset": spec.dataset,
        "holdout": spec.recipe.holdout,  # decides which image has which index
        "reading": [spec.recipe.decoder, spec.recipe.corrupt],
        "augment": spec.recipe.augment,
        "stream": spec.recipe.augment_stream,
        "precision": spec.recipe.precision,
        "weights": weights_digest,
        "numerics": dict(numerics),
    }
    digits = hashlib.sha256(canonical_json(context)).hexdigest()[:8]
    return teacher_logits / f"{spec.teacher.cache_prefix}-{weights_digest[:8]}-{digits}"


@dataclass(kw_only=True)
class TeacherLogits:
    """The logits of a teacher for all views of an epoch, read from the cache or computed.

    `folder`: this teacher's in the cache; None: all is computed. `limit_bytes` caps the folders of all
    teachers together (students that run at once may exceed it by one epoch each); 0: files are only read.
    """

    teacher: FrozenTeacher
    images: int
    classes: int
    device: torch.device
    batch: int = 256
    folder: Path | None = None
    limit_bytes: float = 0.0

    def epoch(self, epoch: int, *, views: Views, at_step: Callable[[], None]) -> Tensor:
        """Logits relative to the maximum of their row: fp16, shape (images, K), on the device.

        `views` gives the normalised images of batches of indices (int64, on the device) in their views of
        this epoch. `at_step` is called after every batch and again and again while another student is waited
        for; an exception raised in it ends this call.
        """
        if self.folder is None:
            return self._compute(views, at_step)
        path = self.folder / f"epoch-{epoch:03d}.npy"
        if (cached_NK := self._read(path)) is not None:
            return cached_NK
        if not self._has_room(self.folder.parent):
            return self._compute(views, at_step)
        with contextlib.suppress(RunError):  # then there is no lock, and writing fails with a reason
            files.make_folder(self.folder)
        with locks.held(lock := path.with_suffix(".lock"), while_waiting=at_step):
            logits_NK = self._read(path)  # another student may have written it meanwhile
            if logits_NK is None:
                logits_NK = self._compute(views, at_step)
                self._write(path, logits_NK)
            with contextlib.suppress(OSError):
                lock.unlink()
        return logits_NK

    def _compute(self, views: Views, at_step: Callable[[], None]) -> Tensor:
        parts = []
        batches = torch.split(torch.arange(self.images, device=self.device), self.batch)
        for seen in views(batches):
            parts.append(rounded(self.teacher(seen.images_NCHW)))
            at_step()
        return torch.cat(parts)

    def _has_room(self, teacher_logits: Path) -> bool:
        """Whether this run may write another epoch."""
        size = HEADER_BYTES + 2 * self.images * self.classes + SHA256_BYTES
        if self.limit_bytes and bytes_below(teacher_logits) + size > self.limit_bytes:
            self._stop_writing("--teacher-cache-gb is reached (tfkd clean frees what no unfinished run uses)")
        return self.limit_bytes > 0

    def _read(self, path: Path) -> Tensor | None:
        """The logits in this file; None if it is missing, or damaged, which is logged."""
        try:
            with open_regular(path, follow_links=False) as stream:
                data = stream.read()
            content, digest = memoryview(data)[:-SHA256_BYTES], data[-SHA256_BYTES:]
            if hashlib.sha256(content).digest() != digest:
                raise ValueError("its SHA-256 is wrong")
            return torch.from_numpy(np.load(io.BytesIO(data))).to(self.device)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("cannot use %s (%s); its teacher logits are computed again", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            return None

    def _write(self, path: Path, logits_NK: Tensor) -> None:
        """Write a file whole or not at all. It is not forced to the disk: its digest is checked when read."""
        buffer = io.BytesIO()
        np.save(buffer, logits_NK.cpu().numpy())
        buffer.write(hashlib.sha256(buffer.getbuffer()).digest())
        try:
            files.make_folder(path.parent)  # it may have been deleted meanwhile
            files.write_hint(path, buffer.getvalue())
        except RunError as error:
            self._stop_writing(error.what)

    def _stop_writing(self, why: str) -> None:
        log.warning("from here on this run caches no teacher logits: %s", why)
        self.limit_bytes = 0.0


def rounded(logits_NK: Tensor) -> Tensor:
    """Logits minus the maximum of their row as fp16, shape (N, K); softmax is the same up to rounding."""
    relative_NK = logits_NK - logits_NK.amax(1, keepdim=True)
    return relative_NK.clamp_min(torch.finfo(torch.float16).min).half()
