"""A teacher from a file of another code base: read without running code from it, judged before it teaches.

Its normalisation is part of its identity. Where it is not given, the usual ones are tried on images that no
test is made with, and the best is taken.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tfkd_cli import data
from tfkd_cli.data import cache as caches
from tfkd_cli.data.facts import CIFAR100_MEAN, CIFAR100_STD, IMAGENET_MEAN, IMAGENET_STD, Channels, DataSet
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.execution import Execution
from tfkd_cli.regular_files import WEIGHTS_LIMIT, open_regular
from tfkd_cli.spec import ForeignTeacher, canonical_json

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import nn

    from tfkd_cli.data import Arrays
    from tfkd_cli.training.evaluation import Scores

    Counts = NDArray[np.int64]

VALIDATION = "validation"
CHANCE_ERRORS = 2.0  # standard errors above chance that a teacher must reach
PERMUTED_ERRORS = 3.0  # standard errors by which exchanged classes must beat right ones to be called that
MOST_CLASSES = 2000  # up to which the order of a teacher's classes is checked: 4 million counts
ORDER_IMAGES = 2000  # with fewer in the part, training images help to check the order
TRIED_IMAGES = 500  # with which each of the usual normalisations is tried

Normalisations = Mapping[str, tuple[Channels, Channels]]
USUAL: Normalisations = {
    "ImageNet": (IMAGENET_MEAN, IMAGENET_STD),
    "CIFAR": (CIFAR100_MEAN, CIFAR100_STD),
    "0.5 and 0.5": ((0.5,), (0.5,)),
    "none (pixels from 0 to 1)": ((0.0,), (1.0,)),
    "pixels from 0 to 255": ((0.0,), (1 / 255,)),
}
"""Mean and std of pixels in [0, 1] that networks are mostly trained with."""


def identify(path: Path, networks: tuple[str, ...], **inputs: Any) -> ForeignTeacher:
    """The teacher in `path`: the one network of `--teacher`, the sha256 of the file, and what it is given."""
    if len(networks) != 1:
        raise RequestError(
            f"--teacher-checkpoint {path} needs its architecture, {', '.join(networks) or 'none'} was given.",
            expected="one --teacher NETWORK beside it.",
            hint=f"--teacher torchvision:resnet50 --teacher-checkpoint {path}",
        )
    try:
        with open_regular(path, limit=WEIGHTS_LIMIT) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or str(error)
        raise RequestError(
            f"--teacher-checkpoint {path} cannot be read: {why}.",
            expected=f"a state dict written by torch.save, of at most {WEIGHTS_LIMIT / 1e9:.1f} GB.",
            hint="check the path.",
        ) from error
    return ForeignTeacher(network=networks[0], digest=digest, **inputs)


def with_usual_inputs(
    teacher: ForeignTeacher, facts: DataSet, *, execution: Execution
) -> tuple[ForeignTeacher, str]:
    """The teacher with the usual normalisation that suits it best on a decoded data set, and why, in words.

    The data set's own normalisation is among them and changes nothing. What was found is remembered in the
    cache folder.
    """
    path, known = Path(execution.sources[teacher.digest]), _normalisations(facts)

    def tried() -> dict[str, list[float]]:
        from tfkd_cli.training.teacher_logits import OwnInputs

        arrays = data.load(facts.name, execution=execution)
        _, *part = _part_to_judge(arrays, most=TRIED_IMAGES)
        network: Any = loaded(replace(teacher, mean=facts.mean, std=facts.std), path, facts)[0].network
        found = {}
        for name, (mean, std) in known.items():
            seen = OwnInputs(network, replace(teacher, mean=mean, std=std), facts)
            scores = _scored(seen, facts, execution, *part)
            found[name] = [scores.accuracy, _reordered_accuracy(scores), -scores.loss]
        return found

    stamp = canonical_json([TRIED_IMAGES, known, facts.name, *vars(teacher).values()]).decode()
    found = caches.remembered(execution.cache_path, path / facts.name, stamp, tried)
    best = max(known, key=lambda name: found[name][1:])
    shown = ", ".join(f"{name} {accuracy:.1f} %" for name, (accuracy, *_) in found.items())
    said = (
        f"How the teacher's images were normalised is not known. Its accuracy on up to {TRIED_IMAGES} images "
        f"outside the test part: {shown}. Taken: {best}. If it is right more often where it comes from, "
        "give --teacher-mean and --teacher-std."
    )
    mean, std = known[best]
    own = (mean, std) == (facts.mean, facts.std)
    return (teacher if own else replace(teacher, mean=mean, std=std)), said


def _reordered_accuracy(scores: Scores) -> float:
    """The accuracy as it would be with outputs in the right order; `judge` refuses a wrong one later."""
    counts_KK = _counted([scores.confusion])
    if not counts_KK.size:
        return scores.accuracy
    right = sum(counts_KK[label, called] for label, called in enumerate(_permutation(counts_KK)))
    return 100 * float(right / counts_KK.sum())


def _normalisations(facts: DataSet) -> Normalisations:
    """Those of USUAL and the data set's own, which comes first; for grey images the mean over colours."""

    def fitting(values: Channels) -> Channels:
        return values if len(values) in (1, facts.channels) else (fmean(values),)

    usual = {name: (fitting(mean), fitting(std)) for name, (mean, std) in USUAL.items()}
    own = facts.mean, facts.std
    name = next((name for name, values in usual.items() if values == own), facts.label)
    return {name: own, **usual}


