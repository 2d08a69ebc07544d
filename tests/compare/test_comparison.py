"""Which runs a comparison consists of, how it chooses, and what it makes of the numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from paper_tables.spec import Setting
from tfkd_cli import data
from tfkd_cli.compare.answer import Difference, answer
from tfkd_cli.compare.comparison import Comparing
from tfkd_cli.compare.trials import chosen
from tfkd_cli.data import ResolvedData
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.reproduction import asking, overrides
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.results import frames
from tfkd_cli.results.reading import Run
from tfkd_cli.spec import RunSpec, Teacher
from tfkd_cli.store import RunState

FACTS = replace(data.dataset("digits"), name="folder@0123456789ab", full=False)
METHODS = ("baseline", "lsr", "tf-reg", "tf-self")


def comparing(*, val_images: int = 30, trials: int = 3, seeds: int = 3, **recipe: Any) -> Comparing:
    asked = Request(
        seeds=tuple(range(seeds)),
        overrides=overrides.Overrides(tuple(sorted({"epochs": 2, **recipe}.items()))),
        data={"folder:x": ResolvedData(facts=replace(FACTS, val_images=val_images))},
    )
    return Comparing(asked=asked, dataset="folder:x", student="resnet8", teacher=None, trials=trials)


def done(spec: RunSpec, accuracy: float, *, val: float, val_loss: float = 1.0) -> RunState:
    scores = {"accuracy": accuracy, "balanced_accuracy": accuracy, "loss": 0.5, "ece": 3.0}
    best = {"epoch": 1, **scores, "val_accuracy": val, "val_loss": val_loss}
    result = {"best": best, "last": best, "seconds": 7.0, "commit": "", "diff": "", "weights": {}}
    return RunState(key=spec.key, name=spec.folder, status="done", result=result)


def everything_done(compared: Comparing, **accuracies: float) -> dict[str, RunState]:
    """All stages done: accuracies by method, a little more with each seed."""
    states: dict[str, RunState] = {}
    for _ in range(3):
        for stage in compared.stages(states):
            for spec in stage.runs:
                score = accuracies.get(spec.method.replace("-", "_"), 80.0) + 0.1 * (spec.seed * 7 % 5)
                states.setdefault(spec.key, done(spec, score, val=score))
    return states


def test_every_method_gets_the_same_number_of_trials() -> None:
    compared = comparing(trials=4)
    assert len(compared.rate_trials()) == 4
    assert {name: len(each) for name, each in compared.loss_trials({}).items()} == dict.fromkeys(
        METHODS[1:], 4
    )


def test_the_first_trial_is_the_default_of_the_method() -> None:
    compared = comparing()
    plain = replace(compared.asked, tables=()).spec(
        Setting(dataset="folder:x", student="resnet8", method="lsr")
    )
    first = compared.loss_trials({})["lsr"][0].spec
    assert (first.loss, first.recipe) == (plain.loss, plain.recipe)


def test_trials_are_chosen_on_the_validation_part_never_on_the_test_part() -> None:
    compared = comparing()
    trials = compared.rate_trials()
    states = {
        each.spec.key: done(each.spec, test, val=val)
        for each, test, val in zip(trials, (99.0, 50.0, 70.0), (60.0, 80.0, 70.0), strict=True)
    }
    assert chosen(trials, states) == trials[1]


def test_equal_accuracies_are_decided_by_the_validation_loss_then_by_order() -> None:
    trials = comparing().rate_trials()
    states = {
        each.spec.key: done(each.spec, 50, val=80, val_loss=loss)
        for each, loss in zip(trials, (0.6, 0.4, 0.4), strict=True)
    }
    assert chosen(trials, states) == trials[1]


def test_nothing_is_chosen_while_a_trial_is_missing() -> None:
    trials = comparing().rate_trials()
    states = {each.spec.key: done(each.spec, 50, val=80) for each in trials[:2]}
    assert chosen(trials, states) is None


def test_the_rate_of_the_baseline_serves_all_methods_and_teachers() -> None:
    compared = comparing()
    trials = compared.rate_trials()
    states = {each.spec.key: done(each.spec, 1, val=50 + 10 * i) for i, each in enumerate(trials)}
    best = trials[-1].spec.recipe.lr
    final = compared.stages(states)[-1]
    assert {spec.recipe.lr for spec in final.runs} == {best}
    teachers = [spec.teacher for spec in final.runs if isinstance(spec.teacher, Teacher)]
    assert {teacher.run.recipe.lr for teacher in teachers} == {best}
    assert {teacher.run.key for teacher in teachers} == {trials[-1].spec.key}


def test_trials_are_runs_of_the_comparison() -> None:
    """The first seed's final runs are among the trials: nothing is trained twice."""
    compared = comparing()
    rates, losses, final = compared.stages({})
    tried = {spec.key for stage in (rates, losses) for spec in stage.runs}
    assert {spec.key for spec in final.runs if spec.seed == 0} <= tried


