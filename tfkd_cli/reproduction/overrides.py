"""`--set loss.temperature=4 --set recipe.epochs=30`: checked against the real fields, typed by them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from paper_tables import hyperparameters
from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.methods import Loss, field_types
from tfkd_cli.spec import Recipe

RECIPE_FIELDS: Mapping[str, str] = {f.name: str(f.type) for f in fields(Recipe)}
LOSS_FIELDS: Mapping[str, str] = field_types()
FINETUNE = "finetune"
KINDS = {
    "tuple[int, ...]": "a list of whole numbers, as 60,120,160",
    "int": "a whole number",
    "float": "a number",
}


@dataclass(frozen=True)
class Overrides:
    """What the command line changes: `recipe` in every run, `loss` in the students that have the field."""

    recipe: tuple[tuple[str, Any], ...] = ()
    loss: tuple[tuple[str, Any], ...] = ()

    def of_loss(self, loss: type[Loss]) -> dict[str, Any]:
        """The overrides that this loss has a field for."""
        known = {f.name for f in fields(loss)}
        return {name: value for name, value in self.loss if name in known}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Overrides:
        """The overrides that `to_json` wrote."""
        recipe = {n.removeprefix("recipe."): v for n, v in data.items() if n.startswith("recipe.")}
        loss = {n.removeprefix("loss."): v for n, v in data.items() if n.startswith("loss.")}
        lists = {name: tuple(v) if isinstance(v, list) else v for name, v in recipe.items()}
        return cls(tuple(sorted(lists.items())), tuple(sorted(loss.items())))

    def to_json(self) -> dict[str, Any]:
        """`{"recipe.epochs": 30, …}`."""
        pairs = [(f"recipe.{n}", v) for n, v in self.recipe] + [(f"loss.{n}", v) for n, v in self.loss]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in pairs}


def parse(
    settings: Iterable[str], shorthands: Mapping[str, Any], *, losses: Iterable[type[Loss]] = ()
) -> Overrides:
    """`--set` texts and the shorthands (`epochs`, `lr`, `alpha` …; None: not given) as Overrides.

    Fields of `losses` are known besides those of the paper's.
    """
    loss_fields = field_types(*losses)
    changes: dict[str, dict[str, Any]] = {"recipe": {}, "loss": {}}
    for text in settings:
        path, equals, value = text.partition("=")
        owner, dot, name = path.strip().partition(".")
        if not (equals and dot) or owner not in ("recipe", "loss"):
            raise RequestError(
                f'--set "{text}" is not a setting.',
                expected="--set recipe.FIELD=VALUE or --set loss.FIELD=VALUE.",
                hint="--set recipe.epochs=30 --set loss.temperature=4",
            )
        known = RECIPE_FIELDS if owner == "recipe" else loss_fields
        field = canonical(name, known, kind=f"{owner} field")
        changes[owner][field] = _typed(f"{owner}.{field}", value.strip(), known[field])
    for name, value in shorthands.items():
        if value is not None:
            changes["recipe" if name in RECIPE_FIELDS else "loss"][name] = value
    return Overrides(tuple(sorted(changes["recipe"].items())), tuple(sorted(changes["loss"].items())))


def named(recipe: str | None) -> Overrides:
    """The recipe called `recipe` (finetune) as Overrides; none for None."""
    if recipe is None:
        return Overrides()
    canonical(recipe, (FINETUNE,), kind="recipe", hint="without --recipe each network has its data set's.")
    return Overrides(tuple(sorted(hyperparameters.finetune().items())))


def merged(base: Overrides, over: Overrides) -> Overrides:
    """Both; where they name the same field, `over` wins. Milestones of `base` scale with other epochs."""
    recipe = dict(base.recipe)
    epochs = dict(over.recipe).get("epochs")
    if epochs is not None and "milestones" in recipe:
        made = Recipe(epochs=recipe["epochs"], milestones=recipe["milestones"]).with_epochs(epochs)
        recipe |= {"milestones": made.milestones, "warmup_epochs": made.warmup_epochs}
    recipe |= dict(over.recipe)
    return Overrides(
        tuple(sorted(recipe.items())), tuple(sorted((dict(base.loss) | dict(over.loss)).items()))
    )


def _typed(path: str, text: str, kind: str) -> Any:
    """`text` as the field's type (its annotation, a string); RequestError when it is not one."""
    try:
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind.startswith("tuple"):
            return tuple(int(part) for part in text.strip("()[]").split(",") if part.strip())
        return str(ast.literal_eval(text)) if text[:1] in "'\"" else text
    except (ValueError, KeyError, SyntaxError) as error:
        raise RequestError(
            f"--set {path}={text}: not a value for it.",
            expected=f"{path} is {KINDS.get(kind, kind)}.",
            hint="`tfkd list methods` shows the fields of each loss and of the recipe.",
        ) from error