def judge(teacher: ForeignTeacher, *, dataset: str, execution: Execution) -> str:
    """The teacher's scores on the validation part of a data set, else on some training images, in words.

    RequestError when the file does not fit the network and the classes, the teacher scores as chance, or its
    classes are in another order than the data set's.
    """
    import numpy as np

    arrays, path = data.load(dataset, execution=execution), Path(execution.sources[teacher.digest])
    facts = arrays.facts
    part, images, labels_N = _part_to_judge(arrays)
    network, note = loaded(teacher, path, facts)
    scores = _scored(network, facts, execution, images, labels_N)
    confusions = [scores.confusion]
    if part == VALIDATION and len(labels_N) < ORDER_IMAGES:
        more = _some(arrays.train_images_NCHW, arrays.train_labels_N, most=ORDER_IMAGES)
        confusions.append(_scored(network, facts, execution, *more).confusion)
    _check_order(confusions, arrays.class_names, path=str(path))
    chance, counts = 1 / facts.classes, np.bincount(labels_N)
    counts = counts[counts > 0]
    # Of the balanced accuracy of guesses that hit each class with 1/K.
    error = math.sqrt((chance * (1 - chance) / counts).sum()) / len(counts)
    threshold = 100 * (chance + CHANCE_ERRORS * error)
    if scores.balanced_accuracy <= threshold:
        raise _at_chance(scores, arrays, part=part, threshold=threshold, path=str(path))
    return (
        f"Teacher {teacher.network} from the file: {scores.accuracy:.2f} % on the {part} part "
        f"({len(labels_N):,} images), balanced accuracy {scores.balanced_accuracy:.2f} %; "
        f"chance is {100 * chance:.2f} %." + (f" Note: {note}." if note else "")
    )


def _part_to_judge(arrays: Arrays, *, most: int | None = None) -> tuple[str, Any, Any]:
    """The validation part, or of a data set without one some training images; never the test part."""
    if arrays.val_labels_N is None:
        return "training", *_some(arrays.train_images_NCHW, arrays.train_labels_N, most=most or ORDER_IMAGES)
    return VALIDATION, *_some(arrays.val_images_NCHW, arrays.val_labels_N, most=most)


def _some(images: Any, labels_N: Any, *, most: int | None) -> tuple[Any, Any]:
    """Evenly spread images (uint8 NCHW, or image files) of a part and their labels, at most so many."""
    every = math.ceil(len(labels_N) / (most or len(labels_N)))
    if every == 1:
        return images, labels_N
    return images[[*range(0, len(labels_N), every)]], labels_N[::every]


