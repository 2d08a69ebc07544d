"""Cross-entropy and label smoothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tfkd_cli.errors import InvalidValueError
from tfkd_cli.methods.loss import (
    CE,
    LATE,
    Factor,
    Loss,
    LossParts,
    Share,
    cross_entropy,
    kl_divergence,
    parameter,
)

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Loss):
    """`scale`·H(q, p): the baseline, and with `scale` < 1 a control for the smaller loss of distillation."""

    kind = "cross-entropy"
    name = "baseline"
    label = "Baseline"
    does = "cross-entropy"
    depends_on_epoch = False
    reports: ClassVar[Mapping[str, str]] = {"ce": CE}

    scale: Factor = parameter("factor on the whole loss (the field `scale`)", default=1.0, sign="×")

    def __call__(
        self, logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None, *, epoch: float = LATE
    ) -> LossParts:
        ce = cross_entropy(logits_NK, labels_N)
        return LossParts(self.scale * ce, {"ce": ce})

    def equation(self) -> str:
        return "H(q, p)" if self.scale == 1 else f"{self.scale:g}·H(q, p)"

    def weights(self, classes: int) -> dict[str, float]:
        return {"ce": self.scale}

    def epsilon(self, classes: int) -> float:
        return 0.0

    def remark(self, classes: int) -> str:
        return "plain cross-entropy" if self.scale == 1 else f"{self.scale:g} times cross-entropy"

    def run_name(self, *, snapshot: bool, same_network: bool) -> str:
        return self.name if self.scale == 1 else "scaled-ce"


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Loss):
    """Label smoothing with weight `alpha` (the ε of the literature).

    `spread = "others"`: 1-α on the label, α/(K-1) on each other class (*released my_loss_function.py*).
    `spread = "all"`: (1-α)·H(q, p) + α·D_KL(u ‖ p), u uniform over all K classes (*paper Eq. 3*). This is
    `F.cross_entropy(…, label_smoothing=α)` less the constant α·log K, so the gradients are equal.
    """

    kind = "label-smoothing"
    name = "lsr"
    label = "LSR"
    does = "label smoothing"
    depends_on_epoch = False
    # Assumed: these values bracket what the literature uses.
    trials = tuple({"alpha": each} for each in (0.1, 0.05, 0.2, 0.3, 0.02, 0.15, 0.4, 0.01))
    FORMS: ClassVar = {"released": {"spread": "others"}, "printed": {"spread": "all"}}

    alpha: Share = parameter(
        "weight of the soft targets (the ε of label smoothing)", default=0.1, unit="0 to 1", sign="α"
    )
    spread: Literal["others", "all"] = parameter(
        "the classes that label smoothing spreads α over",
        default="others",
        unit="others, all",
        forms_differ="the released code spreads ε over the other classes, the paper over all",
    )
    scale: Factor = parameter("factor on the whole loss (the field `scale`)", default=1.0, sign="×")

    def check(self, classes: int) -> None:
        """Spread over the others, α > (K-1)/K would give the label less than every other class."""
        most = (classes - 1) / classes
        if self.spread == "others" and self.alpha > most:
            raise InvalidValueError(
                f"alpha is {self.alpha:g} on {classes} classes: every wrong class would get more of the "
                "target than the label.",
                expected=f"alpha of at most (K-1)/K = {most:.4g}, where the target is uniform.",
                hint="--alpha 0.1 is what the paper uses.",
            )

    def __call__(
        self, logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None, *, epoch: float = LATE
    ) -> LossParts:
        classes = logits_NK.shape[1]
        self.check(classes)
        ce = cross_entropy(logits_NK, labels_N)
        log_p_NK = logits_NK.log_softmax(1)
        if self.spread == "all":
            uniform_NK = log_p_NK.new_full(log_p_NK.shape, 1 / classes)
            kl = kl_divergence(uniform_NK, log_p_NK)
            return LossParts(self.scale * ((1 - self.alpha) * ce + self.alpha * kl), {"ce": ce, "kl": kl})
        # H(u over the other classes, p): as released, the constant entropy log(K-1) is part of the value.
        others = (-log_p_NK.sum(1).mean() - ce) / (classes - 1)
        total = self.scale * ((1 - self.alpha) * ce + self.alpha * others)
        return LossParts(total, {"ce": ce, "kl": others - math.log(classes - 1)})

    def equation(self) -> str:
        smooth = "D_KL(u ‖ p)" if self.spread == "all" else "H(u without the label, p)"
        whole = f"{1 - self.alpha:g}·H(q, p) + {self.alpha:g}·{smooth}"
        return whole if self.scale == 1 else f"{self.scale:g}·[{whole}]"

    def weights(self, classes: int) -> dict[str, float]:
        """The weights of CE and of D_KL(u ‖ p), u uniform over all K classes, however it is spread."""
        share = self.epsilon(classes)
        return {"ce": self.scale * (1 - share), "kl": self.scale * share}

    def epsilon(self, classes: int) -> float:
        """α/(K-1) on each of the others is K/(K-1)·α·u less a share of q."""
        return self.alpha if self.spread == "all" else self.alpha * classes / (classes - 1)

    def remark(self, classes: int) -> str:
        if self.spread == "all":
            return "ε is spread over all classes"
        return (
            f"as α = {self.alpha:g} spread over the other classes, ε = {self.epsilon(classes):.3f} over all"
        )
