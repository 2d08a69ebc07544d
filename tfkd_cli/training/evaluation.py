"""How good a network is on a part of a data set: loss, accuracies, calibration. One pass over its images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - reached only from the trainer
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.data import augment

if TYPE_CHECKING:
    from tfkd_cli.data import DataSet

EVALUATION_PIXELS = 256 * 32 * 32
"""Pixels in a batch of the evaluation: large, yet its activations stay in reach of the caches."""

MOST_CLASSES = 200
"""Classes up to which a confusion matrix is counted."""

BINS = 15
"""Bins of equal width over the confidence, for the calibration error (Guo et al. 2017)."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """The images of one part of a data set (uint8 NCHW) and their labels (int64 N), on a device."""

    images_NCHW: Tensor
    labels_N: Tensor


def part_of(images: Any, labels: Any, device: torch.device) -> Part:
    """Arrays of a part (uint8 NCHW, int64 N) as tensors; on the CPU the images stay where they are mapped."""
    with warnings.catch_warnings():
        # A read-only memory map; nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        images_NCHW, labels_N = torch.from_numpy(images), torch.from_numpy(labels)
    return Part(images_NCHW=images_NCHW.to(device), labels_N=labels_N.long().to(device))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """`loss`: mean cross-entropy (NLL) in nats; the rest in percent.

    `balanced_accuracy`: the mean over classes of the accuracy within a class (classes without an image
    do not count). `ece`: expected calibration error, mean |confidence - accuracy| over BINS bins.
    `confusion`: images by true class (rows, as text "97 0 3") and predicted class; empty above MOST_CLASSES.
    """

    loss: float
    accuracy: float
    top5: float
    balanced_accuracy: float
    ece: float
    confusion: tuple[str, ...] = ()


def evaluate(
    network: nn.Module, part: Part, facts: DataSet, *, at_step: Callable[[], None] = lambda: None
) -> Scores:
    """The scores of `network` in eval mode and fp32; `at_step` is called after every batch."""
    network.eval()
    device = part.images_NCHW.device
    dtype = torch.float32 if device.type == "mps" else torch.float64
    sums = torch.zeros(3, dtype=dtype, device=device)  # cross-entropy, right at first, right within five
    predictions, confidences = [], []
    batch = max(1, EVALUATION_PIXELS // facts.size**2)
    for images_NCHW, labels_N in zip(
        torch.split(part.images_NCHW, batch), torch.split(part.labels_N, batch), strict=True
    ):
        with torch.inference_mode():
            pixels = augment.normalise(images_NCHW, facts.mean, facts.std, memory_format=torch.channels_last)
            logits_NK = network(pixels).float()
            ranked = logits_NK.topk(min(5, facts.classes), 1).indices
            right_NR = ranked == labels_N[:, None]
            ce = nn.functional.cross_entropy(logits_NK, labels_N, reduction="sum")
            sums += torch.stack([ce, right_NR[:, 0].sum(), right_NR.sum()])
            predictions.append(ranked[:, 0])
            confidences.append(logits_NK.softmax(1).amax(1))
        at_step()
    predicted_N = torch.cat(predictions)
    right_N = (predicted_N == part.labels_N).cpu()
    ce, top1, top5 = (sums / len(part.labels_N)).tolist()
    return Scores(
        loss=ce,
        accuracy=100 * top1,
        top5=100 * top5,
        balanced_accuracy=_balanced(right_N, part.labels_N.cpu(), classes=facts.classes),
        ece=_calibration_error(right_N, torch.cat(confidences).cpu()),
        confusion=_confusion(part.labels_N, predicted_N, classes=facts.classes),
    )


def _confusion(labels_N: Tensor, predicted_N: Tensor, *, classes: int) -> tuple[str, ...]:
    if classes > MOST_CLASSES:
        return ()
    counts_KK = torch.bincount(labels_N * classes + predicted_N, minlength=classes**2).view(classes, classes)
    return tuple(" ".join(map(str, row)) for row in counts_KK.tolist())


def _balanced(right_N: Tensor, labels_N: Tensor, *, classes: int) -> float:
    images_K = torch.bincount(labels_N, minlength=classes).double()
    right_K = torch.bincount(labels_N[right_N], minlength=classes).double()
    present = images_K > 0
    return 100 * float((right_K[present] / images_K[present]).mean())


def _calibration_error(right_N: Tensor, confidence_N: Tensor) -> float:
    bins_N = (confidence_N.double() * BINS).ceil().long().clamp(1, BINS) - 1
    gap_B = torch.bincount(bins_N, weights=confidence_N.double() - right_N.double(), minlength=BINS)
    return 100 * float(gap_B.abs().sum() / len(right_N))
