"""What is timed, and the ratios to keep: images per second of tfkd (`--fast`) ÷ the conventional loop's.

The ratios to keep are those of a CPU with matrix units for bf16; None: no ratio was set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tfkd_cli.methods import METHODS, Loss
from tfkd_cli.spec import ForeignTeacher, Recipe, RunSpec

GRID = "grid"
BATCH = 128
AUGMENT = "crop-flip-rotate15"
LR = 0.01  # images and teachers may be random: small, so that the loss stays finite
NO_WEIGHTS = "0" * 64  # a teacher's weights are random here; the cost is the same


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A student and what it learns from; `steps` of the conventional loop take some ten seconds.

    With a teacher there are at least 8, which is four of its batches.
    """

    name: str
    student: str
    steps: int
    at_least: float | None = None
    method: str = "baseline"
    teacher: str | None = None
    at_least_cached: float | None = None

    @property
    def warmup(self) -> int:
        """The first steps of a block, which do not count."""
        return max(2, self.steps // 6)

    def spec(self, *, dataset: str, fast: bool) -> RunSpec:
        """The run as tfkd describes it."""
        recipe = Recipe(epochs=100_000, batch_size=BATCH, lr=LR, milestones=(), augment=AUGMENT)
        teacher = ForeignTeacher(network=self.teacher, digest=NO_WEIGHTS) if self.teacher else None
        return RunSpec(
            dataset=dataset,
            student=self.student,
            loss=loss_of(self.method),
            teacher=teacher,
            recipe=recipe.fast() if fast else recipe,
        )


def loss_of(method: str) -> Loss:
    """The loss of a method at its defaults (α 0.95, as released), the same on both sides."""
    return METHODS[method].loss()


WORKLOADS: Mapping[str, Workload] = {
    each.name: each
    for each in (
        Workload(name="plain-cnn", student="plain-cnn", steps=40, at_least=3.0),
        Workload(name="mobilenetv2", student="mobilenetv2", steps=8, at_least=1.8),
        Workload(name="shufflenetv2", student="shufflenetv2", steps=12, at_least=1.4),
        Workload(name="resnet18", student="resnet18", steps=5, at_least=2.0),
        Workload(name="tf-reg-mobilenetv2", student="mobilenetv2", method="tf-reg", steps=8),
        Workload(
            name="tf-self-mobilenetv2", student="mobilenetv2", method="tf-self", teacher="mobilenetv2",
            steps=8,
        ),
        Workload(
            name="kd-resnet18-plain-cnn", student="plain-cnn", method="kd", teacher="resnet18",
            steps=14, at_least=3.0, at_least_cached=15,
        ),
        Workload(
            name="kd-resnet18-mobilenetv2", student="mobilenetv2", method="kd", teacher="resnet18",
            steps=8, at_least=2.3, at_least_cached=3.5,
        ),
        Workload(
            name="kd-densenet121-mobilenetv2", student="mobilenetv2", method="kd", teacher="densenet121",
            steps=8, at_least=2.6, at_least_cached=4.5,
        ),
        Workload(
            name="re-kd-mobilenetv2-resnet18", student="resnet18", method="re-kd", teacher="mobilenetv2",
            steps=8,
        ),
    )
}  # fmt: skip

GRID_AT_LEAST = 3.0
NAMES = (*WORKLOADS, GRID)
