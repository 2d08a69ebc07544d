"""A part of a data set (training, validation or test images) as the trainer reads it: batch by batch.

`part_of` chooses: `MemoryPart` for decoded images, `StreamedPart` for images that worker processes decode
while the network trains. Both give the same batches.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch  # noqa: TID253 - reached only from the trainer
from torch import Tensor  # noqa: TID253

from tfkd_cli.data.augment import Augment
from tfkd_cli.data.image_files import ImageFiles
from tfkd_cli.data.streaming import Stream, requests


class Images(NamedTuple):
    """A batch of images of a part, on the device."""

    indices_N: Tensor  # int64, of the images in the part: those that were requested, unless one was skipped
    images_NCHW: Tensor  # uint8


@dataclass(frozen=True, kw_only=True)
class MemoryPart:
    """Images (uint8 NCHW) on the device; on the CPU they may be memory-mapped."""

    labels_N: Tensor  # int64, on the device
    images_NCHW: Tensor
    skipped: Collection[str] = ()  # what was wrong with files that were skipped so far

    def images(self, batches: Sequence[Tensor]) -> Iterator[Images]:
        """The images of each batch of indices, in order, without augmentation."""
        for indices_N in batches:
            yield Images(indices_N, self.images_NCHW[indices_N])

    def views(
        self, batches: Sequence[Tensor], augment: Augment, *, stream: int, epoch: int
    ) -> Iterator[Images]:
        """The same in their views of this epoch, which depend on (stream, epoch, index) alone.

        The views of the whole part are drawn at once, on the device.
        """
        all_N = torch.arange(len(self.labels_N), device=self.labels_N.device)
        views_NV = augment.draw(stream=stream, epoch=epoch, indices_N=all_N)
        for indices_N, images_NCHW in self.images(batches):
            yield Images(indices_N, augment(images_NCHW, views_NV[indices_N]))

    def close(self) -> None:
        """Nothing is to be ended."""


@dataclass(frozen=True, kw_only=True)
class StreamedPart:
    """Image files that are decoded in the order in which batches are needed; one pass at a time."""

    labels_N: Tensor  # int64, on the device
    stream: Stream
    full_size: bool  # as in DataSet

    @property
    def skipped(self) -> Collection[str]:
        """What was wrong with the files that were skipped so far."""
        return self.stream.skipped

    def images(self, batches: Sequence[Tensor]) -> Iterator[Images]:
        """As in `MemoryPart`."""
        return self._decoded(batches, None)

    def views(
        self, batches: Sequence[Tensor], augment: Augment, *, stream: int, epoch: int
    ) -> Iterator[Images]:
        """As in `MemoryPart`; random resized crops of images of their own size are cut while decoding."""
        view = {"stream": stream, "epoch": epoch}
        crops_of = (stream, epoch) if self.full_size and augment.recipe.resized_crop else None
        for indices_N, images_NCHW in self._decoded(batches, crops_of):
            if not crops_of:
                images_NCHW = augment(images_NCHW, augment.draw(indices_N=indices_N, **view))
            yield Images(indices_N, images_NCHW)

    def close(self) -> None:
        """End the processes that decode; no images are given after that."""
        self.stream.close()

    def _decoded(self, batches: Sequence[Tensor], crops_of: tuple[int, int] | None) -> Iterator[Images]:
        device = self.labels_N.device
        wanted = requests(torch.split(torch.cat(list(batches)).cpu(), [*map(len, batches)]), crops_of)
        decoded = self.stream([each for batch in wanted for each in batch])
        for batch in wanted:
            units = list(islice(decoded, len(batch)))
            images = [each.images_NCHW.to(device, non_blocking=True) for each in units]
            yield Images(torch.cat([each.indices_N for each in units]).to(device), torch.cat(images))


Part = MemoryPart | StreamedPart


def part_of(images: Any, labels: Any, device: torch.device) -> Part:
    """A part as the trainer reads it: image files, or arrays (uint8 NCHW), and labels (int64 N).

    On the CPU, images that are memory-mapped stay so.
    """
    if isinstance(images, ImageFiles):
        return StreamedPart(
            stream=Stream(images, pin_memory=device.type == "cuda"),
            full_size=images.facts.full_size,
            labels_N=torch.from_numpy(labels).to(device),
        )
    with warnings.catch_warnings():
        # A read-only memory map; nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        images_NCHW, labels_N = torch.from_numpy(images), torch.from_numpy(labels)
    return MemoryPart(images_NCHW=images_NCHW.to(device), labels_N=labels_N.long().to(device))
