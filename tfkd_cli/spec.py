"""What a run *is*: Recipe, Teacher, RunSpec, and the key that names it.

How a run is executed (device, threads, paths, cluster) is `execution.Execution` and never enters the key. Its
numerics (device, threads, arithmetic, processes) are recorded with the result.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from typing import Annotated, Any, ClassVar, Literal

from tfkd_cli import models, schema
from tfkd_cli.data.facts import AUGMENTATIONS
from tfkd_cli.data.image_files import Corrupt, Decoder
from tfkd_cli.errors import RequestError
from tfkd_cli.methods import CrossEntropy, Loss, loss_from
from tfkd_cli.schema import (
    PUBLISHED_DIGITS,
    Count,
    Meta,
    Name,
    NotNegative,
    Positive,
    Record,
    WeightsDigest,
)

TRAINER_VERSION = 2  # 2: networks in plain PyTorch, whose sums are rounded otherwise than version 1's
"""Raised by a change of numbers: every key changes with it, so old and new results never mix."""

TrainerVersion = Annotated[int, Meta(ge=1, le=TRAINER_VERSION)]

SNAPSHOT_EPOCHS = (1, 10, 20, 35, 50, 80, 120, 160)
"""Epochs (of 200) whose weights every baseline run keeps: De-KD and Figure 2 need them."""

PAPER_EPOCHS = 200
NEWER = "a newer tfkd may have written it; nothing was changed."

Epochs = Annotated[int, Meta(ge=1, le=1_000_000)]
Pixels = Annotated[int, Meta(ge=8, le=2048)]
Optimizer = Literal["sgd", "adam"]
Precision = Literal["fp32", "bf16"]
AugmentStream = Literal["seed", "shared"]


def _later(default: Any) -> Any:
    """A field that is newer than some stored runs: left out of the key while it has the value it had then."""
    return field(default=default, metadata={"as_before": default})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a network is optimised, by default as on CIFAR; see `training.trainer.learning_rate`."""

    epochs: Epochs = 200
    batch_size: Annotated[int, Meta(ge=1, le=1_000_000)] = 128
    lr: Annotated[float, Meta(gt=0)] = 0.1  # at a batch of 128; linear in the batch
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    weight_decay: NotNegative = 5e-4
    optimizer: Optimizer = "sgd"
    milestones: tuple[Epochs, ...] = (60, 120, 160)  # epochs done before each drop, ascending
    lr_factor: Annotated[float, Meta(gt=0, le=1)] = 0.2
    # Linear per step, from lr/N to lr over N steps (*released main.py*; not in the paper).
    warmup_epochs: NotNegative = 1.0
    augment: str = "crop-flip-rotate15"
    augment_stream: AugmentStream = "seed"
    precision: Precision = "fp32"
    # The share of the training images that validates, where the data have no such part.
    holdout: Annotated[float, Meta(ge=0, le=0.5)] = _later(0.0)
    # Of image files that are decoded while the network trains: what decodes and resizes them (Pillow's
    # pixels are those of the released loader, torchvision's differ by a level here and there), and whether
    # the next file of the part takes the place of a corrupt one.
    decoder: Decoder = _later("torchvision")
    corrupt: Corrupt = _later("fail")

    def __post_init__(self) -> None:
        schema.check(
            self, of="recipe", hint="leave it out: `tfkd explain` shows what a setting has by itself."
        )
        if self.augment not in AUGMENTATIONS:
            raise RequestError(
                f'recipe.augment is "{self.augment}".',
                expected=f"one of {', '.join(AUGMENTATIONS)}.",
                hint="leave it out: each data set has its own.",
            )
        ascending = tuple(sorted(set(self.milestones)))
        if self.milestones != ascending:
            raise RequestError(
                f"recipe.milestones is {','.join(map(str, self.milestones))}.",
                expected="epochs in ascending order, each once.",
                hint=f"--set recipe.milestones={','.join(map(str, ascending))}",
            )

    def with_epochs(self, epochs: int) -> Recipe:
        """This recipe at another length: milestones scale (half up, ≥ 1), warm-up min(1, epochs/20)."""
        schema.convert(epochs, Epochs, of="recipe.epochs")
        scaled = {max(1, math.floor(m * epochs / self.epochs + 0.5)) for m in self.milestones}
        warmup = min(1.0, self.warmup_epochs, epochs / 20)
        return replace(self, epochs=epochs, milestones=tuple(sorted(scaled)), warmup_epochs=warmup)

    def fast(self) -> Recipe:
        """bf16 and one augmentation stream for all seeds (so that teacher logits can be cached)."""
        return replace(self, precision="bf16", augment_stream="shared")

    @property
    def peak_lr(self) -> float:
        """The learning rate after warm-up, at this recipe's batch size."""
        return self.lr * self.batch_size / 128


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A teacher is a run, and the checkpoint that teaches: its best epoch, its last, or an epoch from 1."""

    run: RunSpec
    checkpoint: Literal["best", "last"] | int = "best"

    @property
    def network(self) -> str:
        """The teacher's architecture."""
        return self.run.student

    @property
    def weights(self) -> str:
        """The file of the run's weights that teaches: `best.pt`, `last.pt`, `epoch-001.pt`."""
        epoch = self.checkpoint
        return f"epoch-{epoch:03d}.pt" if isinstance(epoch, int) else f"{epoch}.pt"

    @property
    def cache_prefix(self) -> str:
        """What the folders of its cached logits begin with: 12 digits of its run's key."""
        return self.run.key[:12]


