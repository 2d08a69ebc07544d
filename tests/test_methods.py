"""The losses: equal to the released ones, and true to the paper's identities where printed."""

from __future__ import annotations

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tfkd_cli.errors import RequestError
from tfkd_cli.methods import (
    LOSSES,
    CrossEntropy,
    Distillation,
    LabelSmoothing,
    Loss,
    TfReg,
    cross_entropy,
    kl_divergence,
    method,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "losses.json").read_text())
RELEASED: dict[str, type[Loss]] = {
    "kd": Distillation,
    "tf_self": Distillation,
    "tf_reg": TfReg,
    "label_smoothing": LabelSmoothing,
}
RENAMED = {"reg_alpha": "alpha", "reg_temperature": "temperature", "epsilon": "alpha"}


def golden_cases() -> list[Any]:
    return [
        pytest.param(case, each, id=f"{number}-{each['loss']}-{'-'.join(map(str, each['params'].values()))}")
        for number, case in enumerate(GOLDEN)
        for each in case["values"]
    ]


@pytest.mark.parametrize(("case", "expected"), golden_cases())
def test_a_released_loss_has_the_value_and_gradient_of_the_released_code(
    case: dict[str, Any], expected: dict[str, Any]
) -> None:
    loss_type = RELEASED[expected["loss"]]
    params = {RENAMED.get(name, name): value for name, value in expected["params"].items()}
    loss = loss_type(**params, **loss_type.FORMS["released"])
    logits_NK = torch.tensor(case["student_logits"], dtype=torch.float64, requires_grad=True)
    teacher_NK = torch.tensor(case["teacher_logits"], dtype=torch.float64)
    total = loss(logits_NK, torch.tensor(case["labels"]), teacher_NK).total
    total.backward()  # type: ignore[no-untyped-call]
    assert logits_NK.grad is not None
    assert total.item() == pytest.approx(expected["value"], rel=1e-10, abs=1e-10)
    assert logits_NK.grad.norm().item() == pytest.approx(expected["grad_norm"], rel=1e-10, abs=1e-10)


def batch(seed: int, images: int = 5, classes: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits_NK = 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    teacher_NK = 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
    return logits_NK, torch.randint(classes, (images,), generator=generator), teacher_NK


seeds = st.integers(0, 10_000)
alphas = st.floats(0, 1)
smoothings = st.floats(0, 0.85)  # spread over the others, more than 6/7 would invert the labels
temperatures = st.floats(0.5, 50)
forms = st.sampled_from(["released", "printed"])


@given(seeds, temperatures, forms, st.sampled_from([LabelSmoothing, Distillation, TfReg]))
def test_alpha_zero_is_cross_entropy(seed: int, temperature: float, form: str, loss_type: type[Loss]) -> None:
    logits_NK, labels_N, teacher_NK = batch(seed)
    values: dict[str, Any] = {} if loss_type is LabelSmoothing else {"temperature": temperature}
    loss = loss_type(**{"alpha": 0.0, **values, **loss_type.FORMS[form]})
    assert loss(logits_NK, labels_N, teacher_NK).total.item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits_NK, labels_N).item(), rel=1e-12
    )


@given(seeds, smoothings, st.floats(-50, 50), forms, st.sampled_from(list(LOSSES.values())))
def test_adding_a_constant_to_the_logits_changes_nothing(
    seed: int, alpha: float, shift: float, form: str, loss_type: type[Loss]
) -> None:
    logits_NK, labels_N, teacher_NK = batch(seed)
    values: dict[str, Any] = {} if loss_type is CrossEntropy else {"alpha": alpha}
    loss = loss_type(**values, **loss_type.FORMS[form])
    before = loss(logits_NK, labels_N, teacher_NK).total.item()
    assert loss(logits_NK + shift, labels_N, teacher_NK + shift).total.item() == pytest.approx(
        before, abs=1e-8
    )


@given(seeds, forms)
def test_no_gradient_reaches_the_teacher(seed: int, form: str) -> None:
    logits_NK, labels_N, teacher_NK = batch(seed)
    logits_NK.requires_grad_()
    teacher_NK.requires_grad_()
    Distillation(**Distillation.FORMS[form])(logits_NK, labels_N, teacher_NK).total.backward()  # type: ignore[no-untyped-call]
    assert logits_NK.grad is not None
    assert teacher_NK.grad is None


@given(seeds, alphas)
def test_printed_lsr_is_equation_2_without_its_constant(seed: int, alpha: float) -> None:
    logits_NK, labels_N, _ = batch(seed)
    classes = logits_NK.shape[1]
    uniform_NK = torch.full_like(logits_NK, 1 / classes)
    one_hot_NK = torch.nn.functional.one_hot(labels_N, classes).double()
    smoothed_NK = (1 - alpha) * one_hot_NK + alpha * uniform_NK  # Eq. 1
    equation_2 = -(smoothed_NK * logits_NK.log_softmax(1)).sum(1).mean().item()
    printed = LabelSmoothing(alpha=alpha, spread="all")(logits_NK, labels_N).total.item()
    assert printed + alpha * math.log(classes) == pytest.approx(equation_2, rel=1e-10)


