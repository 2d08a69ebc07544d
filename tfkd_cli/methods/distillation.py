"""Knowledge distillation, from another network or from the student's own baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from tfkd_cli.methods.loss import (
    LATE,
    Factor,
    Loss,
    LossParts,
    Share,
    Temperature,
    cross_entropy,
    kl_divergence,
    parameter,
    teacher_of,
)

if TYPE_CHECKING:
    from torch import Tensor

Reduction = Literal["elements", "batchmean"]
TEMPERATURE: Mapping[str, str] = {
    "meaning": "τ",
    "sign": "τ",
    "forms_differ": "ShuffleNetV2's released τ in Tf-KD_reg is 10, and Eq. 9 asks for τ ≥ 20",
}
T_SQUARED: Mapping[str, str] = {
    "meaning": "whether the KL term is multiplied by τ²",
    "unit": "true, false",
    "forms_differ": "τ² is in the released code of Normal KD and Tf-KD_self and not in the paper",
}


@dataclass(frozen=True, kw_only=True)
class WeightedKL(Loss):
    """The weights that Distillation and TfReg share: (1-α)·CE + α·m·[τ²]·D_KL, [/K]."""

    alpha: Share = parameter(
        "weight of the soft targets (for lsr: its ε)", default=0.95, unit="0 to 1", sign="α"
    )
    temperature: Temperature = parameter(default=20.0, **TEMPERATURE)
    multiplier: Factor = parameter(
        "factor on the KL term",
        default=1.0,
        forms_differ="the released code multiplies the KL term of some networks, the paper does not",
    )
    reduction: Reduction = parameter(
        "whether the KL term is a mean over classes or their sum",
        default="elements",
        unit="elements, batchmean",
        forms_differ="the released form averages KL over batch and classes: 1/K of the printed sum over "
        "classes",
    )
    t_squared: bool = parameter(default=True, **T_SQUARED)

    depends_on_epoch = False

    def weights(self, classes: int) -> dict[str, float]:
        """The weights of CE and of D_KL summed over classes, τ² included."""
        weight = self.alpha * self.multiplier
        if self.t_squared:
            weight *= self.temperature**2
        return {
            "ce": 1 - self.alpha,
            "kl": weight / classes if self.reduction == "elements" else weight,
        }

    def equation(self) -> str:
        factors = [f"{self.alpha:g}"]
        if self.multiplier != 1:
            factors.append(f"{self.multiplier:g}")
        if self.t_squared:
            factors.append(f"{self.temperature:g}²")
        mean = "/K" if self.reduction == "elements" else ""
        return f"{1 - self.alpha:g}·H(q, p) + {'·'.join(factors)}{mean}·{self.divergence()}"

    def divergence(self) -> str:
        """The KL term in the paper's notation."""
        raise NotImplementedError

    def _sum(self, ce: Tensor, kl: Tensor, *, classes: int) -> LossParts:
        weight = self.weights(classes)
        return LossParts(weight["ce"] * ce + weight["kl"] * kl, {"ce": ce, "kl": kl})


@dataclass(frozen=True, kw_only=True)
class Distillation(WeightedKL):
    """Knowledge distillation: (1-α)·CE + α·m·[τ²]·D_KL(p^t_τ ‖ p_τ), KL summed or averaged over classes.

    `printed` is *paper Eq. 4 and 7*; `released` is `loss_kd` and `loss_kd_self` of *released
    my_loss_function.py*: with τ², and averaged over batch *and* classes, so 1/K of the printed term.
    """

    kind = "distillation"
    name = "kd"
    label = "Normal KD"
    does = "a trained teacher"
    needs_teacher = True
    # Assumed: these values bracket what the literature uses.
    trials = tuple(
        {"alpha": alpha, "temperature": temperature}
        for alpha, temperature in (
            *((0.6, 20.0), (0.5, 4.0), (0.9, 4.0), (0.3, 4.0)),
            *((0.9, 20.0), (0.3, 20.0), (0.5, 2.0), (0.7, 8.0)),
        )
    )
    FORMS: ClassVar = {
        "released": {"reduction": "elements", "t_squared": True},
        "printed": {"reduction": "batchmean", "t_squared": False, "multiplier": 1.0},
    }

    def __call__(
        self, logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None, *, epoch: float = LATE
    ) -> LossParts:
        target_NK = (teacher_of(teacher_NK) / self.temperature).softmax(1)
        ce = cross_entropy(logits_NK, labels_N)
        kl = kl_divergence(target_NK, (logits_NK / self.temperature).log_softmax(1))
        return self._sum(ce, kl, classes=logits_NK.shape[1])

    def divergence(self) -> str:
        return f"D_KL(p^t_{self.temperature:g} ‖ p_{self.temperature:g})"

    def remark(self, classes: int) -> str:
        return "the target is a teacher's; with a uniform teacher at τ = 1 it would be label smoothing"

    def run_name(self, *, snapshot: bool, same_network: bool) -> str:
        return "de-kd" if snapshot else "tf-self" if same_network else self.name
