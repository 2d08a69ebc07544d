"""The losses of the paper, one frozen dataclass each, and the methods that use them.

A loss is pure: tensors in, named parts out; no state, no device. It is written with tensor methods, so
the equation is visible and this module needs no torch. Shapes: N images, K classes.

Wherever the released code and the printed equation differ, the difference is a *field*. Each class names
two settings of these fields, `released` and `printed`, in `FORMS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from tfkd_cli.errors import RequestError, canonical

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["elements", "batchmean"]
Form = Literal["released", "printed"]


class LossParts(NamedTuple):
    """What a loss gives: the total to minimise, and its unweighted parts for the record (all scalars)."""

    total: Tensor
    ce: Tensor
    kl: Tensor | None = None


class Weights(NamedTuple):
    """What a loss weighs: cross-entropy, and the KL term *summed over classes*, averaged over images."""

    ce: float
    kl: float


def cross_entropy(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """H(q, p) with q one-hot, averaged over images."""
    return -logits_NK.log_softmax(1).gather(1, labels_N[:, None]).mean()


def kl_divergence(target_NK: Tensor, log_p_NK: Tensor) -> Tensor:
    """D_KL(target ‖ p), summed over classes, averaged over images; no gradient reaches the target."""
    target = target_NK.detach()
    # 0·log 0 = 0: xlogy gives that, and leaves tiny probabilities exact.
    return (target.xlogy(target) - target * log_p_NK).sum(1).mean()


def _check(
    *, alpha: float = 0.0, temperature: float = 1.0, multiplier: float = 1.0, scale: float = 1.0
) -> None:
    if not 0 <= alpha <= 1:
        raise RequestError(
            f"alpha is {alpha}.",
            expected="alpha is a weight: 0 ≤ alpha ≤ 1.",
            hint="--alpha 0.1 trusts the labels, --alpha 0.95 the teacher.",
        )
    if not (temperature > 0 and math.isfinite(temperature)):
        raise RequestError(
            f"temperature is {temperature}.",
            expected="a finite temperature above 0.",
            hint="the paper uses 6 to 40, plain cross-entropy is 1.",
        )
    for name, value in (("multiplier", multiplier), ("scale", scale)):
        if not (value > 0 and math.isfinite(value)):
            raise RequestError(
                f"{name} is {value}.", expected=f"a finite {name} above 0.", hint=f"leave loss.{name} at 1."
            )


def _choose(loss: object, **choices: tuple[str, ...]) -> None:
    for name, allowed in choices.items():
        if getattr(loss, name) not in allowed:
            raise RequestError(
                f'loss.{name} is "{getattr(loss, name)}".',
                expected=f"one of {', '.join(allowed)}.",
                hint="`--form printed` and `--form released` set it as the paper and its code do.",
            )


@dataclass(frozen=True, kw_only=True)
class CrossEntropy:
    """`scale`·H(q, p): the baseline, and with `scale` < 1 the control nobody ran (paper.md c.2, 4)."""

    kind: ClassVar[str] = "cross-entropy"
    needs_teacher: ClassVar[bool] = False
    FORMS: ClassVar[Mapping[str, Mapping[str, Any]]] = {"released": {}, "printed": {}}

    scale: float = 1.0

    def __post_init__(self) -> None:
        _check(scale=self.scale)

    def __call__(self, logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None) -> LossParts:
        ce = cross_entropy(logits_NK, labels_N)
        return LossParts(self.scale * ce, ce)

    def weights(self, classes: int) -> Weights:
        """The weights of CE and of the KL term."""
        return Weights(self.scale, 0.0)


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing:
    """Label smoothing with weight `alpha` (the ε of the literature).

    `spread = "others"`: 1-α on the label, α/(K-1) on each other class (*released my_loss_function.py*).
    `spread = "all"`: (1-α)·H(q, p) + α·D_KL(u ‖ p), u uniform over all K classes (*paper Eq. 3*).
    """

    kind: ClassVar[str] = "label-smoothing"
    needs_teacher: ClassVar[bool] = False
    FORMS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released": {"spread": "others"},
        "printed": {"spread": "all"},
    }

    alpha: float = 0.1
    spread: Literal["others", "all"] = "others"
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check(alpha=self.alpha, scale=self.scale)
        _choose(self, spread=("others", "all"))

    def __call__(self, logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None) -> LossParts:
        classes = logits_NK.shape[1]
        ce = cross_entropy(logits_NK, labels_N)
        log_p_NK = logits_NK.log_softmax(1)
        if self.spread == "all":
            uniform_NK = log_p_NK.new_full(log_p_NK.shape, 1 / classes)
            kl = kl_divergence(uniform_NK, log_p_NK)
            return LossParts(self.scale * ((1 - self.alpha) * ce + self.alpha * kl), ce, kl)
        # H(u over the other classes, p): as released, the constant entropy log(K-1) is part of the value.
        others = (-log_p_NK.sum(1).mean() - ce) / (classes - 1)
        total = self.scale * ((1 - self.alpha) * ce + self.alpha * others)
        return LossParts(total, ce, others - math.log(classes - 1))

    def weights(self, classes: int) -> Weights:
        """The weights of CE and of D_KL(u ‖ p), u uniform over all K classes, however it is spread."""
        if self.spread == "all":
            return Weights(self.scale * (1 - self.alpha), self.scale * self.alpha)
        on_uniform = (
            self.alpha * classes / (classes - 1)
        )  # α/(K-1) on the others = K/(K-1)·α·u minus a share of q
        return Weights(self.scale * (1 - on_uniform), self.scale * on_uniform)


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Knowledge distillation: (1-α)·CE + α·m·[τ²]·D_KL(p^t_τ ‖ p_τ), KL summed or averaged over classes.

    `printed` is *paper Eq. 4 and 7*; `released` is `loss_kd` and `loss_kd_self` of *released
    my_loss_function.py*: with τ², and averaged over batch *and* classes, so 1/K of the printed term.
    """

    kind: ClassVar[str] = "distillation"
    needs_teacher: ClassVar[bool] = True
    FORMS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released": {"reduction": "elements", "t_squared": True},
        "printed": {"reduction": "batchmean", "t_squared": False, "multiplier": 1.0},
    }

    alpha: float = 0.95
    temperature: float = 20.0
    multiplier: float = 1.0
    reduction: Reduction = "elements"
    t_squared: bool = True

    def __post_init__(self) -> None:
        _check(alpha=self.alpha, temperature=self.temperature, multiplier=self.multiplier)
        _choose(self, reduction=("elements", "batchmean"))

    def __call__(self, logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None) -> LossParts:
        if teacher_NK is None:
            raise RequestError(
                "distillation was called without a teacher's logits.",
                expected="teacher logits of shape (N, K).",
                hint="pass teacher_NK.",
            )
        ce = cross_entropy(logits_NK, labels_N)
        target_NK = (teacher_NK.detach() / self.temperature).softmax(1)
        kl = kl_divergence(target_NK, (logits_NK / self.temperature).log_softmax(1))
        weight = self.weights(logits_NK.shape[1])
        return LossParts(weight.ce * ce + weight.kl * kl, ce, kl)

    def weights(self, classes: int) -> Weights:
        """The weights of CE and of D_KL(p^t_τ ‖ p_τ) summed over classes (τ² included)."""
        return Weights(1 - self.alpha, _kl_weight(self, classes))


