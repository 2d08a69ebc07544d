"""What a setting's loss really is: weights, scale, equivalent label smoothing, released against printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from paper_tables import hyperparameters
from paper_tables.claim_toml import Variant
from paper_tables.spec import Setting
from tfkd_cli.methods import LOSSES, CrossEntropy, Distillation, Form, LabelSmoothing, Loss, TfReg
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import RunSpec

FOLLOWS = "follows from the number of epochs"
FORMS: tuple[Form, ...] = ("released", "printed")


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """A loss as numbers. `kl` weighs the KL term summed over classes.

    `epsilon` is the weight of the uniform distribution; None where the target is a teacher's.
    """

    equation: str
    ce: float
    kl: float
    scale: float
    epsilon: float | None
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One setting, both forms, where each value comes from, and what other suites call the same."""

    setting: Setting
    classes: int
    asked: Form
    forms: Mapping[str, Arithmetic]
    values: tuple[tuple[str, Any, str, str], ...]  # field, value, where from, note
    differing: tuple[str, ...]  # fields of the loss in which the two forms of this setting differ
    variants: tuple[tuple[Variant, Arithmetic | None], ...]
    run: RunSpec

    def to_json(self) -> dict[str, Any]:
        """The documented shape of `explain --json`."""
        return {
            "setting": {
                **asdict(self.setting),
                "loss": dict(self.setting.loss),
                "recipe": dict(self.setting.recipe),
            },
            "classes": self.classes,
            "form": self.asked,
            "forms": {name: asdict(each) for name, each in self.forms.items()},
            "values": [
                dict(zip(("field", "value", "from", "note"), each, strict=True)) for each in self.values
            ],
            "variants": [
                {**asdict(variant), "loss": dict(variant.loss), "weights": asdict(each) if each else None}
                for variant, each in self.variants
            ],
            "run": self.run.to_json(),
        }


def explain(request: Request, setting: Setting, *, classes: int, own_epochs: bool = False) -> Explanation:
    """The explanation of one setting of this request."""
    asked = setting.form or request.form
    runs = {form: request.spec(replace(setting, form=form), own_epochs=own_epochs) for form in FORMS}
    return Explanation(
        setting=setting,
        classes=classes,
        asked=asked,
        forms={form: arithmetic(run.loss, classes) for form, run in runs.items()},
        values=tuple(_values(request, setting, runs[asked], form=asked)),
        differing=tuple(
            each.name
            for each in fields(runs["released"].loss)
            if len({getattr(run.loss, each.name) for run in runs.values()}) > 1
        ),
        variants=tuple(
            (each, _variant(each, classes)) for each in paper().variants if each.method == setting.method
        ),
        run=runs[asked],
    )


def _values(
    request: Request, setting: Setting, run: RunSpec, *, form: str
) -> Iterator[tuple[str, Any, str, str]]:
    """Every value that was looked up or asked for, as the run has it, and where it comes from."""
    found = hyperparameters.lookup(setting, form=form)
    loss, recipe = request.overrides.of_loss(type(run.loss)), dict(request.overrides.recipe)
    for part, held, asked in (("loss", found.loss, loss), ("recipe", found.recipe, recipe)):
        for name in dict.fromkeys((*held, *asked)):
            value, known = getattr(getattr(run, part), name), held.get(name)
            if known is None or known.value != value:
                why = "by this request" if name in asked or request.scale == "quick" else FOLLOWS
                known = hyperparameters.Sourced(value, "declared", why)
            yield f"{part}.{name}", known.value, known.source, known.note


def arithmetic(loss: Loss, classes: int) -> Arithmetic:
    """The weights of a loss at this number of classes, and what they amount to."""
    weights = loss.weights(classes)
    scale = weights.ce + weights.kl
    epsilon, remark = _epsilon(loss, weights.kl / scale, classes)
    return Arithmetic(
        equation=equation(loss), ce=weights.ce, kl=weights.kl, scale=scale, epsilon=epsilon, remark=remark
    )


def equation(loss: Loss) -> str:
    """The loss with its numbers, in the paper's notation."""
    if isinstance(loss, CrossEntropy):
        return "H(q, p)" if loss.scale == 1 else f"{loss.scale:g}·H(q, p)"
    before = f"{1 - loss.alpha:g}·H(q, p)"
    if isinstance(loss, LabelSmoothing):
        smooth = "D_KL(u ‖ p)" if loss.spread == "all" else "H(u without the label, p)"
        whole = f"{before} + {loss.alpha:g}·{smooth}"
        return whole if loss.scale == 1 else f"{loss.scale:g}·[{whole}]"
    factors = [f"{loss.alpha:g}"]
    if loss.multiplier != 1:
        factors.append(f"{loss.multiplier:g}")
    if loss.t_squared:
        factors.append(f"{loss.temperature:g}²")
    mean = "/K" if loss.reduction == "elements" else ""
    return f"{before} + {'·'.join(factors)}{mean}·{_divergence(loss)}"


def _divergence(loss: Distillation | TfReg) -> str:
    t = f"{loss.temperature:g}"
    if isinstance(loss, Distillation):
        return f"D_KL(p^t_{t} ‖ p_{t})"
    target = f"softmax(p^d/{t})" if loss.softening == "softmax" else f"p^d_{t}"
    return f"D_KL({target} ‖ {f'p_{t}' if loss.soften_student else 'p'})"


def _epsilon(loss: Loss, share: float, classes: int) -> tuple[float | None, str]:
    """The ε of the label smoothing (over all classes) this loss equals, and how far it equals it."""
    if isinstance(loss, CrossEntropy):
        return 0.0, "plain cross-entropy" if loss.scale == 1 else f"{loss.scale:g} times cross-entropy"
    if isinstance(loss, LabelSmoothing):
        if loss.spread == "all":
            return share, "ε is spread over all classes"
        return share, f"as α = {loss.alpha:g} spread over the other classes, ε = {share:.3f} over all"
    if isinstance(loss, Distillation):
        return None, "the target is a teacher's; with a uniform teacher at τ = 1 it would be label smoothing"
    if loss.soften_student:
        return None, "the student is softened too: no label smoothing, whatever its temperature"
    right, wrong = _virtual(loss, classes)
    epsilon = share * wrong * classes
    remark = (
        f"the virtual teacher is near uniform ({right:.4f} on the label, {wrong:.5f} on each other class)"
    )
    return epsilon, remark


def _virtual(loss: TfReg, classes: int) -> tuple[float, float]:
    """The softened virtual teacher's probability of the label, and of each other class."""
    import math

    other = (1 - loss.correct_prob) / (classes - 1)
    if loss.softening == "softmax":
        a, b = math.exp(loss.correct_prob / loss.temperature), math.exp(other / loss.temperature)
    else:
        a, b = loss.correct_prob ** (1 / loss.temperature), other ** (1 / loss.temperature)
    total = a + (classes - 1) * b
    return a / total, b / total


def _variant(variant: Variant, classes: int) -> Arithmetic | None:
    return arithmetic(LOSSES[variant.kind](**dict(variant.loss)), classes) if variant.kind else None