def test_training_images_are_held_out_only_where_there_is_no_validation_part() -> None:
    for val_images, share in ((30, 0.0), (0, 0.15)):
        stages = comparing(val_images=val_images).stages({})
        assert {spec.recipe.holdout for stage in stages for spec in stage.runs} == {share}


def test_the_rate_that_was_asked_for_is_the_middle_of_those_tried() -> None:
    assert [round(each.spec.recipe.lr, 6) for each in comparing(lr=0.02).rate_trials()] == [0.02, 0.006, 0.06]


def test_alpha_and_temperature_are_not_taken_from_the_command_line() -> None:
    asked = replace(comparing().asked, overrides=overrides.Overrides(loss=(("alpha", 0.5),)))
    with pytest.raises(RequestError, match="chooses alpha itself"):
        replace(comparing(), asked=asked)


def test_a_clear_gain_is_called_one() -> None:
    compared = comparing()
    states = everything_done(compared, tf_reg=85.0)
    specs = {spec.key: spec for stage in compared.stages(states) for spec in stage.runs}
    runs = frames.runs_frame(
        Run(name=state.name, spec=specs.get(key), state=state) for key, state in states.items()
    )
    found = answer(compared, states, runs, test_images=300, classes=2)
    assert found.differences[0].points == pytest.approx(5.0)
    assert "tf-reg is better" in found.sentence or "nothing can be said" in found.sentence


def test_a_stage_is_kept_as_a_request_that_can_be_asked_again() -> None:
    stage = comparing().stages({})[1]
    again = asking.from_json(asking.to_json(stage.request), execution=Execution(cache="no-such-cache"))
    assert [table.settings() for table in again.tables] == [t.settings() for t in stage.request.tables]


def difference(points: float, low: float | None, high: float | None, seeds: int | None) -> Difference:
    return Difference(
        method="tf-reg", against="lsr", points=points, low=low, high=high, n=5, seeds_for_worth=seeds,
        p=0.5, p_holm=0.5,
    )  # fmt: skip


def test_the_answer_is_one_sentence() -> None:
    assert difference(0.12, -0.3, 0.54, 22).sentence == (
        "tf-reg − lsr = +0.12 points, 95 % −0.30 … +0.54, n = 5: no measurable difference; "
        "about 22 seeds would show 0.3"
    )
    assert difference(0.6, 0.1, 1.1, 9).sentence.endswith("n = 5: tf-reg is better")
    assert "more than 1,000 seeds" in difference(0.1, -5, 5.2, None).sentence
    assert "one seed cannot tell" in difference(0.1, None, None, None).sentence
    assert "the same with every seed, so nothing can be said" in difference(0.0, 0.0, 0.0, 2).sentence


@pytest.mark.parametrize(
    ("dataset", "student", "expected"),
    [
        ("folder:p", "resnet8", "folder:p"),
        ("folder:p", "torchvision:resnet18:pretrained", "folder224:p"),
        ("folder64:p", "torchvision:resnet18:pretrained", "folder64:p"),
        ("folder.split2:p", "torchvision:resnet18:pretrained", "folder224.split2:p"),
        ("torchvision:flowers102", "torchvision:resnet18:pretrained", "torchvision224:flowers102"),
        ("torchvision:CIFAR10", "resnet8", "cifar10"),
        ("digits", "torchvision:resnet18:pretrained", "digits"),
    ],
)
def test_pretrained_students_see_own_images_at_224_pixels_unless_told_otherwise(
    dataset: str, student: str, expected: str
) -> None:
    axes = asking.axes_of(dataset=dataset, students=[student], methods=["lsr"])
    assert axes.dataset == expected
