"""Decoupled Knowledge Distillation (Zhao et al., CVPR 2022, Eq. 7) as a method outside tfkd.

tfkd run --student resnet8 --teacher resnet14 --dataset digits --method python:decoupled_kd:DecoupledKD
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from tfkd_cli.methods import LATE, Loss, LossParts, Meta, Temperature, cross_entropy, parameter

if TYPE_CHECKING:  # `tfkd status` then needs no torch
    from torch import Tensor

Weight = Annotated[float, Meta(ge=0, le=1000)]  # a factor, which may be larger than 1
Epochs = Annotated[int, Meta(ge=1, le=1_000_000)]  # 1: no warm-up, since epochs count from 1


@dataclass(frozen=True, kw_only=True)
class DecoupledKD(Loss):
    """CE + w·τ²·(α·TCKD + β·NCKD), w rising linearly to 1 over the first epochs.

    TCKD is the divergence between (label, rest) probabilities, NCKD that between the probabilities of the
    other classes given that the label is not meant; both are at temperature τ and summed over classes.
    """

    name = "dkd"
    label = "DKD"
    does = "a trained teacher: its target and its non-target classes, weighed apart"
    needs_teacher = True
    reports: ClassVar = {
        "ce": "cross-entropy",
        "tckd": "divergence of the target class, not weighted",
        "nckd": "divergence among the other classes, not weighted",
    }
    trials = tuple({"beta": each} for each in (8.0, 2.0, 4.0, 1.0, 6.0, 0.5, 10.0, 0.0))

    alpha: Weight = parameter("weight of the target class's divergence", default=1.0, sign="α")
    beta: Weight = parameter("weight of the other classes' divergence", default=8.0, sign="β")
    temperature: Temperature = parameter("τ", default=4.0, sign="τ")
    warmup: Epochs = parameter("epochs until both divergences have their whole weight", default=20)

    def __call__(
        self, logits_NK: Tensor, labels_N: Tensor, teacher_NK: Tensor | None = None, *, epoch: float = LATE
    ) -> LossParts:
        assert teacher_NK is not None
        ce = cross_entropy(logits_NK, labels_N)
        label_N1 = labels_N[:, None]

        def split(z_NK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """The logarithms of q(label), of q(not label), and of q(class | not label), shape (N, K)."""
            log_q_NK = (z_NK / self.temperature).log_softmax(1)
            # The label leaves the softmax by a very small logit, as in the authors' code.
            others_NK = log_q_NK.scatter_add(1, label_N1, log_q_NK.new_full(label_N1.shape, -1000.0))
            rest_N = others_NK.logsumexp(1)
            return log_q_NK.gather(1, label_N1)[:, 0], rest_N, others_NK - rest_N[:, None]

        (t, not_t, t_others), (p, not_p, p_others) = split(teacher_NK.detach()), split(logits_NK)
        tckd = (t.exp() * (t - p) + not_t.exp() * (not_t - not_p)).mean()
        nckd = (t_others.exp() * (t_others - p_others)).sum(1).mean()
        weight = min(epoch / self.warmup, 1.0) * self.temperature**2
        total = ce + weight * (self.alpha * tckd + self.beta * nckd)
        return LossParts(total, {"ce": ce, "tckd": tckd, "nckd": nckd})

    def equation(self) -> str:
        t = f"{self.temperature:g}"
        return f"H(q, p) + {t}²·[{self.alpha:g}·TCKD_{t} + {self.beta:g}·NCKD_{t}]"

    def weights(self, classes: int) -> dict[str, float]:
        scale = self.temperature**2
        return {"ce": 1.0, "tckd": scale * self.alpha, "nckd": scale * self.beta}
