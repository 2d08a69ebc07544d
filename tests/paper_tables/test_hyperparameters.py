"""Loss and recipe values looked up from the general to the special, on cases worked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables.hyperparameters import assumed, lookup, rules
from paper_tables.reader import Paper
from paper_tables.spec import Setting
from tfkd_cli.data import DATASETS
from tfkd_cli.methods import METHODS, Form
from tfkd_cli.models import NETWORKS
from tfkd_cli.spec import Recipe

datasets = st.sampled_from([*DATASETS, "folder:/x"])
networks = st.sampled_from(list(NETWORKS))
forms = st.sampled_from(["released", "printed"])
RESNEXT = "torchvision:resnext101_32x8d"


def setting(
    dataset: str, student: str, method: str = "baseline", teacher: str | None = None, **more: Any
) -> Setting:
    if method == "de-kd":
        more = {"teacher_epoch": 50, **more}
    return Setting(dataset=dataset, student=student, method=method, teacher=teacher, **more)


def loss(each: Setting, form: str = "released") -> dict[str, Any]:
    return {name: found.value for name, found in lookup(each, form=form).loss.items()}


def recipe(each: Setting, form: str = "released") -> Recipe:
    values = {name: found.value for name, found in lookup(each, form=form).recipe.items()}
    return Recipe(**values)


# paper.md d.1 (params.json): method, student, teacher, α, τ, multiplier, batch, lr at that batch
PARAMS = [
    ("kd", "mobilenetv2", "resnet18", 0.95, 20, None, 128, 0.1),
    ("kd", "mobilenetv2", "densenet121", 0.95, 20, None, 128, 0.1),
    ("kd", "mobilenetv2", "resnext29", 0.95, 20, None, 64, 0.05),
    ("de-kd", "mobilenetv2", "resnext29", 0.95, 20, None, 64, 0.05),
    ("kd", "shufflenetv2", "resnet18", 0.95, 20, None, 128, 0.1),
    ("kd", "shufflenetv2", "resnet50", 0.95, 20, None, 128, 0.1),
    ("de-kd", "shufflenetv2", "resnext29", 0.95, 20, None, 64, 0.05),
    ("kd", "resnet18", "resnet50", 0.6, 20, None, 64, 0.05),
    ("de-kd", "resnet18", "resnet50", 0.6, 20, None, 64, 0.05),
    ("kd", "resnet18", "resnext29", 0.6, 20, None, 64, 0.05),
    ("re-kd", "resnet18", "mobilenetv2", 0.6, 20, None, 128, 0.1),
    ("re-kd", "resnet50", "shufflenetv2", 0.6, 20, None, 128, 0.1),
    ("re-kd", "densenet121", "mobilenetv2", 0.6, 20, None, 128, 0.1),
    ("re-kd", "densenet121", "shufflenetv2", 0.6, 20, None, 100, 0.078125),
    ("re-kd", "resnext29", "mobilenetv2", 0.6, 20, None, 64, 0.05),
    ("tf-self", "mobilenetv2", None, 0.95, 20, 1, 128, 0.1),
    ("tf-self", "shufflenetv2", None, 0.95, 20, 1, 128, 0.1),
    ("tf-self", "resnet18", None, 0.95, 6, 50, 128, 0.1),
    ("tf-self", "googlenet", None, 0.4, 20, 50, 64, 0.05),
    ("tf-self", "densenet121", None, 0.9, 20, 50, 100, 0.078125),
    ("tf-self", "resnext29", None, 0.9, 20, 100, 64, 0.05),
    ("tf-reg", "mobilenetv2", None, 0.95, 40, 1, 128, 0.1),
    ("tf-reg", "shufflenetv2", None, 0.95, 10, 1, 128, 0.1),
    ("tf-reg", "resnet18", None, 0.1, 20, 100, 128, 0.1),
    ("tf-reg", "googlenet", None, 0.1, 40, 50, 64, 0.05),
    ("kd", "plain-cnn", "resnet18", 0.9, 20, None, 128, 1e-3),
]


@pytest.mark.parametrize(
    ("method", "student", "teacher", "alpha", "temperature", "multiplier", "batch", "lr"), PARAMS
)
def test_cifar100_has_the_released_values(
    method: str,
    student: str,
    teacher: str | None,
    alpha: float,
    temperature: float,
    multiplier: float | None,
    batch: int,
    lr: float,
) -> None:
    each = setting("cifar100", student, method, teacher)
    found = loss(each)
    assert (found["alpha"], found["temperature"], found.get("multiplier")) == (alpha, temperature, multiplier)
    assert recipe(each).batch_size == batch
    assert recipe(each).peak_lr == pytest.approx(lr)
    assert assumed(each, "released") == ()


@pytest.mark.parametrize(
    ("student", "batch"),
    [
        *((name, 128) for name in ("mobilenetv2", "shufflenetv2", "resnet18", "densenet121")),
        *((name, 64) for name in ("resnet50", "googlenet", "resnext29")),
    ],
)
def test_a_baseline_on_cifar100_has_the_released_batch_and_no_assumption(student: str, batch: int) -> None:
    each = setting("cifar100", student)
    assert recipe(each) == Recipe(batch_size=batch)
    assert assumed(each, "released") == ()


@given(datasets, networks, networks, forms)
def test_a_pair_is_distilled_alike_in_either_direction_and_from_any_epoch(
    dataset: str, student: str, teacher: str, form: str
) -> None:
    kd = setting(dataset, student, "kd", teacher)
    for method in ("re-kd", "de-kd"):
        assert lookup(setting(dataset, student, method, teacher), form=form) == lookup(kd, form=form)


def test_resnet18_taught_by_a_larger_network_has_its_released_batch_under_any_name() -> None:
    """Released resnet18_distill/resnet50_teacher/params.json: 64; a `re-kd` of the pair had 128 once."""
    for method in ("kd", "re-kd", "de-kd"):
        assert recipe(setting("cifar100", "resnet18", method, "resnet50")).batch_size == 64


@given(networks, networks)
def test_on_own_images_all_methods_of_a_student_share_one_batch_size(student: str, teacher: str) -> None:
    batches = {
        recipe(setting("folder:/x", student, method, teacher)).batch_size
        for method in ("baseline", "lsr", "tf-self", "tf-reg", "kd")
    }
    assert batches == {64}


def test_label_smoothing_uses_the_batch_of_the_baseline_and_the_released_alpha() -> None:
    for student in ("mobilenetv2", "googlenet"):
        each = setting("cifar100", student, "lsr")
        assert loss(each) == {"alpha": 0.1}
        assert recipe(each) == recipe(each.baseline())


def test_what_params_json_does_not_say_is_assumed() -> None:
    missing = [
        setting("cifar100", "mobilenetv2", "kd", "resnet50"),
        setting("cifar100", "googlenet", "kd", "resnext29"),
        setting("cifar100", "densenet121", "kd", "resnext29"),
    ]
    for each in missing:
        assert {"loss.alpha", "loss.temperature", "recipe.batch_size"} <= set(assumed(each, "released"))
    assert loss(missing[0])["alpha"] == 0.95
    assert recipe(missing[0]).batch_size == 128
    assert loss(missing[1])["alpha"] == 0.6


def test_an_assumption_about_the_teacher_is_the_students_too() -> None:
    taught = setting("cifar100", "resnext29", "kd", "resnext101")
    assert "teacher.recipe.batch_size" in assumed(taught, "released")


def test_the_plain_cnn_uses_adam_without_decay() -> None:
    for dataset in ("cifar10", "cifar100", "fashion-mnist"):
        found = recipe(setting(dataset, "plain-cnn"))
        assert (found.optimizer, found.lr, found.weight_decay) == ("adam", 1e-3, 0)
    assert "recipe.lr" in assumed(setting("cifar100", "plain-cnn"), "released")
    assert assumed(setting("cifar100", "plain-cnn", "kd", "resnet18"), "released") == ()


def test_cifar10_takes_the_unpublished_values_of_the_same_network_as_assumed() -> None:
    each = setting("cifar10", "mobilenetv2", "kd", "resnet18")
    assert loss(each) == {"alpha": 0.95, "temperature": 20}
    assert {"loss.alpha", "loss.temperature"} <= set(assumed(each, "released"))
    assert assumed(each.baseline(), "released") == ()


def test_tiny_imagenet_drops_the_rate_by_ten_and_uses_its_printed_batches() -> None:
    found = recipe(setting("tiny-imagenet", "mobilenetv2"))
    assert found == Recipe(lr_factor=0.1, augment="flip-rotate20")
    for student in ("resnet50", "densenet121"):
        for each in (
            setting("tiny-imagenet", student),
            setting("tiny-imagenet", student, "re-kd", "mobilenetv2"),
        ):
            assert (recipe(each).batch_size, recipe(each).peak_lr) == (64, 0.05)
    assert recipe(setting("tiny-imagenet", "mobilenetv2", "kd", "resnext29")).batch_size == 128


def test_tf_reg_on_tiny_imagenet_softens_the_student_and_is_assumed() -> None:
    each = setting("tiny-imagenet", "mobilenetv2", "tf-reg")
    kept = {"soften_student": True, "multiplier": 1, "t_squared": False}
    assert kept.items() <= loss(each).items()
    assert {f"loss.{name}" for name in (*kept, "alpha", "temperature")} <= set(assumed(each, "released"))
    assert "soften_student" not in loss(each, "printed")


def test_imagenet_has_the_printed_recipe_and_values() -> None:
    each = setting("imagenet", "torchvision:resnet18", "tf-reg")
    found = recipe(each)
    assert found == Recipe(
        epochs=90,
        batch_size=512,
        lr=0.05,
        weight_decay=1e-4,
        milestones=(30, 60, 80),
        lr_factor=0.1,
        warmup_epochs=0,
        augment="rrc-flip",
    )
    assert found.peak_lr == pytest.approx(0.1 * 512 / 256)
    assert {"alpha": 0.1, "temperature": 20, "correct_prob": 0.99}.items() <= loss(each).items()
    sources = {name: each.source for name, each in lookup(each, form="released").loss.items()}
    assert (sources["alpha"], sources["temperature"]) == ("printed", "printed")
    assert recipe(setting("imagenet", RESNEXT)).batch_size == 256
    assert recipe(setting("imagenet", RESNEXT)).peak_lr == pytest.approx(0.1)


def test_on_imagenet_torchvisions_networks_teach_as_in_the_released_script() -> None:
    self_taught = setting("imagenet", "torchvision:resnet18", "tf-self")
    taught = setting("imagenet", "torchvision:resnet18", "kd", "torchvision:densenet121")
    for each in (self_taught, taught):
        found = lookup(each, form="released").teacher["weights"]
        assert (found.value, found.source) == ("pretrained", "released")
    assert not lookup(setting("cifar100", "resnet18", "tf-self"), form="released").teacher
    assert not lookup(setting("imagenet", "resnet18", "tf-self"), form="released").teacher


def test_a_quick_set_takes_the_values_of_the_set_it_is_derived_from_as_assumed() -> None:
    full, quick = (
        setting(name, "torchvision:resnet18", "tf-reg") for name in ("imagenet", "imagenet-quick@0")
    )
    assert loss(quick) == loss(full)
    assert recipe(quick) == replace(recipe(full), batch_size=64)
    assert {"loss.alpha", "recipe.epochs"} <= set(assumed(quick, "released")) - set(assumed(full, "released"))


def test_the_printed_form_has_no_multiplier_and_keeps_alpha_and_temperature() -> None:
    each = setting("cifar100", "resnet18", "tf-self")
    assert loss(each, "printed") == {"alpha": 0.95, "temperature": 6}
    assert (
        loss(setting("cifar100", "shufflenetv2", "tf-reg"), "printed")["temperature"] == 20
    )  # Eq. 9: τ ≥ 20


def test_how_the_printed_tf_reg_softens_is_assumed() -> None:
    each = setting("cifar100", "resnet18", "tf-reg")
    assert assumed(each, "printed") == ("loss.softening",)


def test_both_forms_share_one_recipe_and_so_one_baseline(paper: Paper) -> None:
    for table in paper.tables.values():
        for each in table.settings():
            assert recipe(each, "released") == recipe(each, "printed")


def test_a_settings_own_form_goes_before_the_requests() -> None:
    each = setting("cifar100", "resnet18", "tf-self", form="printed")
    assert loss(each, "released") == loss(each, "printed")


def test_what_a_table_declares_goes_before_the_file_and_is_no_assumption() -> None:
    each = setting("folder:/x", "resnet8", "kd", "resnet20", loss=(("alpha", 0.3),), recipe=(("epochs", 5),))
    found = lookup(each, form="released")
    assert (found.loss["alpha"].value, found.loss["alpha"].source) == (0.3, "declared")
    assert found.recipe["epochs"].value == 5
    assert "loss.alpha" not in assumed(each, "released")
    assert "loss.temperature" in assumed(each, "released")


@pytest.mark.parametrize(
    ("dataset", "augment"),
    [
        ("digits", "shift"),
        ("fashion-mnist", "crop-flip"),
        ("cifar10", "crop-flip-rotate15"),
        ("cifar100", "crop-flip-rotate15"),
        ("tiny-imagenet", "flip-rotate20"),
        ("tiny-imagenet@0123456789ab", "flip-rotate20"),
        ("imagenet", "rrc-flip"),
        ("folder:/some/images", "crop-flip"),
        ("folder@0123456789ab", "crop-flip"),
    ],
)
def test_augmentation_has_a_default_per_data_set(dataset: str, augment: str) -> None:
    assert recipe(setting(dataset, "resnet18")).augment == augment


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ["released", "printed"])
@pytest.mark.parametrize("dataset", ["folder@0123456789ab", "cifar100", "imagenet"])
def test_unknown_networks_get_a_whole_loss_that_is_assumed(method: str, form: Form, dataset: str) -> None:
    teacher = "timm:convnext_tiny" if METHODS[method].teacher == "given" else None
    each = setting(dataset, "python:my.module:network", method, teacher)
    kind = METHODS[method].loss
    kind(**{**kind.FORMS[form], **loss(each, form)})
    recipe(each)
    if method != "baseline" and dataset.startswith("folder"):
        assert "loss.alpha" in assumed(each, form)


def test_every_value_builds_its_loss_and_its_recipe(paper: Paper) -> None:
    forms: tuple[Form, ...] = ("released", "printed")
    for item in paper.expand(["all", "demo"]):
        for each in item.settings():
            kind = METHODS[each.method].loss
            for form in forms:
                kind(**{**kind.FORMS[each.form or form], **loss(each, form)})
                recipe(each, form)


def test_every_assumption_gives_its_reason() -> None:
    assert all(rule.note for rule in rules() if rule.source == "assumed")


def test_released_tf_reg_on_cifar100_divides_by_the_number_of_classes() -> None:
    for student in ("mobilenetv2", "shufflenetv2", "resnet18", "googlenet"):
        found = loss(setting("cifar100", student, "tf-reg"))
        assert found["reduction"] == "elements"
        weights = METHODS["tf-reg"].loss(**found).weights(100)
        expected = {"resnet18": 0.1, "googlenet": 0.05}.get(student, 0.0095)
        assert weights["kl"] == pytest.approx(expected)
