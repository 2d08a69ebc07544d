"""What a setting's loss really is: weights, scale, equivalent label smoothing, released against printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from msgspec import to_builtins

from paper_tables import hyperparameters
from paper_tables.claim_toml import Variant
from paper_tables.spec import Setting
from tfkd_cli.methods import Form, Loss, loss_type
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher, RunSpec

FOLLOWS = "follows from the number of epochs"
FORMS: tuple[Form, ...] = ("released", "printed")


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """A loss as numbers: what each of its parts weighs, divergences summed over classes.

    `epsilon` is the weight of the uniform distribution; None where the target is a teacher's.
    """

    equation: str
    weights: Mapping[str, float]
    scale: float
    epsilon: float | None
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One setting, both forms, where each value comes from, and what other suites call the same."""

    setting: Setting
    classes: int
    form: Form
    forms: Mapping[str, Arithmetic]
    values: tuple[tuple[str, Any, str, str], ...]  # field, value, where from, note
    differing: tuple[str, ...]  # how the two forms of this setting differ, a sentence for each field
    variants: tuple[tuple[Variant, Arithmetic | None], ...]
    run: RunSpec

    def to_json(self) -> dict[str, Any]:
        """The documented shape of `explain --json`."""
        return {
            "setting": self.setting.to_json(),
            "classes": self.classes,
            "form": self.form,
            "forms": {name: asdict(each) for name, each in self.forms.items()},
            "values": [
                dict(zip(("field", "value", "from", "note"), each, strict=True)) for each in self.values
            ],
            "variants": [
                {**to_builtins(variant), "weights": asdict(each) if each else None}
                for variant, each in self.variants
            ],
            "run": self.run.to_json(),
        }


def explain(request: Request, setting: Setting, *, own_epochs: bool = False) -> Explanation:
    """The explanation of one setting of this request."""
    classes = request.facts(setting.dataset).classes
    form = setting.form or request.form
    runs = {each: request.spec(replace(setting, form=each), own_epochs=own_epochs) for each in FORMS}
    return Explanation(
        setting=setting,
        classes=classes,
        form=form,
        forms={name: arithmetic(run.loss, classes) for name, run in runs.items()},
        values=tuple(_values(request, setting, runs[form], form=form)),
        differing=tuple(
            each.metadata.get("forms_differ") or f"{each.name} has another value"
            for each in fields(runs["released"].loss)
            if len({getattr(run.loss, each.name) for run in runs.values()}) > 1
        ),
        variants=tuple(
            (each, _variant(each, classes)) for each in paper().variants if each.method == setting.method
        ),
        run=runs[form],
    )


def _values(
    request: Request, setting: Setting, run: RunSpec, *, form: Form
) -> Iterator[tuple[str, Any, str, str]]:
    """Every value that was looked up or overridden, as the run has it, and where it comes from."""
    found = request.looked_up(setting, form)
    loss, recipe = request.overrides.of_loss(type(run.loss)), dict(request.overrides.recipe)
    for part, held, overridden in (("loss", found.loss, loss), ("recipe", found.recipe, recipe)):
        for name in dict.fromkeys((*held, *overridden)):
            value, known = getattr(getattr(run, part), name), held.get(name)
            if known is None or known.value != value:
                why = "by this request" if name in overridden or request.scale == "quick" else FOLLOWS
                known = hyperparameters.Sourced(value, "declared", why)
            yield f"{part}.{name}", known.value, known.source, known.note
    if known := found.teacher.get("weights"):
        published = isinstance(run.teacher, ForeignTeacher) and run.teacher.published
        value = "pretrained" if published else "trained"
        same = value == known.value
        yield (
            "teacher.weights",
            value,
            *((known.source, known.note) if same else ("declared", "by this request")),
        )


def arithmetic(loss: Loss, classes: int) -> Arithmetic:
    """The weights of a loss at this number of classes, and what they amount to."""
    weights = dict(loss.weights(classes))
    return Arithmetic(
        equation=loss.equation(),
        weights=weights,
        scale=sum(weights.values()),
        epsilon=loss.epsilon(classes),
        remark=loss.remark(classes),
    )


def _variant(variant: Variant, classes: int) -> Arithmetic | None:
    return arithmetic(loss_type(variant.kind)(**variant.loss), classes) if variant.kind else None