def _scored(network: nn.Module, facts: DataSet, execution: Execution, images: Any, labels_N: Any) -> Scores:
    """The network's scores on these images."""
    from tfkd_cli.training import evaluation, parts, provenance

    device: torch.device = provenance.choose_device(execution.device)
    part = parts.part_of(images, labels_N, device)
    scores: Scores = evaluation.evaluate(network.to(device), part, facts, most_classes=MOST_CLASSES)
    return scores


def _at_chance(scores: Scores, arrays: Arrays, *, part: str, threshold: float, path: str) -> RequestError:
    facts = arrays.facts
    return RequestError(
        f"the teacher in {path} scores as chance: balanced accuracy {scores.balanced_accuracy:.2f} % of "
        f"{facts.classes} classes on the {part} part.",
        expected=f"more than {threshold:.2f} % (chance is {100 / facts.classes:.2f} %).",
        hint=f"its classes must be in this order: {_shown(arrays.class_names)}. If its images were not "
        f"{facts.size}×{facts.size} pixels, or normalised otherwise than was tried, give --teacher-size, "
        "--teacher-resize, --teacher-mean and --teacher-std.",
    )


def _check_order(confusions: Sequence[Sequence[str]], class_names: Sequence[str], *, path: str) -> None:
    """RequestError when some classes of the teacher are exchanged among each other, by `Scores.confusion`.

    A classifier may prefer a wrong class for the images of some class, but not in a circle (those of cats are
    called dogs, and those of dogs cats), unless its outputs are in another order.
    """
    import numpy as np

    counts_KK = _counted(confusions)
    if not counts_KK.size:
        return
    called_K = _permutation(counts_KK)
    classes = np.arange(len(called_K))
    moved = called_K != classes
    along, right = counts_KK[classes, called_K][moved].sum(), counts_KK.diagonal()[moved].sum()
    if along <= 2 * right or along - right <= PERMUTED_ERRORS * math.sqrt(along + right):
        return
    images = counts_KK.sum()
    right_now, right_then = (
        100 * each.sum() / images for each in (counts_KK.diagonal(), counts_KK[classes, called_K])
    )
    pairs = [f"{class_names[i]} as output {called_K[i]}" for i in np.flatnonzero(moved).tolist()]
    order = [class_names[i] for i in np.argsort(called_K).tolist()]  # of its outputs
    raise RequestError(
        f"the classes of the teacher in {path} are in another order than those of the data: of {images:,} "
        f"images it is right on {right_now:.2f} %, and would be on {right_then:.2f} % with its outputs "
        f"reordered ({len(pairs)} of {len(classes)} classes: {_shown(pairs)}).",
        expected=f"outputs in this order: {_shown(class_names)}.",
        hint=f"its outputs seem to be {_shown(order)}: reorder the rows of its last layer in the file, or "
        "name the folders of the classes so that they sort in its order.",
    )


def _counted(confusions: Sequence[Sequence[str]]) -> Counts:
    """The sum of these confusion matrices; nothing where there are none."""
    import numpy as np

    summed: Counts = np.array([[row.split() for row in rows] for rows in confusions], dtype=np.int64).sum(0)
    return summed


def _permutation(counts_KK: Counts) -> Counts:
    """The output that most images of a class get, where such classes form a circle; else the class itself."""
    import numpy as np

    most_K, called_K = counts_KK.argmax(1), np.arange(len(counts_KK))
    circle = set(range(len(most_K)))
    while (reached := {int(most_K[each]) for each in circle}) != circle:
        circle = reached  # what nothing leads to falls away, until only circles are left
    for each in circle:
        called_K[each] = most_K[each]
    return called_K


def loaded(teacher: ForeignTeacher, path: Path, facts: DataSet) -> tuple[nn.Module, str]:
    """The teacher with its weights, and what was changed to make them fit; RequestError where they do not."""
    from tfkd_cli.training import teacher_logits

    try:
        return teacher_logits.build_teacher(teacher, path, facts)
    except RunError as error:
        raise RequestError(
            error.what,
            expected=f"{error.expected.rstrip('.')}, for the {facts.classes} classes of {facts.label}.",
            hint=error.hint,
        ) from error


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + " …" * (len(names) > 6)
