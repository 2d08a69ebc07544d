"""What a setting's loss really is: weights, scale, equivalent label smoothing, released against printed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from msgspec import to_builtins

from paper_tables import hyperparameters
from paper_tables.spec import Setting
from tfkd_cli import own_code
from tfkd_cli.methods import Form, Loss, loss_type
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher, RunSpec

FOLLOWS = "follows from the number of epochs"
FORMS: tuple[Form, ...] = ("released", "printed")


def explain(request: Request, setting: Setting, *, own_epochs: bool = False) -> dict[str, Any]:
    """One setting of this request, as `explain --json` shows it.

    Both forms of its loss as numbers, where each value comes from, how the forms differ (`differences`, a
    sentence for each field), and what other suites call the same.
    """
    classes = request.facts(setting.dataset).classes
    form = setting.form or request.form
    runs = {each: request.spec(replace(setting, form=each), own_epochs=own_epochs) for each in FORMS}
    differing = (
        each.metadata.get("forms_differ") or f"{each.name} has another value"
        for each in fields(runs["released"].loss)
        if len({getattr(run.loss, each.name) for run in runs.values()}) > 1
    )
    variants = [
        {
            **to_builtins(each),
            "weights": _arithmetic(loss_type(each.kind)(**each.loss), classes) if each.kind else None,
        }
        for each in paper().variants
        if each.method == setting.method
    ]
    return {
        "setting": setting.to_json(),
        "classes": classes,
        "form": form,
        "forms": {name: _arithmetic(run.loss, classes) for name, run in runs.items()},
        "differences": list(differing),
        "values": list(_values(request, setting, runs[form], form=form)),
        "variants": variants,
        "run": runs[form].to_json(),
    }


def _arithmetic(loss: Loss, classes: int) -> dict[str, Any]:
    """What each part of a loss weighs, divergences summed over classes, and what that amounts to.

    `epsilon` is the weight of the uniform distribution; None where the target is a teacher's. RequestError
    where a loss from outside tfkd fails to say it.
    """
    try:
        weights = dict(loss.weights(classes))
        return {
            "equation": loss.equation(),
            "weights": weights,
            "scale": sum(weights.values()) if weights else None,
            "epsilon": loss.epsilon(classes),
            "remark": loss.remark(classes),
        }
    except Exception as error:
        if not own_code.is_own(loss.kind):
            raise
        expected = "equation, weights, epsilon and remark as docs/library.md describes them."
        raise own_code.failed(loss.kind, error, expected=expected) from error


def _values(request: Request, setting: Setting, run: RunSpec, *, form: Form) -> Iterator[dict[str, Any]]:
    """Every value that was looked up or overridden, as the run has it, and where it comes from."""
    found = request.looked_up(setting, form)
    loss, recipe = request.overrides.of_loss(type(run.loss)), dict(request.overrides.recipe)
    for part, held, overridden in (("loss", found.loss, loss), ("recipe", found.recipe, recipe)):
        for name in dict.fromkeys((*held, *overridden)):
            asked = name in overridden or request.scale == "quick"
            why = "by this request" if asked else FOLLOWS
            yield _value(f"{part}.{name}", getattr(getattr(run, part), name), held.get(name), why)
    if known := found.teacher.get("weights"):
        published = isinstance(run.teacher, ForeignTeacher) and run.teacher.published
        yield _value("teacher.weights", "pretrained" if published else "trained", known, "by this request")


def _value(field: str, value: Any, known: hyperparameters.Sourced | None, why: str) -> dict[str, Any]:
    """A value with the source that is `known` for it, or else with the reason `why` it is another."""
    if known is None or known.value != value:
        known = hyperparameters.Sourced(value, "declared", why)
    return {"field": field, "value": known.value, "from": known.source, "note": known.note}
