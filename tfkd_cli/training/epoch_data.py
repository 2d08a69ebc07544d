"""The batches of an epoch: images in their views, labels, teacher logits.

The order of an epoch depends on (seed, epoch), an image's view on (stream, epoch, image). The order is drawn
for a whole epoch at once and copied to the device once per epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch  # noqa: TID253 - reached only from the trainer
from torch import Tensor  # noqa: TID253

from tfkd_cli.data.augment import Augment, Normalise
from tfkd_cli.training.evaluation import images_at_once
from tfkd_cli.training.parts import Images, Part

if TYPE_CHECKING:
    from tfkd_cli.data import DataSet
    from tfkd_cli.spec import Recipe

SHARED_STREAM = 2**31 - 1
"""The augmentation stream of all seeds where the recipe says "shared"; it is not the stream of any seed."""

TeacherOf = Callable[[Tensor, Tensor], Tensor]
"""Gives teacher logits (N, K), of normalised images (N, C, H, W) and their places in the training part."""


def seed_of(*parts: object) -> int:
    """A 63-bit seed that depends on all parts: `seed_of("order", seed, epoch)`."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


class Batch(NamedTuple):
    """What one training step needs, on the device."""

    images_NCHW: Tensor  # normalised float32, in channels_last
    labels_N: Tensor
    teacher_NK: Tensor | None


class EpochData:
    """The batches of each epoch of a training part; `steps` of them.

    `share` maps the indices of one batch to those that this process trains on (data-parallel training).
    """

    def __init__(
        self,
        part: Part,
        facts: DataSet,
        recipe: Recipe,
        *,
        seed: int,
        share: Callable[[Tensor], Tensor] = lambda indices_N: indices_N,
    ) -> None:
        self._part, self._seed, self._share = part, seed, share
        self._device = part.labels_N.device
        self._stream = seed if recipe.augment_stream == "seed" else SHARED_STREAM
        self._batch_size = recipe.batch_size
        self._augment = Augment(recipe.augment, size=facts.size, device=self._device)
        self._normalise = Normalise(facts, device=self._device)
        # On a GPU, several batches are prepared at once: a kernel's launch takes longer than its work on one.
        self._batches_at_once = 1
        if self._device.type != "cpu":
            self._batches_at_once = max(1, images_at_once(self._device, facts.size) // recipe.batch_size)
        self.steps = len(split(torch.arange(len(part.labels_N)), recipe.batch_size))

    def batches(self, epoch: int, *, first: int = 0, teacher: TeacherOf | None = None) -> Iterator[Batch]:
        """The batches of this epoch from step `first` on."""
        generator = torch.Generator().manual_seed(seed_of("order", self._seed, epoch))
        order_N = torch.randperm(len(self._part.labels_N), generator=generator).to(self._device)
        todo = [self._share(indices_N) for indices_N in split(order_N, self._batch_size)[first:]]
        groups = [todo[at : at + self._batches_at_once] for at in range(0, len(todo), self._batches_at_once)]
        views = self.views(epoch, [torch.cat(group) for group in groups])
        for group, (indices_N, images_NCHW) in zip(groups, views, strict=True):
            teacher_NK = teacher(images_NCHW, indices_N) if teacher else None
            columns = (images_NCHW, self._part.labels_N[indices_N], teacher_NK)
            sizes = [len(each) for each in group]
            parts = ([None] * len(sizes) if each is None else torch.split(each, sizes) for each in columns)
            yield from map(Batch, *parts)

    def views(self, epoch: int, batches: Sequence[Tensor]) -> Iterator[Images]:
        """The images of each batch of indices in their views of this epoch, normalised."""
        seen = self._part.views(batches, self._augment, stream=self._stream, epoch=epoch)
        for indices_N, images_NCHW in seen:
            yield Images(indices_N, self._normalise(images_NCHW))


def split(order_N: Tensor, batch_size: int) -> list[Tensor]:
    """The epoch's batches; the last may be smaller, but one image joins the batch before (BatchNorm)."""
    parts = list(torch.split(order_N, batch_size))
    if len(parts) > 1 and batch_size > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts
