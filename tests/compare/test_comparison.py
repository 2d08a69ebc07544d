"""Which runs a comparison consists of, how it chooses, and what it makes of the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from paper_tables.spec import Setting, Values
from paper_tables.statistics import Interval
from tfkd_cli import data
from tfkd_cli.compare.answer import Answer, Difference, answer, at_chance
from tfkd_cli.compare.comparison import Comparison, comparison_request
from tfkd_cli.compare.trials import chosen
from tfkd_cli.data import ResolvedData
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.grid import Axes
from tfkd_cli.reproduction import overrides, requests
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.results import frames
from tfkd_cli.results.reading import Run
from tfkd_cli.spec import RunSpec, Teacher
from tfkd_cli.store import RunState

FACTS = replace(data.dataset("digits"), name="folder@0123456789ab", full=False)
METHODS = ("baseline", "lsr", "tf-reg", "tf-self")


def comparing(
    *, val_images: int = 30, trials: int = 3, seeds: int = 3, loss: Values = (), **recipe: Any
) -> Comparison:
    request = Request(
        seeds=tuple(range(seeds)),
        axes=Axes(dataset="folder:x", students=("resnet8",), methods=METHODS),
        overrides=overrides.Overrides(tuple(sorted({"epochs": 2, **recipe}.items())), loss),
        data={"folder:x": ResolvedData(facts=replace(FACTS, val_images=val_images))},
    )
    return Comparison(comparison_request(request, trials=trials))


def done(spec: RunSpec, accuracy: float, *, val: float, val_loss: float = 1.0) -> RunState:
    scores = {"accuracy": accuracy, "balanced_accuracy": accuracy, "loss": 0.5, "ece": 3.0}
    best = {"epoch": 1, **scores, "val_accuracy": val, "val_loss": val_loss}
    result = {"best": best, "last": best, "seconds": 7.0, "commit": "", "diff": "", "weights": {}}
    return RunState(key=spec.key, name=spec.folder, status="done", result=result)


def everything_done(
    compared: Comparison, known: Mapping[str, RunState] = MappingProxyType({}), **accuracies: float
) -> dict[str, RunState]:
    """All stages done: accuracies by method, a little more with each seed; `known` runs as they are."""
    states = dict(known)
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


def test_more_methods_are_compared_with_the_baseline() -> None:
    request = Request(
        seeds=(0, 1, 2),
        axes=Axes(
            dataset="folder:x", students=("resnet8",), methods=(*METHODS, "de-kd"), teachers=("resnet14",)
        ),
        overrides=overrides.Overrides((("epochs", 2),)),
        data={"folder:x": ResolvedData(facts=FACTS)},
    )
    compared = Comparison(comparison_request(request, trials=2))
    found = answered(compared, everything_done(compared))
    assert [line.method for line in found.lines] == [*METHODS, "de-kd"]
    assert [each.method for each in found.differences] == ["tf-reg", "lsr", "tf-reg", "tf-self", "de-kd"]
    assert {each.against for each in found.differences[1:]} == {"baseline"}
    teachers = [spec.teacher for spec in compared.stages({})[-1].runs if spec.student == "resnet8"]
    assert 1 in {each.checkpoint for each in teachers if isinstance(each, Teacher)}


def test_the_first_trial_is_the_default_of_the_method() -> None:
    compared = comparing()
    plain = compared.request.spec(Setting(dataset="folder:x", student="resnet8", method="lsr"))
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
    with pytest.raises(RequestError, match="chooses alpha itself"):
        comparing(loss=(("alpha", 0.5),))


def answered(compared: Comparison, states: dict[str, RunState]) -> Answer:
    specs = {spec.key: spec for stage in compared.stages(states) for spec in stage.runs}
    runs = (Run(name=state.name, spec=specs.get(key), state=state) for key, state in states.items())
    return answer(compared.request, states, frames.runs_frame(runs))


def test_a_clear_gain_is_called_one() -> None:
    compared = comparing()
    states = everything_done(compared, tf_reg=85.0)
    first = next(spec for spec in compared.stages(states)[-1].runs if spec.method == "tf-reg")
    states[first.key] = done(first, 85.5, val=85.5)  # or the difference would be the same with every seed
    found = answered(compared, states)
    assert found.differences[0].points == pytest.approx(5.0, abs=0.4)
    assert found.sentence.endswith("n = 3: tf-reg is better.")
    assert (found.done, found.wanted) == (len(states), len(states))


def test_at_chance_nothing_can_be_said_whatever_the_intervals() -> None:
    compared = comparing()
    states = everything_done(compared, tf_reg=12.0, lsr=10.0)  # of 10 classes
    found = answered(compared, states)
    assert [line.method for line in found.lines if line.at_chance] == ["lsr", "tf-reg"]
    assert "nothing can be said, tf-reg and lsr are at chance; train longer" in found.sentence
    assert "is better" not in found.sentence


def test_chance_is_two_standard_errors_wide() -> None:
    """The error of guessing among 2 × 50 images is 5 points; of 90 and 10 images, 8.3."""
    assert at_chance([59.9], [50, 50])
    assert not at_chance([60.1], [50, 50])
    assert at_chance([60.1], [90, 10])
    assert at_chance([40.0, 80.0], [5000, 5000]), (
        "two seeds that far apart do not say that anything was learnt"
    )


def test_a_chosen_value_at_the_edge_of_its_trials_is_flagged() -> None:
    compared = comparing()
    states = everything_done(compared)
    found = {line.method: line.edges for line in answered(compared, states).lines}
    assert found["baseline"] == {}  # equally good rates: the first is taken, which lies between the others
    assert found["tf-reg"] == {"alpha": "smallest", "temperature": "largest"}

    highest = compared.rate_trials()[2].spec
    states = everything_done(compared, {highest.key: done(highest, 90, val=90)})
    assert answered(compared, states).lines[0].edges == {"lr": "largest"}


def test_there_is_no_answer_before_all_trials_are_done() -> None:
    compared = comparing()
    trials = compared.rate_trials()
    found = answered(compared, {each.spec.key: done(each.spec, 80, val=80) for each in trials})
    assert (found.lines, found.differences) == ((), ())
    assert found.sentence.startswith("No answer yet: 3 of 20 runs are done")


def test_a_comparison_is_one_named_request_that_can_be_asked_again() -> None:
    compared = comparing()
    again = requests.from_json(requests.to_json(compared.request), execution=Execution(cache="no-such-cache"))
    assert again.compared == compared.request.compared
    assert Comparison(again).name == compared.name
    assert compared.name.startswith("compare-x-resnet8-")
    others = {comparing(trials=2).name, comparing(lr=0.02).name, comparing(epochs=3).name, compared.name}
    assert len(others) == 4
    assert comparing(seeds=5).name == compared.name  # more seeds make the same comparison surer


def test_trials_have_one_run_and_the_compared_settings_one_per_seed() -> None:
    compared = comparing()
    states = everything_done(compared)
    whole = compared.full_request(states)
    wanted = {spec.key for spec in whole.runs(whole.tables[0])}
    assert wanted == {spec.key for stage in compared.stages(states) for spec in stage.runs} == {*states}
    more = replace(whole, seeds=(0, 1, 2, 3))
    assert len(more.runs(more.tables[0])) == len(wanted) + 4


def test_a_training_that_is_too_short_is_warned_of() -> None:
    assert "Use --epochs " in comparing().too_short()
    assert comparing(epochs=60).too_short() == ""


def difference(
    points: float, low: float | None, high: float | None, seeds: int | None, word: Any = "not shown"
) -> Difference:
    interval = None if low is None or high is None else Interval(low, high)
    return Difference(
        method="tf-reg", against="lsr", points=points, interval=interval, n=5, seeds_for_worth=seeds,
        p=0.5, p_holm=0.5, word=word,
    )  # fmt: skip


def test_the_answer_is_one_sentence() -> None:
    assert difference(0.12, -0.3, 0.54, 22).sentence == (
        "tf-reg − lsr = +0.12 points, 95 % −0.30 … +0.54, n = 5: no measurable difference; "
        "about 22 seeds would show 0.3 points"
    )
    assert difference(0.6, 0.1, 1.1, 9, "holds").sentence.endswith("n = 5: tf-reg is better")
    corrected = replace(difference(0.6, 0.1, 1.1, 9), p=0.03).verdict
    assert corrected == "no measurable difference after Holm's correction"
    assert "more than 1,000 seeds" in difference(0.1, -5, 5.2, None).sentence
    assert (
        "too few seeds to tell; give at least --seeds 3"
        in difference(0.1, None, None, None, "too few runs").sentence
    )
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
    axes = requests.axes_of(dataset=dataset, students=[student], methods=["lsr"])
    assert axes.dataset == expected
