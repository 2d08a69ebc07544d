"""`--set loss.temperature=4 --set recipe.epochs=30`: checked against the real fields, typed by them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_origin

from paper_tables import hyperparameters
from tfkd_cli import schema
from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.methods import Loss, field_types
from tfkd_cli.spec import Recipe

RECIPE_FIELDS: Mapping[str, Any] = schema.types_of(Recipe)
LOSS_FIELDS: Mapping[str, Any] = field_types()
TeacherWeights = Literal["trained", "pretrained"]
"""Teachers are trained here, or torchvision's pretrained networks (`published_network`) teach."""
TEACHER_FIELDS: Mapping[str, Any] = {"weights": TeacherWeights}
OF_DATA = ("corrupt", "decoder")
FINETUNE = "finetune"


@dataclass(frozen=True)
class Overrides:
    """What the command line changes.

    `recipe` holds for every run, `loss` for the students that have the field, `teacher` for their teachers.
    """

    recipe: tuple[tuple[str, Any], ...] = ()
    loss: tuple[tuple[str, Any], ...] = ()
    teacher: tuple[tuple[str, Any], ...] = ()

    def of_loss(self, loss: type[Loss]) -> dict[str, Any]:
        """The overrides that this loss has a field for."""
        known = {f.name for f in fields(loss)}
        return {name: value for name, value in self.loss if name in known}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, losses: Iterable[type[Loss]] = ()) -> Overrides:
        """The overrides that `to_json` wrote; RequestError for anything else. `losses`: as for `parse`."""
        loss_fields = field_types(*losses)
        return _by_owner(_typed(path, value, loss_fields) for path, value in data.items())

    def to_json(self) -> dict[str, Any]:
        """`{"recipe.epochs": 30, …}`."""
        return {
            f"{part.name}.{name}": list(value) if isinstance(value, tuple) else value
            for part in fields(self)
            for name, value in getattr(self, part.name)
        }


def parse(
    settings: Iterable[str],
    shorthands: Mapping[str, Any],
    *,
    losses: Iterable[type[Loss]] = (),
    recipe: str | None = None,
) -> Overrides:
    """`--set` texts and the shorthands (`epochs`, `lr`, `alpha` …; None: not given) as Overrides.

    Fields of `losses` are known besides those of the paper's. `recipe` names a recipe (finetune) whose values
    hold where no others are given.
    """
    loss_fields = field_types(*losses)
    changes: dict[str, Any] = {}
    given = [_typed_text(text, loss_fields) for text in settings]
    for name, value in shorthands.items():
        if value is not None:
            path = f"{'recipe' if name in RECIPE_FIELDS else 'loss'}.{name}"
            given.append(_typed(path, value, loss_fields))
    for path, value in given:
        if changes.setdefault(path, value) != value:
            raise RequestError(
                f"{path} is set to {changes[path]} and to {value}.",
                expected="one value for each field.",
                hint=f"leave out one of them: --set {path}=… and its own option are the same.",
            )
    return _by_owner((_named(recipe, changes) | changes).items())


def _by_owner(changes: Iterable[tuple[str, Any]]) -> Overrides:
    values: dict[str, list[tuple[str, Any]]] = {part.name: [] for part in fields(Overrides)}
    for path, value in sorted(changes):
        owner, _, name = path.partition(".")
        values[owner].append((name, value))
    return Overrides(*map(tuple, values.values()))


def _named(recipe: str | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the recipe that is called `recipe`; its milestones scale with other epochs."""
    if recipe is None:
        return {}
    canonical(recipe, (FINETUNE,), kind="recipe", hint="without --recipe each network has its data set's.")
    values = hyperparameters.finetune()
    if epochs := changes.get("recipe.epochs"):
        made = Recipe(epochs=values["epochs"], milestones=values["milestones"]).with_epochs(epochs)
        values |= {"milestones": made.milestones, "warmup_epochs": made.warmup_epochs}
    return {f"recipe.{name}": value for name, value in values.items()}


def _typed_text(text: str, loss_fields: Mapping[str, Any]) -> tuple[str, Any]:
    """`recipe.lr=0.1` → ("recipe.lr", 0.1)."""
    path, equals, value = text.partition("=")
    if not equals:
        raise _no_setting(text)
    return _typed(path, value.strip().strip("'\""), loss_fields, is_text=True)


def _typed(
    path: str, value: Any, loss_fields: Mapping[str, Any], *, is_text: bool = False
) -> tuple[str, Any]:
    """The path made canonical, and the value as the type of that field; `is_text`: as `--set` was given."""
    owner, _, name = path.strip().partition(".")
    if owner == "data":  # how the files of a data set are read: part of the recipe, for numbers depend on it
        owner, name = "recipe", canonical(name, OF_DATA, kind="data field")
    known = {"recipe": RECIPE_FIELDS, "loss": loss_fields, "teacher": TEACHER_FIELDS}.get(owner, {})
    if not name or not known:
        raise _no_setting(path)
    field = canonical(name, known, kind=f"{owner} field")
    if get_origin(known[field]) is tuple and is_text:
        value = [part.strip() for part in value.strip("()[]").split(",") if part.strip()]
    found = schema.convert(
        value,
        known[field],
        lax=is_text,
        of=f"{'--set ' * is_text}{owner}.{field}",
        hint="`tfkd list methods` shows the fields of each loss and of the recipe.",
    )
    return f"{owner}.{field}", found


def _no_setting(text: str) -> RequestError:
    return RequestError(
        f'--set "{text[:80]}" is not a setting.',
        expected="--set recipe.FIELD=VALUE, loss.FIELD=VALUE, data.FIELD=VALUE or teacher.weights=VALUE.",
        hint="--set recipe.epochs=30 --set loss.temperature=4",
    )
