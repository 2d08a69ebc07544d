"""How good a network is on a part of a data set: loss, accuracies, calibration. One pass over its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch  # noqa: TID253 - reached only from the trainer
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.data.augment import Normalise
from tfkd_cli.training.parts import Part

if TYPE_CHECKING:
    from tfkd_cli.data import DataSet

PIXELS, GPU_PIXELS = 256 * 32 * 32, 1024 * 32 * 32
"""Pixels in a batch that needs no gradient.

On a CPU its maps stay in reach of the caches; on a GPU they take less memory than those of a training step.
"""

MOST_CLASSES = 200
"""Classes up to which a run's results hold a confusion matrix."""

SKIPPED = -1
"""Stands for the scores of an image whose file was skipped, until those of all images are joined."""

BINS = 15
"""Bins of equal width over the confidence, for the calibration error (Guo et al. 2017)."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """`loss`: mean cross-entropy (NLL) in nats; the rest in percent.

    `balanced_accuracy`: the mean over classes of the accuracy within a class (classes without an image
    do not count). `ece`: expected calibration error, mean |confidence - accuracy| over BINS bins.
    `confusion`: images by true class (rows, as text "97 0 3") and predicted class; empty where `evaluate`
    was told fewer `most_classes`.
    """

    loss: float
    accuracy: float
    top5: float
    balanced_accuracy: float
    ece: float
    confusion: tuple[str, ...] = ()


def images_at_once(device: torch.device, size: int) -> int:
    """How many images of `size` pixels square a batch without gradients holds on this device."""
    return max(1, (GPU_PIXELS if device.type == "cuda" else PIXELS) // size**2)


def evaluate(
    network: nn.Module,
    part: Part,
    facts: DataSet,
    *,
    at_step: Callable[[], None] = lambda: None,
    most_classes: int = MOST_CLASSES,
    share: Callable[[Tensor], Tensor] = lambda indices_N: indices_N,
    gather: Callable[[Tensor], Tensor] = lambda scored_6N: scored_6N,
) -> Scores:
    """The scores of `network` in eval mode and fp32; `at_step` is called after every batch.

    `most_classes`: up to which a confusion matrix is counted. The device is waited for once, at the end.
    In data-parallel training, `share` maps the indices of the whole part to those that this process
    evaluates, and `gather` joins the results of `score` of all processes.
    """
    network.eval()
    device, scored = part.labels_N.device, []
    normalise, batch = Normalise(facts, device=device), images_at_once(device, facts.size)
    batches = torch.split(share(torch.arange(len(part.labels_N), device=device)), batch)
    for requested_N, (found_N, images_NCHW) in zip(batches, part.images(batches), strict=True):
        with torch.inference_mode():
            scores_6N = score(network(normalise(images_NCHW)).float(), part.labels_N[found_N])
            scored.append(scores_6N.masked_fill(found_N != requested_N, SKIPPED))
        at_step()
    scored_6N = gather(torch.cat(scored, 1)).cpu().double()
    ce_N, right_N, right5_N, confidence_N, label_N, predicted_N = scored_6N[:, scored_6N[4] != SKIPPED]
    return Scores(
        loss=float(ce_N.mean()),
        accuracy=100 * float(right_N.mean()),
        top5=100 * float(right5_N.mean()),
        balanced_accuracy=_balanced(right_N.bool(), label_N.long(), classes=facts.classes),
        ece=_calibration_error(right_N.bool(), confidence_N),
        confusion=_confusion(label_N.long(), predicted_N.long(), classes=facts.classes)
        if facts.classes <= most_classes
        else (),
    )


def score(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Per image: cross-entropy, right at first, right within five, confidence, label, prediction; (6, N)."""
    ranked_NR = logits_NK.topk(min(5, logits_NK.shape[1]), 1).indices
    right_NR = ranked_NR == labels_N[:, None]
    ce_N = nn.functional.cross_entropy(logits_NK, labels_N, reduction="none")
    confidence_N = logits_NK.softmax(1).amax(1)
    return torch.stack([ce_N, right_NR[:, 0], right_NR.any(1), confidence_N, labels_N, ranked_NR[:, 0]])


def _confusion(labels_N: Tensor, predicted_N: Tensor, *, classes: int) -> tuple[str, ...]:
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
