"""What a run will cost, and how we know."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tfkd_cli.costs import CostModel, Rate, measured_rates, rate_key, threads_speed_up
from tfkd_cli.data import DATASETS
from tfkd_cli.methods import Distillation
from tfkd_cli.spec import ForeignTeacher, Recipe, RunSpec, Teacher

SPEC = RunSpec(dataset="cifar10", student="resnet18", recipe=Recipe(epochs=1))
TAUGHT = replace(SPEC, student="plain-cnn", loss=Distillation(), teacher=Teacher(run=SPEC))

# Seconds per epoch of 50,000 images, fp32, two threads, as measured on two cores of a server.
MEASURED = {
    "plain-cnn": 24.0,
    "resnet8": 37.0,
    "resnet20": 96.0,
    "shufflenetv2": 253.0,
    "mobilenetv2": 313.0,
    "resnet18": 920.0,
}


@pytest.mark.parametrize(("student", "seconds"), MEASURED.items())
def test_the_multiply_add_model_is_within_a_factor_of_two_of_what_was_measured(
    student: str, seconds: float
) -> None:
    estimate = CostModel("cpu", 2)(replace(SPEC, student=student))
    assert estimate.source == "estimate"
    assert seconds / 2 < estimate.seconds - estimate.start_seconds < seconds * 2


def test_estimates_for_a_gpu_say_that_they_are_uncalibrated() -> None:
    assert CostModel("cuda")(SPEC).source == "uncalibrated"


def test_short_runs_of_a_borrowed_network_cost_their_start_up() -> None:
    few = replace(DATASETS["cifar10"], train_images=140, test_images=30)
    model = CostModel("cpu", facts={"folder@0": few})
    spec = replace(SPEC, dataset="folder@0", student="torchvision:mobilenet_v3_small")
    estimate = model(spec)
    assert 0.9 < estimate.start_seconds / estimate.seconds < 1


def test_a_teacher_costs_its_forward_passes() -> None:
    alone = replace(TAUGHT, loss=SPEC.loss, teacher=None)
    assert CostModel("cpu")(TAUGHT).seconds > 3 * CostModel("cpu")(alone).seconds


def test_a_teacher_from_a_file_costs_what_it_costs_at_its_own_size() -> None:
    same = replace(TAUGHT, teacher=ForeignTeacher(network="resnet18", digest="0" * 64))
    large = replace(TAUGHT, teacher=ForeignTeacher(network="resnet18", digest="0" * 64, size=64))
    alone = CostModel("cpu")(replace(TAUGHT, loss=SPEC.loss, teacher=None)).seconds
    at_32, at_64 = (CostModel("cpu")(each).seconds - alone for each in (same, large))
    assert at_64 == pytest.approx(4 * at_32, rel=0.2)
    assert rate_key(same) != rate_key(large)


def test_a_finished_like_run_replaces_the_model_whatever_its_threads() -> None:
    numerics = {"device": "cpu", "threads": 2}
    result = {"seconds": 100.0, "start_seconds": 0.0, "attempts": 1, "numerics": numerics}
    rates = measured_rates([(SPEC, result)], device="cpu", facts=dict(DATASETS))
    other_seed = replace(SPEC, seed=7, recipe=Recipe(epochs=3))
    estimate = CostModel("cpu", 2, rates=rates)(other_seed)
    assert estimate.source == "measured"
    assert estimate.seconds == pytest.approx(300.0)
    assert CostModel("cpu", 1, rates=rates)(other_seed).seconds == pytest.approx(
        300.0 * threads_speed_up("cpu", 2)
    )


def test_runs_of_another_device_say_nothing() -> None:
    result = {"seconds": 100.0, "numerics": {"device": "cuda", "threads": 2}}
    assert not measured_rates([(SPEC, result)], device="cpu", facts={})


def test_a_calibration_goes_before_the_model() -> None:
    calibrated = CostModel("cpu", rates={rate_key(SPEC): Rate(0.001, source="calibrated")})(SPEC)
    assert calibrated.source == "calibrated"
    assert calibrated.seconds - calibrated.start_seconds == pytest.approx(50.0)


def test_the_start_of_a_run_is_measured_where_one_attempt_did_all_of_it() -> None:
    numerics = {"device": "cpu", "threads": 1}
    found = [
        (SPEC, {"seconds": 10.0, "start_seconds": start, "attempts": attempts, "numerics": numerics})
        for start, attempts in ((2.0, 1), (4.0, 1), (3.0, 1), (90.0, 2))
    ]
    rates = measured_rates(found, device="cpu", facts={})
    assert CostModel("cpu", rates=rates)(SPEC).start_seconds == 3.0


def test_the_cached_logits_of_a_cifar100_teacher_take_two_gigabytes() -> None:
    fast = replace(SPEC, dataset="cifar100", recipe=Recipe(epochs=200).fast())
    taught = replace(fast, loss=Distillation(), teacher=Teacher(run=fast))
    model = CostModel("cuda")
    assert model(taught).logits_bytes == 2_000_000_000
    assert model(replace(taught, recipe=replace(taught.recipe, holdout=0.1))).logits_bytes == 1_800_000_000
    assert model(fast).logits_bytes == 0


def test_the_forward_passes_of_a_teacher_that_is_run_by_epoch_are_counted_apart() -> None:
    model = CostModel("cpu")
    fast = replace(TAUGHT, recipe=TAUGHT.recipe.fast())
    alone, taught = model(replace(fast, loss=SPEC.loss, teacher=None)), model(fast)
    assert taught.teacher_seconds == pytest.approx(taught.seconds - alone.seconds, rel=0.1)
    assert alone.teacher_seconds == model(TAUGHT).teacher_seconds == 0


def test_to_measured_training_the_model_adds_a_teacher_that_is_run_by_epoch() -> None:
    fast = replace(TAUGHT, recipe=TAUGHT.recipe.fast())
    numerics = {"device": "cpu", "threads": 1}
    found = [
        (fast, {"seconds": 150.0 + spent, "teacher_seconds": spent, "numerics": numerics})
        for spent in (0.0, 10.0, 900.0)  # on logits that were read, waited for, and computed
    ]
    older = [(fast, {"seconds": 5000.0, "numerics": numerics})]
    rates = measured_rates([*found, *older], device="cpu", facts={})
    teacher = CostModel("cpu")(fast).teacher_seconds
    measured = CostModel("cpu", rates=rates)(fast)
    assert measured.source == "measured"
    epochs = measured.seconds - measured.start_seconds
    assert (epochs, measured.teacher_seconds) == pytest.approx((150.0 + teacher, teacher))
