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
        changes, loss_fields = _Changes(), field_types(*losses)
        for path, value in data.items():
            owner, name, kind = _field(path, loss_fields)
            changes.add(owner, name, schema.convert(value, kind, of=path))
        return changes.made()

    def to_json(self) -> dict[str, Any]:
        """`{"recipe.epochs": 30, …}`."""
        return {
            f"{part.name}.{name}": list(value) if isinstance(value, tuple) else value
            for part in fields(self)
            for name, value in getattr(self, part.name)
        }


def parse(
    settings: Iterable[str], shorthands: Mapping[str, Any], *, losses: Iterable[type[Loss]] = ()
) -> Overrides:
    """`--set` texts and the shorthands (`epochs`, `lr`, `alpha` …; None: not given) as Overrides.

    Fields of `losses` are known besides those of the paper's.
    """
    changes, loss_fields = _Changes(), field_types(*losses)
    for text in settings:
        path, equals, value = text.partition("=")
        if not equals:
            raise _no_setting(text)
        owner, name, kind = _field(path, loss_fields)
        changes.add(owner, name, _typed(f"{owner}.{name}", value.strip(), kind))
    for name, value in shorthands.items():
        if value is not None:
            changes.add("recipe" if name in RECIPE_FIELDS else "loss", name, value)
    return changes.made()


class _Changes:
    """Fields and their values, each at most once."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Any]] = {part.name: {} for part in fields(Overrides)}

    def add(self, owner: str, name: str, value: Any) -> None:
        """Set a field; RequestError where it was set to something else before."""
        before = self._values[owner].setdefault(name, value)
        if before is not value and before != value:
            raise RequestError(
                f"{owner}.{name} is set to {self._values[owner][name]} and to {value}.",
                expected="one value for each field.",
                hint=f"leave out one of them: --set {owner}.{name}=… and its own option are the same.",
            )

    def made(self) -> Overrides:
        """The overrides, sorted by name."""
        return Overrides(*(tuple(sorted(values.items())) for values in self._values.values()))


def _field(path: str, loss_fields: Mapping[str, Any]) -> tuple[str, str, Any]:
    """`recipe.lr` in its two names, made canonical, and the field's type."""
    owner, _, name = path.strip().partition(".")
    if owner == "data":  # how the files of a data set are read: part of the recipe, for numbers depend on it
        owner, name = "recipe", canonical(name, OF_DATA, kind="data field")
    known = {"recipe": RECIPE_FIELDS, "loss": loss_fields, "teacher": TEACHER_FIELDS}.get(owner, {})
    if not name or not known:
        raise _no_setting(path)
    found = canonical(name, known, kind=f"{owner} field")
    return owner, found, known[found]


def _no_setting(text: str) -> RequestError:
    return RequestError(
        f'--set "{text[:80]}" is not a setting.',
        expected="--set recipe.FIELD=VALUE, --set loss.FIELD=VALUE or --set teacher.weights=VALUE.",
        hint="--set recipe.epochs=30 --set loss.temperature=4",
    )


def named(recipe: str | None) -> Overrides:
    """The recipe called `recipe` (finetune) as Overrides; none for None."""
    if recipe is None:
        return Overrides()
    canonical(recipe, (FINETUNE,), kind="recipe", hint="without --recipe each network has its data set's.")
    return Overrides(tuple(sorted(hyperparameters.finetune().items())))


def merged(base: Overrides, over: Overrides) -> Overrides:
    """Both; where they name the same field, `over` wins. Milestones of `base` scale with other epochs."""
    parts = {part.name: dict(getattr(base, part.name)) for part in fields(Overrides)}
    recipe, epochs = parts["recipe"], dict(over.recipe).get("epochs")
    if epochs is not None and "milestones" in recipe:
        made = Recipe(epochs=recipe["epochs"], milestones=recipe["milestones"]).with_epochs(epochs)
        recipe |= {"milestones": made.milestones, "warmup_epochs": made.warmup_epochs}
    return Overrides(
        *(tuple(sorted((known | dict(getattr(over, name))).items())) for name, known in parts.items())
    )


def _typed(path: str, text: str, kind: Any) -> Any:
    """`text` as the field's type; RequestError when it is not one."""
    value: Any = text.strip("'\"")
    if get_origin(kind) is tuple:
        value = [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
    hint = "`tfkd list methods` shows the fields of each loss and of the recipe."
    return schema.convert(value, kind, lax=True, of=f"--set {path}", hint=hint)
