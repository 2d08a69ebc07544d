"""A teacher from a file of another code base: read without running code from it, judged before it teaches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli import data, models
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.execution import Execution
from tfkd_cli.spec import ForeignTeacher
from tfkd_cli.store import files

if TYPE_CHECKING:
    from collections import Counter

    from torch import nn

    from tfkd_cli.data import Arrays
    from tfkd_cli.training.evaluation import Scores

CHANCE_ERRORS = 2.0  # standard errors above chance that a teacher must reach


def identify(path: Path, networks: tuple[str, ...]) -> ForeignTeacher:
    """The teacher in `path`: the one network of `--teacher`, and the sha256 of the file."""
    if len(networks) != 1:
        raise RequestError(
            f"--teacher-checkpoint {path} needs its architecture, {', '.join(networks) or 'none'} was given.",
            expected="one --teacher NETWORK beside it.",
            hint=f"--teacher torchvision:resnet50 --teacher-checkpoint {path}",
        )
    if not path.is_file():
        raise RequestError(
            f"--teacher-checkpoint {path} is not a file.", expected="a state dict written by torch.save."
        )
    return ForeignTeacher(network=networks[0], digest=files.digest(path))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """How a foreign teacher does on a part of the data, and what chance would do (percent, balanced)."""

    network: str
    part: str
    images: int
    scores: Scores
    chance: float
    threshold: float

    @property
    def sentence(self) -> str:
        """What the user is shown before any training."""
        return (
            f"Teacher {self.network} from the file: {self.scores.accuracy:.2f} % on the {self.part} part "
            f"({self.images:,} images), balanced accuracy {self.scores.balanced_accuracy:.2f} %; "
            f"chance is {self.chance:.2f} %."
        )


def judge(
    teacher: ForeignTeacher, *, dataset: str, execution: Execution, sources: Mapping[str, str]
) -> Judged:
    """The teacher's scores on the validation part, else the test part, of a decoded data set.

    RequestError when the file does not fit the network and the classes, or the teacher scores as chance.
    """
    from tfkd_cli.training import evaluation, provenance

    arrays = data.load(dataset, execution=execution)
    network = _filled(teacher, arrays, Path(sources[teacher.digest]))
    device = provenance.choose_device(execution.device)
    images, labels, name = arrays.test_images_NCHW, arrays.test_labels_N, "test"
    if arrays.val_images_NCHW is not None and arrays.val_labels_N is not None:
        images, labels, name = arrays.val_images_NCHW, arrays.val_labels_N, "validation"
    part = evaluation.part_of(images, labels, device)
    scores = evaluation.evaluate(network.to(device), part, arrays.facts)
    chance = 100 / arrays.facts.classes
    threshold = chance + CHANCE_ERRORS * _chance_error(_counts(labels), classes=arrays.facts.classes)
    judged = Judged(
        network=teacher.network,
        part=name,
        images=len(labels),
        scores=scores,
        chance=chance,
        threshold=threshold,
    )
    if scores.balanced_accuracy <= threshold:
        facts = arrays.facts
        raise RequestError(
            f"the teacher in {sources[teacher.digest]} scores as chance: balanced accuracy "
            f"{scores.balanced_accuracy:.2f} % of {facts.classes} classes on the {name} part.",
            expected=f"more than {threshold:.2f} % (chance is {chance:.2f} %).",
            hint=f"its classes must be in this order: {', '.join(arrays.class_names[:6])}"
            f"{' …' if facts.classes > 6 else ''}; images are {facts.size}×{facts.size} pixels, normalised "
            f"with mean {_rounded(facts.mean)} and std {_rounded(facts.std)}.",
        )
    return judged


def _filled(teacher: ForeignTeacher, arrays: Arrays, path: Path) -> nn.Module:
    from tfkd_cli.training import checkpoints

    facts = arrays.facts
    network = models.build(teacher.network, classes=facts.classes, channels=facts.channels, size=facts.size)
    try:
        checkpoints.fill(network, checkpoints.read_weights(path), path=path, name=teacher.network)
    except RunError as error:
        raise RequestError(
            error.what,
            expected=f"{error.expected.rstrip('.')}, for the {facts.classes} classes of {facts.label}.",
            hint=error.hint,
        ) from error
    return network


def _counts(labels: object) -> Counter[int]:
    from collections import Counter

    return Counter(map(int, labels))  # type: ignore[call-overload]


def _chance_error(counts: Mapping[int, int], *, classes: int) -> float:
    """Standard error, in points, of the balanced accuracy of guesses that hit each class with 1/K."""
    p = 1 / classes
    return 100 * math.sqrt(sum(p * (1 - p) / count for count in counts.values())) / max(1, len(counts))


def _rounded(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