@dataclass(frozen=True, kw_only=True)
class TfReg:
    """Tf-KD_reg: a hand-made teacher p^d, `correct_prob` on the label, the rest even (*paper Eq. 8*).

    `printed` is *paper Eq. 9*; how p^d is softened there is not defined: ours is p^(1/τ), normalised
    (assumed). `released` is `loss_kd_regularization`: softmax of the *probabilities* over τ, the
    student not softened, no τ², averaged over batch and classes.
    """

    kind: ClassVar[str] = "tf-reg"
    needs_teacher: ClassVar[bool] = False
    FORMS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released": {
            "reduction": "elements",
            "t_squared": False,
            "soften_student": False,
            "softening": "softmax",
        },
        "printed": {
            "reduction": "batchmean",
            "t_squared": False,
            "soften_student": True,
            "softening": "power",
            "multiplier": 1.0,
        },
    }

    alpha: float = 0.95
    temperature: float = 40.0
    multiplier: float = 1.0
    correct_prob: float = 0.99
    reduction: Reduction = "elements"
    t_squared: bool = False
    soften_student: bool = False
    softening: Literal["softmax", "power"] = "softmax"

    def __post_init__(self) -> None:
        _check(alpha=self.alpha, temperature=self.temperature, multiplier=self.multiplier)
        _choose(self, reduction=("elements", "batchmean"))
        _choose(self, softening=("softmax", "power"))
        if not 0 < self.correct_prob < 1:
            raise RequestError(
                f"correct_prob is {self.correct_prob}.",
                expected="a probability between 0 and 1.",
                hint="the paper uses 0.99.",
            )

    def __call__(self, logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None) -> LossParts:
        ce = cross_entropy(logits_NK, labels_N)
        student_temperature = self.temperature if self.soften_student else 1.0
        kl = kl_divergence(
            self.virtual_teacher(logits_NK, labels_N), (logits_NK / student_temperature).log_softmax(1)
        )
        weight = self.weights(logits_NK.shape[1])
        return LossParts(weight.ce * ce + weight.kl * kl, ce, kl)

    def virtual_teacher(self, logits_NK: Tensor, labels_N: Tensor) -> Tensor:
        """p^d_τ, shape (N, K), in the dtype and on the device of the logits."""
        wrong = (1 - self.correct_prob) / (logits_NK.shape[1] - 1)
        p_NK = logits_NK.new_full(logits_NK.shape, wrong).scatter(1, labels_N[:, None], self.correct_prob)
        if self.softening == "softmax":
            return (p_NK / self.temperature).softmax(1)
        return (p_NK.log() / self.temperature).softmax(1)  # p^(1/τ), normalised

    def weights(self, classes: int) -> Weights:
        """The weights of CE and of D_KL(p^d_τ ‖ p) summed over classes."""
        return Weights(1 - self.alpha, _kl_weight(self, classes))


