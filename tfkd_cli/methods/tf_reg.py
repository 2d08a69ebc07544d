"""Tf-KD_reg: distillation from a hand-made virtual teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tfkd_cli.errors import InvalidValueError
from tfkd_cli.methods.distillation import T_SQUARED, TEMPERATURE, WeightedKL
from tfkd_cli.methods.loss import LATE, LossParts, Temperature, cross_entropy, kl_divergence, parameter
from tfkd_cli.schema import Meta

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TfReg(WeightedKL):
    """Tf-KD_reg: a hand-made teacher p^d, `correct_prob` on the label, the rest even (*paper Eq. 8*).

    `printed` is *paper Eq. 9*; how p^d is softened there is not defined: ours is p^(1/τ), normalised
    (assumed). `released` is `loss_kd_regularization`: softmax of the *probabilities* over τ, the
    student not softened, no τ², averaged over batch and classes, times a
    `multiplier` that the released commands give for each network (hyperparameters.toml).
    """

    name = "tf-reg"
    label = "Tf-KD_reg"
    does = "a hand-made virtual teacher"
    # Assumed: these values bracket what the literature uses.
    trials = tuple(
        {"alpha": alpha, "temperature": temperature}
        for alpha, temperature in (
            *((0.1, 20.0), (0.3, 20.0), (0.1, 2.0), (0.5, 20.0)),
            *((0.05, 20.0), (0.3, 2.0), (0.2, 5.0), (0.5, 2.0)),
        )
    )
    FORMS: ClassVar = {
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

    temperature: Temperature = parameter(default=40.0, **TEMPERATURE)
    correct_prob: Annotated[float, Meta(gt=0, lt=1)] = parameter(
        "of the label in Tf-KD_reg's virtual teacher", default=0.99, unit="probability"
    )
    t_squared: bool = parameter(default=False, **T_SQUARED)
    soften_student: bool = parameter(
        "whether Tf-KD_reg divides the student's logits by τ",
        default=False,
        unit="true, false",
        forms_differ="the released code softens the teacher alone, the paper both",
    )
    softening: Literal["softmax", "power"] = parameter(
        "how Tf-KD_reg softens its virtual teacher",
        default="softmax",
        unit="softmax, power",
        forms_differ="the released form takes softmax(p^d/τ), the paper leaves it open (ours: p^(1/τ))",
    )

    def check(self, classes: int) -> None:
        """Below 1/K, the label would get less than every other class."""
        if self.correct_prob < 1 / classes:
            raise InvalidValueError(
                f"correct_prob is {self.correct_prob:g} on {classes} classes: every wrong class would get "
                "more of the target than the label.",
                expected=f"correct_prob of at least 1/K = {1 / classes:.4g}, where the target is uniform.",
                hint="the paper uses 0.99.",
            )

    def __call__(
        self, logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None, *, epoch: float = LATE
    ) -> LossParts:
        self.check(logits_NK.shape[1])
        ce = cross_entropy(logits_NK, labels_N)
        student_temperature = self.temperature if self.soften_student else 1.0
        kl = kl_divergence(
            self.virtual_teacher(logits_NK, labels_N), (logits_NK / student_temperature).log_softmax(1)
        )
        return self._sum(ce, kl, classes=logits_NK.shape[1])

    def virtual_teacher(self, logits_NK: Tensor, labels_N: Tensor) -> Tensor:
        """p^d_τ, shape (N, K), in the dtype and on the device of the logits."""
        wrong = self._wrong(logits_NK.shape[1])
        p_NK = logits_NK.new_full(logits_NK.shape, wrong).scatter(1, labels_N[:, None], self.correct_prob)
        softened_NK: Tensor = self._exponent(p_NK, lambda each: each.log()).softmax(1)
        return softened_NK

    def virtual_probabilities(self, classes: int) -> tuple[float, float]:
        """p^d_τ as two numbers: the probability of the label, and of each other class."""
        exponents = [self._exponent(p, math.log) for p in (self.correct_prob, self._wrong(classes))]
        right, wrong = map(math.exp, exponents)
        total = right + (classes - 1) * wrong
        return right / total, wrong / total

    def _exponent(self, p: Any, log: Callable[[Any], Any]) -> Any:
        """What p^d_τ is the softmax of: p/τ, or (log p)/τ, whose softmax is p^(1/τ) normalised."""
        return (p if self.softening == "softmax" else log(p)) / self.temperature

    def _wrong(self, classes: int) -> float:
        return (1 - self.correct_prob) / (classes - 1)

    def divergence(self) -> str:
        t = f"{self.temperature:g}"
        target = f"softmax(p^d/{t})" if self.softening == "softmax" else f"p^d_{t}"
        return f"D_KL({target} ‖ {f'p_{t}' if self.soften_student else 'p'})"

    @property
    def _softens(self) -> bool:
        return self.soften_student and self.temperature != 1

    def epsilon(self, classes: int) -> float | None:
        if self._softens:
            return None
        weights = self.weights(classes)
        share = weights["kl"] / sum(weights.values())
        return share * self.virtual_probabilities(classes)[1] * classes

    def remark(self, classes: int) -> str:
        if self._softens:
            return "the student is softened too, which no label smoothing does"
        right, wrong = self.virtual_probabilities(classes)
        return f"the virtual teacher gives {right:.4f} to the label and {wrong:.5f} to each other class"
