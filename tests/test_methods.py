"""The losses: equal to the released ones, and true to the paper's identities where printed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tfkd_cli.errors import RequestError
from tfkd_cli.methods import (
    LOSSES,
    METHODS,
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
temperatures = st.floats(0.5, 50)
forms = st.sampled_from(["released", "printed"])


@given(seeds, temperatures, forms, st.sampled_from([LabelSmoothing, Distillation, TfReg]))
def test_alpha_zero_is_cross_entropy(seed: int, temperature: float, form: str, loss_type: type[Loss]) -> None:
    logits_NK, labels_N, teacher_NK = batch(seed)
    values: dict[str, Any] = {} if loss_type is LabelSmoothing else {"temperature": temperature}
    loss = loss_type(alpha=0.0, **values, **loss_type.FORMS[form])  # type: ignore[call-arg]
    assert loss(logits_NK, labels_N, teacher_NK).total.item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits_NK, labels_N).item(), rel=1e-12
    )


@given(seeds, alphas, st.floats(-50, 50), forms, st.sampled_from(list(LOSSES.values())))
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


def test_the_released_tf_reg_of_resnet18_is_label_smoothing_of_one_tenth() -> None:
    weights = TfReg(alpha=0.1, temperature=20, multiplier=100).weights(100)
    assert weights.ce + weights.kl == pytest.approx(1.0)
    assert weights.kl / (weights.ce + weights.kl) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("alpha", "temperature", "multiplier", "kl"),
    [(0.95, 20, 1, 3.8), (0.6, 20, 1, 2.4), (0.95, 6, 50, 17.1), (0.9, 20, 100, 360)],
)
def test_the_released_kd_weights_are_those_of_the_paper_notes(
    alpha: float, temperature: float, multiplier: float, kl: float
) -> None:
    loss = Distillation(alpha=alpha, temperature=temperature, multiplier=multiplier)
    assert loss.weights(100) == pytest.approx((1 - alpha, kl))


@given(seeds, alphas)
def test_released_lsr_weights_describe_its_gradient(seed: int, alpha: float) -> None:
    logits_NK, labels_N, _ = batch(seed)
    loss = LabelSmoothing(alpha=alpha)
    weight = loss.weights(logits_NK.shape[1])
    uniform_NK = torch.full_like(logits_NK, 1 / logits_NK.shape[1])

    def gradient(total: Tensor) -> Tensor:
        return torch.autograd.grad(total, logits_NK)[0]

    logits_NK.requires_grad_()
    described = weight.ce * cross_entropy(logits_NK, labels_N) + weight.kl * kl_divergence(
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
        (TfReg, {"correct_prob": 1.0}),
        (LabelSmoothing, {"alpha": 2.0}),
        (CrossEntropy, {"scale": 0.0}),
    ],
)
def test_a_loss_refuses_values_that_mean_nothing(loss_type: type[Loss], values: dict[str, float]) -> None:
    with pytest.raises(RequestError):
        loss_type(**values)  # type: ignore[arg-type]


def test_a_teacher_that_contradicts_itself_with_zero_probability_gives_no_nan() -> None:
    logits_NK = torch.zeros(1, 3)
    teacher_NK = torch.tensor([[1000.0, 0.0, 0.0]])
    assert Distillation(temperature=1.0)(logits_NK, torch.tensor([1]), teacher_NK).total.isfinite()


def test_method_names_ignore_case_dashes_and_underscores() -> None:
    assert [method(name).name for name in ("TF_Self", "tfself", "RE-KD")] == ["tf-self", "tf-self", "re-kd"]
    assert len(METHODS) == 7


def test_an_unknown_method_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(RequestError, match="tf-selv") as error:
        method("tf-selv")
    assert "tf-self" in error.value.hint