@dataclass(frozen=True, kw_only=True)
class ForeignTeacher:
    """A teacher from a file of another code base: its architecture, the sha256 of its weights, its inputs.

    Images are resized to `resize` pixels square, their centre of `size` pixels is taken, and it is normalised
    with `mean` and `std` of pixels in [0, 1], a value per channel or one for all. None: as its student sees
    them. Of a file that torchvision publishes, `digest` is the first eight digits, as in the file's name.
    """

    network: Name
    digest: WeightsDigest
    mean: tuple[Annotated[float, Meta(ge=0, le=1)], ...] | None = _later(None)
    std: tuple[Annotated[float, Meta(gt=0, le=1)], ...] | None = _later(None)
    size: Pixels | None = _later(None)
    resize: Pixels | None = _later(None)

    def __post_init__(self) -> None:
        schema.check(self, of="teacher", hint="mean and std are for pixels from 0 to 1: divide by 255.")
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise RequestError(
                f"the teacher's mean is {self.mean}, and its standard deviation {self.std}.",
                expected="both or neither, with as many values.",
            )
        if self.resize is not None and self.resize < (self.size or 0):
            raise RequestError(
                f"the teacher's images are resized to {self.resize} pixels, and {self.size} are cut out.",
                expected="--teacher-resize of at least --teacher-size, or without it.",
            )

    @property
    def published(self) -> bool:
        """Whether torchvision publishes the file, so that no path to it is needed."""
        return len(self.digest) == PUBLISHED_DIGITS

    @property
    def cache_prefix(self) -> str:
        """What the folders of its cached logits begin with."""
        return "foreign"

    @property
    def inputs(self) -> dict[str, Any]:
        """What it is given differently from its student: the fields that are set."""
        inputs = {name: getattr(self, name) for name in ("mean", "std", "size", "resize")}
        return {name: value for name, value in inputs.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a run is: equal specs have equal keys."""

    dataset: str
    student: str
    loss: Loss = field(default_factory=CrossEntropy)
    teacher: Teacher | ForeignTeacher | None = None
    recipe: Recipe = field(default_factory=Recipe)
    seed: int = 0
    trainer: int = TRAINER_VERSION  # an older one where a record of an earlier tfkd was read

    SCHEMA: ClassVar[int] = 1

    def __post_init__(self) -> None:
        schema.convert(self.seed, Count, of="seed")
        if self.loss.needs_teacher and self.teacher is None:
            raise RequestError(
                f"{self.loss.name} needs a teacher, none was given.", hint="add --teacher resnet18."
            )
        if not self.loss.needs_teacher and self.teacher is not None:
            raise RequestError(
                f"{self.loss.name} takes no teacher, {self.teacher.network} was given.",
                hint="leave out --teacher, or use --method kd.",
            )

    @cached_property
    def key(self) -> str:
        """sha256 of the canonical JSON of the resolved values, 64 hex digits."""
        return hashlib.sha256(canonical_json(self.to_json())).hexdigest()

    @property
    def outdated(self) -> str:
        """What sets a run of an older trainer version apart, in words; empty for one of this version."""
        if self.trainer == TRAINER_VERSION:
            return ""
        return f"made by trainer version {self.trainer}, this is version {TRAINER_VERSION}; not comparable"

    @property
    def parents(self) -> tuple[RunSpec, ...]:
        """The runs that must be done before this one."""
        return (self.teacher.run,) if isinstance(self.teacher, Teacher) else ()

    @property
    def lineage(self) -> tuple[RunSpec, ...]:
        """Its teachers, those of teachers before theirs, and itself."""
        return (*(each for parent in self.parents for each in parent.lineage), self)

    @property
    def teacher_by_epoch(self) -> bool:
        """Whether all seeds see the same views, so that teacher logits can be cached for all of them."""
        return self.teacher is not None and self.recipe.augment_stream == "shared"

    @cached_property
    def depth(self) -> int:
        """0 without a teacher that is a run, else one more than that run's."""
        return 1 + max((parent.depth for parent in self.parents), default=-1)

    @property
    def method(self) -> str:
        """What to call this run: a derived name, no part of its identity (a `re-kd` run is a `kd` run)."""
        teacher = self.teacher
        known = isinstance(teacher, Teacher) or (teacher is not None and teacher.published)
        return self.loss.run_name(
            snapshot=isinstance(teacher, Teacher) and isinstance(teacher.checkpoint, int),
            same_network=known and teacher is not None and teacher.network == self.student,
        )

    @property
    def folder(self) -> str:
        """`cifar100-resnet18-kd-from-mobilenetv2-s0-8d4c1185ab12`: readable, then unique."""
        parts = [self.dataset, self.student, self.method]
        if self.teacher is not None and self.method != "tf-self":
            parts.append(f"from-{self.teacher.network}")
            if isinstance(self.teacher, Teacher) and self.teacher.checkpoint != "best":
                epoch = self.teacher.checkpoint
                parts.append(f"e{epoch}" if isinstance(epoch, int) else epoch)
        return slug("-".join([*parts, f"s{self.seed}"]))[:180] + "-" + self.key[:12]

    def title(self, called: Mapping[str, str] | None = None, *, with_student: bool = True) -> str:
        """`cifar100 · resnet18 · kd from mobilenetv2 · s0`: for readers; other runs may have the same.

        `called`: data set → what to call it.
        """
        taught = ""
        if self.teacher is not None and self.method != "tf-self":
            taught = f" from {models.short(self.teacher.network)}"
        dataset = (called or {}).get(self.dataset, self.dataset)
        student = [models.short(self.student)] if with_student else []
        return " · ".join([dataset, *student, self.method + taught, f"s{self.seed}"])

    @property
    def snapshots(self) -> tuple[int, ...]:
        """Epochs whose weights this run keeps besides `best` and `last`: those of a baseline, else none."""
        return snapshot_epochs(self.recipe.epochs) if self.loss == CrossEntropy() else ()

    def to_json(self) -> dict[str, Any]:
        """All resolved values as JSON types; a teacher as its own full description."""
        return {"schema": self.SCHEMA, "trainer": self.trainer, **_plain(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunSpec:
        """The spec that `to_json` wrote, by this trainer version or an older one; else RequestError."""
        found = schema.convert(data, _Description, hint=NEWER)
        return _run_from(found, trainer=found.trainer, described=found.described)


def snapshot_epochs(epochs: int) -> tuple[int, ...]:
    """The epochs (from 1) a baseline of this length keeps: max(1, ceil(e·E/200)), duplicates merged."""
    return tuple(sorted({scale_epoch(each, epochs) for each in SNAPSHOT_EPOCHS}))


def scale_epoch(paper_epoch: int, epochs: int) -> int:
    """Epoch `paper_epoch` of the paper's 200, in a run of `epochs`."""
    return min(epochs, max(1, math.ceil(paper_epoch * epochs / PAPER_EPOCHS)))


def canonical_json(value: Any) -> bytes:
    """One value, one text: sorted keys, no spaces, ASCII, NaN refused."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode()


def slug(text: str) -> str:
    """`text` as a safe part of a file name."""
    return re.sub(r"[^a-z0-9.@_-]+", "-", text.lower()).strip("-.") or "x"


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return _plain_fields(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)  # 20 and 20.0 are one temperature, hence one key
    return value


@cache  # many runs share a recipe, a loss, a teacher
def _plain_fields(value: Any) -> dict[str, Any]:
    kind = {"kind": value.kind} if hasattr(value, "kind") else {}
    # A run and its teachers have one trainer version; `to_json` and the key name it once.
    values = {f.name: getattr(value, f.name) for f in fields(value) if f.name != "trainer"}
    before = {f.name: f.metadata["as_before"] for f in fields(value) if "as_before" in f.metadata}
    kept = {name: _plain(each) for name, each in values.items() if name not in before or each != before[name]}
    return {**kind, **kept}


class _Run(Record):
    """A run in JSON, as a student or inside its student's teacher."""

    dataset: Name
    student: Name
    loss: dict[str, Any]
    teacher: dict[str, Any] | None
    recipe: dict[str, Any]
    seed: Count


class _Description(_Run):
    """spec.json; `described` is its loss, where that is outside tfkd (see `methods.recorded`)."""

    schema: Literal[1]
    trainer: TrainerVersion
    key: str = ""
    described: dict[str, Any] | None = None


class _Teaching(Record):
    """A teacher in JSON."""

    run: _Run
    checkpoint: Literal["best", "last"] | Positive


def _run_from(data: _Run, *, trainer: int, described: Mapping[str, Any] | None = None) -> RunSpec:
    return RunSpec(
        dataset=data.dataset,
        student=data.student,
        loss=loss_from(data.loss, described, taught=data.teacher is not None, hint=NEWER),
        teacher=_teacher_from(data.teacher, trainer=trainer),
        recipe=schema.convert(data.recipe, Recipe, of="recipe", hint=NEWER),
        seed=data.seed,
        trainer=trainer,
    )


def _teacher_from(data: Mapping[str, Any] | None, *, trainer: int) -> Teacher | ForeignTeacher | None:
    if data is None:
        return None
    if "digest" in data:
        foreign: ForeignTeacher = schema.convert(data, ForeignTeacher, of="teacher", hint=NEWER)
        return foreign
    teaching = schema.convert(data, _Teaching, of="teacher", hint=NEWER)
    return Teacher(run=_run_from(teaching.run, trainer=trainer), checkpoint=teaching.checkpoint)