@given(seeds, alphas)
def test_printed_lsr_is_torchs_label_smoothing_without_its_constant(seed: int, alpha: float) -> None:
    logits_NK, labels_N, _ = batch(seed)
    logits_NK.requires_grad_()
    ours = LabelSmoothing(alpha=alpha, spread="all")(logits_NK, labels_N).total
    torchs = torch.nn.functional.cross_entropy(logits_NK, labels_N, label_smoothing=alpha)
    assert ours.item() + alpha * math.log(7) == pytest.approx(torchs.item(), rel=1e-10)
    torch.testing.assert_close(*(torch.autograd.grad(each, logits_NK)[0] for each in (ours, torchs)))


@given(seeds, alphas)
def test_printed_kd_at_temperature_one_is_cross_entropy_with_a_learned_target(
    seed: int, alpha: float
) -> None:
    logits_NK, labels_N, teacher_NK = batch(seed)
    p_teacher_NK = teacher_NK.softmax(1)
    one_hot_NK = torch.nn.functional.one_hot(labels_N, logits_NK.shape[1]).double()
    target_NK = (1 - alpha) * one_hot_NK + alpha * p_teacher_NK  # Eq. 6
    equation_6 = -(target_NK * logits_NK.log_softmax(1)).sum(1).mean().item()
    teacher_entropy = (
        -(p_teacher_NK * teacher_NK.log_softmax(1)).sum(1).mean().item()
    )  # the constant of Eq. 5
    loss = Distillation(alpha=alpha, temperature=1.0, **Distillation.FORMS["printed"])
    kd = loss(logits_NK, labels_N, teacher_NK).total.item()
    assert kd + alpha * teacher_entropy == pytest.approx(equation_6, rel=1e-10)


@given(seeds, alphas)
def test_printed_lsr_is_kd_from_a_uniform_teacher_at_temperature_one(seed: int, alpha: float) -> None:
    logits_NK, labels_N, _ = batch(seed)
    kd = Distillation(alpha=alpha, temperature=1.0, **Distillation.FORMS["printed"])
    lsr = LabelSmoothing(alpha=alpha, spread="all")
    uniform = torch.zeros_like(logits_NK)
    assert lsr(logits_NK, labels_N).total.item() == pytest.approx(
        kd(logits_NK, labels_N, uniform).total.item(), rel=1e-10
    )


@given(seeds, temperatures)
def test_the_printed_virtual_teacher_is_its_definition_softened_and_normalised(
    seed: int, temperature: float
) -> None:
    logits_NK, labels_N, _ = batch(seed)
    virtual_NK = TfReg(temperature=temperature, softening="power").virtual_teacher(logits_NK, labels_N)
    power_NK = torch.full_like(logits_NK, 0.01 / 6).scatter(1, labels_N[:, None], 0.99) ** (1 / temperature)
    torch.testing.assert_close(virtual_NK, power_NK / power_NK.sum(1, keepdim=True))


@given(seeds, temperatures, st.sampled_from(["softmax", "power"]))
def test_the_two_probabilities_of_the_virtual_teacher_are_those_it_teaches(
    seed: int, temperature: float, softening: Literal["softmax", "power"]
) -> None:
    logits_NK, labels_N, _ = batch(seed)
    loss = TfReg(temperature=temperature, softening=softening)
    right, wrong = loss.virtual_probabilities(7)
    expected_NK = torch.full_like(logits_NK, wrong).scatter(1, labels_N[:, None], right)
    torch.testing.assert_close(loss.virtual_teacher(logits_NK, labels_N), expected_NK)


def test_the_virtual_teacher_has_the_probabilities_of_the_papers_notes() -> None:
    # paper.md b: softmax(p/τ) gives 0.1045 / 0.0995 at τ = 20 and 0.1093 / 0.0990 at τ = 10; p^(1/τ) 0.135.
    assert TfReg(temperature=20).virtual_probabilities(10) == pytest.approx((0.1045, 0.0995), abs=5e-5)
    assert TfReg(temperature=10).virtual_probabilities(10) == pytest.approx((0.1093, 0.0990), abs=5e-5)
    assert TfReg(temperature=20, softening="power").virtual_probabilities(10)[0] == pytest.approx(
        0.135, abs=5e-4
    )


def test_the_released_tf_reg_of_resnet18_is_label_smoothing_of_one_tenth() -> None:
    loss = TfReg(alpha=0.1, temperature=20, multiplier=100)
    assert loss.weights(100) == pytest.approx({"ce": 0.9, "kl": 0.1})
    assert loss.epsilon(100) == pytest.approx(0.1, abs=1e-3)


@pytest.mark.parametrize(
    ("alpha", "temperature", "multiplier", "kl"),
    [(0.95, 20, 1, 3.8), (0.6, 20, 1, 2.4), (0.95, 6, 50, 17.1), (0.9, 20, 100, 360)],
)
def test_the_released_kd_weights_are_those_of_the_paper_notes(
    alpha: float, temperature: float, multiplier: float, kl: float
) -> None:
    loss = Distillation(alpha=alpha, temperature=temperature, multiplier=multiplier)
    assert loss.weights(100) == pytest.approx({"ce": 1 - alpha, "kl": kl})


