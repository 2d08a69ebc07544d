"""Values from outside: what fits is taken, what does not is named with its key and value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.methods import Loss, Meta
from tfkd_cli.reproduction import overrides, requests
from tfkd_cli.reproduction.overrides import Overrides
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import Recipe, RunSpec

SPEC = RunSpec(dataset="digits", student="resnet8").to_json()
RUN = {name: value for name, value in SPEC.items() if name not in ("schema", "trainer")}
HUGE = "9" * 400


@pytest.mark.parametrize(
    ("change", "what", "expected"),
    [
        ({"seed": "0"}, "seed is '0'", "a whole number"),
        ({"seed": 10**400}, "seed is 1000", "a whole number <="),
        ({"schema": 2}, "schema is 2", "one of 1"),
        ({"dataset": "a\0b"}, "dataset is", "a name of 1 to 500 characters"),
        ({"colour": 1}, 'unknown key "colour"', "Known: dataset, student"),
        ({"recipe": {"epochs": 0}}, "recipe.epochs is 0", "a whole number from 1 to 1000000"),
        ({"recipe": {"milestones": [3, "x"]}}, "recipe.milestones[1] is 'x'", "a whole number"),
        ({"recipe": {"lr": float("inf")}}, "recipe.lr is inf", "a finite number"),
        (
            {"recipe": {"lrr": 1}},
            'unknown key "lrr" in recipe',
            "Known: augment, augment_stream, batch_size, corrupt, decoder, epochs",
        ),
        ({"recipe": {"optimizer": "sdg"}}, "recipe.optimizer is 'sdg'", "one of adam, sgd"),
        ({"loss": {"kind": 3}}, "loss.kind is 3", "text"),
        ({"teacher": {"run": RUN}}, "teacher.checkpoint is missing", "The keys: run, checkpoint"),
        ({"teacher": {"network": "x", "digest": "0"}}, "teacher.digest is '0'", "a sha256 of 64 hex digits"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_by_key(
    change: dict[str, Any], what: str, expected: str
) -> None:
    with pytest.raises(RequestError) as caught:
        RunSpec.from_json({**SPEC, **change})
    assert what in caught.value.what
    assert expected in caught.value.expected
    assert "newer tfkd" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("recipe.epochs=many", "--set recipe.epochs is 'many'"),
        (f"recipe.epochs={HUGE}", "--set recipe.epochs is '999"),
        ("recipe.lr=1e999", "--set recipe.lr is '1e999'"),
        ("recipe.lr=nan", "--set recipe.lr is 'nan'"),
        ("recipe.milestones=3,x", "--set recipe.milestones[1] is 'x'"),
        ("loss.t_squared=perhaps", "--set loss.t_squared is 'perhaps'"),
        ("loss.reduction=all", "--set loss.reduction is 'all'"),
        ("recipe.epochs", "is not a setting"),
        ("optimizer=sgd", "is not a setting"),
        ("recipe.epoch_count=3", 'unknown recipe field "epoch_count"'),
    ],
)
def test_a_typed_value_that_does_not_fit_is_refused(text: str, what: str) -> None:
    with pytest.raises(RequestError) as caught:
        overrides.parse([text], {})
    assert what in caught.value.what
    assert caught.value.expected


def test_a_field_that_is_set_twice_is_refused_unless_both_say_the_same() -> None:
    with pytest.raises(RequestError, match=r"recipe\.epochs is set to 3 and to 4"):
        overrides.parse(["recipe.epochs=3"], {"epochs": 4})
    assert overrides.parse(["recipe.epochs=3"], {"epochs": 3}) == Overrides((("epochs", 3),))


def test_overrides_are_typed_by_their_fields_and_read_back_the_same() -> None:
    made = overrides.parse(
        ["recipe.milestones=[3, 5]", "loss.temperature=4", "loss.t_squared=false", "recipe.optimizer='adam'"],
        {},
    )
    assert dict(made.recipe) == {"milestones": (3, 5), "optimizer": "adam"}
    assert dict(made.loss) == {"temperature": 4.0, "t_squared": False}
    assert Overrides.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "change", [{"epochs": 10**400}, {"lr": float("nan")}, {"holdout": 0.6}, {"momentum": -1}]
)
def test_a_recipe_is_checked_however_it_is_made(change: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"recipe.{next(iter(change))} is"):
        Recipe(**change)


@dataclass(frozen=True, kw_only=True)
class Own(Loss):
    """A loss whose fields have no ranges, or one that is open above."""

    name, label, does = "own", "Own", "nothing"
    weight: float = 1.0
    weights_of: tuple[float, ...] = ()
    above: Annotated[float, Meta(ge=0)] = 1.0


@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e999"])
@pytest.mark.parametrize("field", ["loss.weight", "loss.weights_of", "loss.above", "loss.alpha", "recipe.lr"])
def test_a_number_that_is_not_finite_is_refused_whatever_its_range(field: str, value: str) -> None:
    with pytest.raises(RequestError, match=f"--set {field}.* is '{value}'") as caught:
        overrides.parse([f"{field}={value}"], {}, losses=[Own])
    assert caught.value.expected.startswith("a finite number")
    assert caught.value.hint
    with pytest.raises(ValueError, match=r"loss\.above is inf"):
        Own(above=float("inf"))


@pytest.mark.parametrize("change", [{"threads": 0}, {"threads": HUGE}, {"teacher_cache_gb": float("inf")}])
def test_an_execution_is_checked_however_it_is_made(change: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"execution.{next(iter(change))} is"):
        Execution.from_json({"cache": "x", **change, "of_a_newer_version": 1})


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seeds": [-1]}, "seeds[0] is -1"),
        ({"seeds": "3"}, "seeds is '3'"),
        ({"form": "both"}, "form is 'both'"),
        ({"schema": 2}, "schema is 2"),
        ({"overrides": {"recipe.epochs": "x"}}, "recipe.epochs is 'x'"),
        ({"wishes": []}, 'unknown key "wishes"'),
        ({"axes": {"dataset": "digits"}}, "axes.students is missing"),
    ],
)
def test_a_kept_request_that_does_not_fit_is_refused_by_key(change: dict[str, Any], what: str) -> None:
    execution = Execution(cache="no-such-cache")
    kept = requests.to_json(requests.for_names(["demo"], Request(seeds=(0,)), execution=execution))
    with pytest.raises(RequestError) as caught:
        requests.from_json({**kept, **change}, execution=execution)
    assert what in caught.value.what
