"""What every loss is: a frozen dataclass that is called with logits and says everything else about itself.

A loss is pure: tensors in, named parts out; no state, no device. It is written with tensor methods, so
the equation is visible and this package needs no torch. Shapes: N images, K classes.

Wherever the released code and the printed equation differ, the difference is a *field*. Each class names
two settings of these fields, `released` and `printed`, in `FORMS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from tfkd_cli import schema
from tfkd_cli.errors import InvalidValueError, RequestError
from tfkd_cli.schema import Meta

if TYPE_CHECKING:
    from torch import Tensor

Form = Literal["released", "printed"]
Share = Annotated[float, Meta(ge=0, le=1)]
Factor = Annotated[float, Meta(gt=0, le=1e6)]
"""A factor on a loss or on a part of it."""
Temperature = Annotated[float, Meta(ge=0.1, le=1000)]
"""At 1,000 a KL term times τ² is exact to about 0.1 % in single precision, at 10,000 to about 1 %."""
LATE = math.inf
"""The epoch of a loss that is not told one: after any warm-up."""
CE = "cross-entropy part of the loss, not weighted"
KL = "KL part of the loss, summed over classes, not weighted; empty without one"


class LossParts(NamedTuple):
    """What a loss gives, all scalars: the total to minimise, and its unweighted parts for the record."""

    total: Tensor
    parts: Mapping[str, Tensor]


def parameter(meaning: str, *, default: Any, unit: str = "", sign: str = "", forms_differ: str = "") -> Any:
    """A documented field of a loss.

    `meaning` and `unit` describe the results column of its name, `sign` stands for the field in labels, and
    `forms_differ` says how the released code and the printed equation differ in it.
    """
    metadata = {"meaning": meaning, "unit": unit, "sign": sign, "forms_differ": forms_differ}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The base class of all losses.

    A subclass is a frozen dataclass whose fields decide its value; their annotations may hold ranges, which
    are checked (InvalidValueError). It sets `name`, `label` and `does`,
    and defines `__call__`, `equation` and `weights`; the rest has defaults. A class
    outside tfkd is used as `--method python:module:Class`, or by its name where its package registers it
    under the entry point group `tfkd.methods`. Its place in Python is then its identity in keys of runs.
    """

    kind: ClassVar[str]
    """What spec.json and keys call the loss: its name, or `python:module:Class` outside tfkd."""
    name: ClassVar[str]
    """What its runs are called: in folder names, and in the column `method`."""
    label: ClassVar[str]
    """The heading of its column in a table."""
    does: ClassVar[str]
    """What its student learns from, in a few words."""
    needs_teacher: ClassVar[bool] = False
    depends_on_epoch: ClassVar[bool] = True
    """Whether `epoch` changes the value. False lets a GPU replay one recorded step in all epochs."""
    reports: ClassVar[Mapping[str, str]] = {"ce": CE, "kl": KL}
    """Name of each part → what it is. Part `x` is the column `loss_x` of the epochs frame, in nats."""
    trials: ClassVar[Sequence[Mapping[str, float]]] = ()
    """The values of fields that `tfkd compare` may try besides the defaults, in this order."""
    FORMS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"released": {}, "printed": {}}
    missing: ClassVar[RequestError | None] = None
    """Why its class cannot be had, where only a record of it is (see `methods.recorded`)."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if not cls.__module__.startswith("tfkd_cli."):
            cls.kind = f"python:{cls.__module__}:{cls.__qualname__}"
        elif "name" in vars(cls):
            cls.kind = vars(cls).get("kind", cls.name)

    def __post_init__(self) -> None:
        schema.check(self, of="loss", hint="leave it out: `tfkd explain` shows what a setting has by itself.")

    def __call__(
        self, logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None, *, epoch: float = LATE
    ) -> LossParts:
        """The loss of a batch, averaged over images.

        `labels_N` are class indices (int64); `teacher_NK` the logits of a teacher, through which no gradient
        flows. `epoch` counts from 1.
        """
        raise NotImplementedError

    def equation(self) -> str:
        """The loss with its numbers, in the paper's notation; empty where the class does not say it."""
        return ""

    def weights(self, classes: int) -> Mapping[str, float]:
        """The factor of each term of `equation`, after any warm-up; divergences are *summed over classes*.

        Empty where the class does not say them.
        """
        return {}

    def epsilon(self, classes: int) -> float | None:
        """The ε of the label smoothing over all classes that this loss equals, its scale apart; or None."""
        return None

    def remark(self, classes: int) -> str:
        """What the loss amounts to, in words that follow `epsilon`."""
        return ""

    def check(self, classes: int) -> None:
        """InvalidValueError where these values make no sense for this number of classes."""

    def run_name(self, *, snapshot: bool, same_network: bool) -> str:
        """What a run is called; `snapshot`: an early epoch teaches, `same_network`: the student's own."""
        return self.name

    def signs(self) -> dict[str, Any]:
        """`{"α": 0.9, "τ": 4}`: the values that a label of the loss shows."""
        return {f.metadata["sign"]: getattr(self, f.name) for f in fields(self) if f.metadata.get("sign")}


def cross_entropy(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """H(q, p) with q one-hot, averaged over images; InvalidValueError unless labels are N class indices."""
    if labels_N.ndim != 1 or len(labels_N) != len(logits_NK) or str(labels_N.dtype) != "torch.int64":
        raise InvalidValueError(
            f"labels of shape {tuple(labels_N.shape)} and type {labels_N.dtype}.",
            expected=f"class indices of shape ({len(logits_NK)},) and type torch.int64.",
            hint="other integers: labels.long(). Soft and mixed labels (mixup, CutMix) have no loss here.",
        )
    return -logits_NK.log_softmax(1).gather(1, labels_N[:, None]).mean()


def kl_divergence(target_NK: Tensor, log_p_NK: Tensor) -> Tensor:
    """D_KL(target ‖ p), summed over classes, averaged over images; no gradient reaches the target."""
    target = target_NK.detach()
    # 0·log 0 = 0: xlogy gives that, and leaves tiny probabilities exact.
    return (target.xlogy(target) - target * log_p_NK).sum(1).mean()


def teacher_of(teacher_NK: Tensor | None) -> Tensor:
    """The teacher's logits without their gradient; InvalidValueError where none were given."""
    if teacher_NK is None:
        raise InvalidValueError(
            "a loss that needs a teacher was called without a teacher's logits.",
            expected="teacher logits of shape (N, K).",
            hint="pass teacher_NK.",
        )
    return teacher_NK.detach()