@given(seeds, smoothings)
def test_released_lsr_weights_describe_its_gradient(seed: int, alpha: float) -> None:
    logits_NK, labels_N, _ = batch(seed)
    loss = LabelSmoothing(alpha=alpha)
    weight = loss.weights(logits_NK.shape[1])
    uniform_NK = torch.full_like(logits_NK, 1 / logits_NK.shape[1])

    def gradient(total: Tensor) -> Tensor:
        return torch.autograd.grad(total, logits_NK)[0]

    logits_NK.requires_grad_()
    described = weight["ce"] * cross_entropy(logits_NK, labels_N) + weight["kl"] * kl_divergence(
        uniform_NK, logits_NK.log_softmax(1)
    )
    torch.testing.assert_close(gradient(loss(logits_NK, labels_N).total), gradient(described))


@pytest.mark.parametrize(
    ("loss_type", "values"),
    [
        (Distillation, {"alpha": 1.5}),
        (Distillation, {"alpha": -0.1}),
        (Distillation, {"temperature": 0.0}),
        (TfReg, {"temperature": -3.0}),
        (TfReg, {"temperature": float("nan")}),
        (TfReg, {"temperature": 1e200}),
        (TfReg, {"correct_prob": 1.0}),
        (LabelSmoothing, {"alpha": 2.0}),
        (CrossEntropy, {"scale": 0.0}),
    ],
)
def test_a_loss_refuses_values_that_mean_nothing(loss_type: type[Loss], values: dict[str, float]) -> None:
    with pytest.raises(ValueError) as refused:
        loss_type(**values)
    assert isinstance(refused.value, RequestError)
    assert refused.value.expected


@pytest.mark.parametrize(("classes", "alpha"), [(2, 0.51), (10, 0.95), (100, 1.0)])
def test_smoothing_over_the_others_that_would_invert_the_labels_is_refused(
    classes: int, alpha: float
) -> None:
    loss = LabelSmoothing(alpha=alpha)
    with pytest.raises(ValueError, match="every wrong class would get more of the target"):
        loss(torch.zeros(3, classes), torch.zeros(3, dtype=torch.int64))
    LabelSmoothing(alpha=alpha, spread="all").check(classes)
    LabelSmoothing(alpha=(classes - 1) / classes).check(classes)


def test_a_virtual_teacher_that_would_invert_the_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="every wrong class would get more of the target"):
        TfReg(correct_prob=0.05)(torch.zeros(3, 10), torch.zeros(3, dtype=torch.int64))
    TfReg(correct_prob=0.1).check(10)


@pytest.mark.parametrize("loss_type", LOSSES.values())
@pytest.mark.parametrize(
    "labels_N",
    [torch.full((4, 7), 1 / 7), torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.zeros(3, dtype=torch.int64)],
    ids=["mixed", "floats", "too few"],
)
def test_labels_that_are_no_class_indices_are_refused(loss_type: type[Loss], labels_N: Tensor) -> None:
    with pytest.raises(ValueError, match="labels of shape") as refused:
        loss_type()(torch.zeros(4, 7), labels_N, torch.zeros(4, 7))
    assert "(4,)" in str(refused.value)


@pytest.mark.parametrize(
    "loss", [kind(**kind.FORMS[form]) for kind in LOSSES.values() for form in kind.FORMS]
)
def test_a_loss_is_the_weighted_sum_of_the_parts_it_reports(loss: Loss) -> None:
    logits_NK, labels_N, teacher_NK = batch(0)
    total, parts = loss(logits_NK, labels_N, teacher_NK)
    assert parts.keys() == loss.reports.keys()
    assert loss.weights(7).keys() in (parts.keys(), set())  # which may be left out
    smoothed = isinstance(loss, LabelSmoothing) and loss.spread == "others"
    if loss.weights(7) and not smoothed:  # whose KL is of another distribution
        weighted = sum(weight * parts[name].item() for name, weight in loss.weights(7).items())
        assert total.item() == pytest.approx(weighted)


@pytest.mark.parametrize("loss_type", LOSSES.values())
def test_every_field_of_a_loss_is_documented(loss_type: type[Loss]) -> None:
    assert all(each.metadata["meaning"] for each in fields(loss_type))
    assert loss_type.__doc__


def test_a_teacher_that_contradicts_itself_with_zero_probability_gives_no_nan() -> None:
    logits_NK = torch.zeros(1, 3)
    teacher_NK = torch.tensor([[1000.0, 0.0, 0.0]])
    assert Distillation(temperature=1.0)(logits_NK, torch.tensor([1]), teacher_NK).total.isfinite()


def test_method_names_ignore_case_dashes_and_underscores() -> None:
    assert [method(name).name for name in ("TF_Self", "tfself", "RE-KD")] == ["tf-self", "tf-self", "re-kd"]


def test_an_unknown_method_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(RequestError, match="tf-selv") as error:
        method("tf-selv")
    assert "tf-self" in error.value.hint