Loss = CrossEntropy | LabelSmoothing | Distillation | TfReg
LOSSES: Mapping[str, type[Loss]] = {
    each.kind: each for each in (CrossEntropy, LabelSmoothing, Distillation, TfReg)
}


def _kl_weight(loss: Distillation | TfReg, classes: int) -> float:
    weight = loss.alpha * loss.multiplier
    if loss.t_squared:
        weight *= loss.temperature**2
    return weight / classes if loss.reduction == "elements" else weight


@dataclass(frozen=True, kw_only=True)
class Method:
    """A name that sets a loss and chooses a teacher; only the loss and the teacher enter a run's key."""

    name: str
    label: str
    loss: type[Loss]
    teacher: Literal["none", "given", "self"]
    does: str


METHODS: Mapping[str, Method] = {
    each.name: each
    for each in (
        Method(name="baseline", label="Baseline", loss=CrossEntropy, teacher="none", does="cross-entropy"),
        Method(name="lsr", label="LSR", loss=LabelSmoothing, teacher="none", does="label smoothing"),
        Method(name="kd", label="Normal KD", loss=Distillation, teacher="given", does="a trained teacher"),
        Method(
            name="re-kd",
            label="Re-KD",
            loss=Distillation,
            teacher="given",
            does="a smaller network teaches a larger one",
        ),
        Method(
            name="de-kd",
            label="De-KD",
            loss=Distillation,
            teacher="given",
            does="a badly trained teacher (a snapshot)",
        ),
        Method(
            name="tf-self",
            label="Tf-KD_self",
            loss=Distillation,
            teacher="self",
            does="the student's own baseline teaches it",
        ),
        Method(
            name="tf-reg", label="Tf-KD_reg", loss=TfReg, teacher="none", does="a hand-made virtual teacher"
        ),
    )
}


def method(name: str) -> Method:
    """The method called `name`; RequestError with the nearest known name."""
    return METHODS[canonical(name, METHODS, kind="method")]
