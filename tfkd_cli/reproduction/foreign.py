"""A teacher from a file of another code base: read without running code from it, judged before it teaches."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli import data, models
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.execution import Execution
from tfkd_cli.regular_files import WEIGHTS_LIMIT, open_regular
from tfkd_cli.spec import ForeignTeacher

if TYPE_CHECKING:
    from collections import Counter

    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from tfkd_cli.data import Arrays
    from tfkd_cli.training.evaluation import Scores

    Counts = NDArray[np.int64]

CHANCE_ERRORS = 2.0  # standard errors above chance that a teacher must reach
PERMUTED_ERRORS = 3.0  # standard errors by which exchanged classes must beat right ones to be called that
MOST_CLASSES = 2000  # up to which the order of a teacher's classes is checked: 4 million counts
ORDER_IMAGES = 2000  # with fewer in the part, training images help to check the order


def identify(path: Path, networks: tuple[str, ...]) -> ForeignTeacher:
    """The teacher in `path`: the one network of `--teacher`, and the sha256 of the file."""
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
    return ForeignTeacher(network=networks[0], digest=digest)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How a foreign teacher does on a part of the data, and what chance would do (percent, balanced)."""

    network: str
    part: str
    images: int
    scores: Scores
    chance: float
    note: str = ""  # what was changed to make the file fit

    @property
    def sentence(self) -> str:
        """What the user is shown before any training."""
        return (
            f"Teacher {self.network} from the file: {self.scores.accuracy:.2f} % on the {self.part} part "
            f"({self.images:,} images), balanced accuracy {self.scores.balanced_accuracy:.2f} %; "
            f"chance is {self.chance:.2f} %." + (f" Note: {self.note}." if self.note else "")
        )


def judge(
    teacher: ForeignTeacher, *, dataset: str, execution: Execution, sources: Mapping[str, str]
) -> Judged:
    """The teacher's scores on the validation part, else the test part, of a decoded data set.

    RequestError when the file does not fit the network and the classes, the teacher scores as chance, or its
    classes are in another order than the data set's.
    """
    from tfkd_cli.training import evaluation, parts, provenance

    arrays = data.load(dataset, execution=execution)
    path = sources[teacher.digest]
    network, note = _filled(teacher, arrays, Path(path))
    device = provenance.choose_device(execution.device)
    network.to(device)

    def scored(images: object, labels: object) -> Scores:
        part = parts.part_of(images, labels, device)
        return evaluation.evaluate(network, part, arrays.facts, most_classes=MOST_CLASSES)

    images, labels, name = arrays.test_images_NCHW, arrays.test_labels_N, "test"
    if arrays.val_images_NCHW is not None and arrays.val_labels_N is not None:
        images, labels, name = arrays.val_images_NCHW, arrays.val_labels_N, "validation"
    scores = scored(images, labels)
    confusions = [scores.confusion]
    if len(labels) < ORDER_IMAGES:
        every = math.ceil(len(arrays.train_labels_N) / ORDER_IMAGES)
        more = scored(arrays.train_images_NCHW[::every].copy(), arrays.train_labels_N[::every].copy())
        confusions.append(more.confusion)
    _check_order(confusions, arrays.class_names, path=path)
    chance = 100 / arrays.facts.classes
    threshold = chance + CHANCE_ERRORS * _chance_error(_counts(labels), classes=arrays.facts.classes)
    if scores.balanced_accuracy <= threshold:
        raise _at_chance(scores, arrays, part=name, threshold=threshold, path=path)
    return Judged(
        network=teacher.network, part=name, images=len(labels), scores=scores, chance=chance, note=note
    )


def _at_chance(scores: Scores, arrays: Arrays, *, part: str, threshold: float, path: str) -> RequestError:
    facts = arrays.facts
    return RequestError(
        f"the teacher in {path} scores as chance: balanced accuracy {scores.balanced_accuracy:.2f} % of "
        f"{facts.classes} classes on the {part} part.",
        expected=f"more than {threshold:.2f} % (chance is {100 / facts.classes:.2f} %).",
        hint=f"its classes must be in this order: {_shown(arrays.class_names)}; "
        f"images are {facts.size}×{facts.size} pixels, normalised with mean {_rounded(facts.mean)} and std "
        f"{_rounded(facts.std)}.",
    )


def _check_order(confusions: Sequence[Sequence[str]], class_names: Sequence[str], *, path: str) -> None:
    """RequestError when some classes of the teacher are exchanged among each other, by `Scores.confusion`.

    A classifier may prefer a wrong class for the images of some class, but not in a circle (those of cats are
    called dogs, and those of dogs cats), unless its outputs are in another order.
    """
    import numpy as np

    counts_KK = np.array([[row.split() for row in rows] for rows in confusions], dtype=np.int64).sum(0)
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


def _filled(teacher: ForeignTeacher, arrays: Arrays, path: Path) -> tuple[nn.Module, str]:
    from tfkd_cli.training import checkpoints

    facts = arrays.facts
    network = models.build(teacher.network, classes=facts.classes, channels=facts.channels, size=facts.size)
    try:
        weights = checkpoints.read_weights(path)
        note = checkpoints.fill(network, weights, path=path, name=teacher.network)
    except RunError as error:
        raise RequestError(
            error.what,
            expected=f"{error.expected.rstrip('.')}, for the {facts.classes} classes of {facts.label}.",
            hint=error.hint,
        ) from error
    return network, note


def _counts(labels: object) -> Counter[int]:
    from collections import Counter

    return Counter(map(int, labels))  # type: ignore[call-overload]


def _chance_error(counts: Mapping[int, int], *, classes: int) -> float:
    """Standard error, in points, of the balanced accuracy of guesses that hit each class with 1/K."""
    p = 1 / classes
    return 100 * math.sqrt(sum(p * (1 - p) / count for count in counts.values())) / max(1, len(counts))


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + " …" * (len(names) > 6)


def _rounded(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
