"""A run's identity: what changes its key, what does not, and what its folder is called."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli.errors import RequestError
from tfkd_cli.methods import CrossEntropy, Distillation, LabelSmoothing, Loss, TfReg
from tfkd_cli.spec import (
    TRAINER_VERSION,
    ForeignTeacher,
    Recipe,
    RunSpec,
    Teacher,
    scale_epoch,
    slug,
    snapshot_epochs,
)

TEACHER = RunSpec(dataset="cifar100", student="resnet18")
STUDENT = RunSpec(
    dataset="cifar100", student="mobilenetv2", loss=Distillation(), teacher=Teacher(run=TEACHER), seed=1
)

names = st.sampled_from(["resnet18", "mobilenetv2", "plain-cnn", "torchvision:resnet18"])
positive = st.floats(0.01, 50, allow_nan=False)
losses: st.SearchStrategy[Loss] = st.one_of(
    st.builds(CrossEntropy, scale=positive),
    st.builds(LabelSmoothing, alpha=st.floats(0, 1)),
    st.builds(TfReg, alpha=st.floats(0, 1), temperature=st.floats(0.1, 1000)),
    st.builds(Distillation, alpha=st.floats(0, 1), temperature=st.floats(0.1, 1000), multiplier=positive),
)
recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 400),
    batch_size=st.integers(1, 512),
    lr=positive,
    weight_decay=st.floats(0, 1),
)


@st.composite
def specs(draw: st.DrawFn) -> RunSpec:
    loss, recipe = draw(losses), draw(recipes)
    teacher_run = RunSpec(dataset="digits", student=draw(names), recipe=recipe)
    teacher = draw(
        st.one_of(
            st.builds(Teacher, run=st.just(teacher_run), checkpoint=st.sampled_from(["best", "last", 1, 7])),
            st.builds(
                ForeignTeacher, network=names, digest=st.text("0123456789abcdef", min_size=64, max_size=64)
            ),
        )
    )
    return RunSpec(
        dataset="digits",
        student=draw(names),
        loss=loss,
        teacher=teacher if loss.needs_teacher else None,
        recipe=recipe,
        seed=draw(st.integers(0, 2**31)),
    )


def test_a_run_of_an_older_trainer_version_keeps_the_key_it_was_published_under() -> None:
    baseline = replace(TEACHER, trainer=1)
    assert baseline.key[:12] == "e7856b390594"  # in tests/golden/keys.json before trainer version 2
    teacher = Teacher(run=baseline)
    taught = replace(STUDENT, trainer=1, teacher=teacher)
    read = RunSpec.from_json(taught.to_json())
    assert read == taught
    assert read.outdated == "made by trainer version 1, this is version 2; not comparable"
    assert isinstance(read.teacher, Teacher)
    assert read.teacher.run.key == teacher.run.key


def test_a_run_of_a_newer_trainer_version_is_refused() -> None:
    with pytest.raises(RequestError, match="trainer"):
        RunSpec.from_json({**TEACHER.to_json(), "trainer": TRAINER_VERSION + 1})


@given(specs())
def test_a_spec_survives_its_own_json(spec: RunSpec) -> None:
    again = RunSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert again.key == spec.key


@given(specs(), specs())
def test_equal_specs_have_equal_keys_and_others_do_not(one: RunSpec, other: RunSpec) -> None:
    assert (one.key == other.key) == (one == other)


@given(specs())
def test_a_folder_name_is_safe_and_ends_in_the_key(spec: RunSpec) -> None:
    assert spec.folder.endswith(spec.key[:12])
    assert slug(spec.folder) == spec.folder
    assert len(spec.folder) < 200


def test_a_whole_number_and_its_float_are_one_key() -> None:
    assert (
        replace(STUDENT, loss=Distillation(temperature=4)).key
        == replace(STUDENT, loss=Distillation(temperature=4.0)).key
    )


def test_a_changed_teacher_changes_every_student() -> None:
    other = replace(TEACHER, recipe=Recipe(epochs=100))
    assert replace(STUDENT, teacher=Teacher(run=other)).key != STUDENT.key


def test_the_checkpoint_that_teaches_is_part_of_the_identity() -> None:
    assert replace(STUDENT, teacher=Teacher(run=TEACHER, checkpoint=1)).key != STUDENT.key


def test_a_run_taught_by_a_smaller_network_is_an_ordinary_kd_run() -> None:
    assert STUDENT.method == "kd"
    assert STUDENT.folder.startswith("cifar100-mobilenetv2-kd-from-resnet18-s1-")


def test_a_run_taught_by_itself_is_called_tf_self() -> None:
    assert replace(STUDENT, student="resnet18").method == "tf-self"


def test_a_distillation_without_a_teacher_is_refused() -> None:
    with pytest.raises(RequestError, match="needs a teacher"):
        replace(STUDENT, teacher=None)


def test_a_baseline_with_a_teacher_is_refused() -> None:
    with pytest.raises(RequestError, match="takes no teacher"):
        replace(TEACHER, teacher=Teacher(run=TEACHER))


@pytest.mark.parametrize(
    ("epochs", "milestones", "warmup"),
    [
        (200, (60, 120, 160), 1.0),
        (100, (30, 60, 80), 1.0),
        (10, (3, 6, 8), 0.5),
        (5, (2, 3, 4), 0.25),
        (1, (1,), 0.05),
    ],
)
def test_milestones_and_warm_up_follow_the_length(
    epochs: int, milestones: tuple[int, ...], warmup: float
) -> None:
    recipe = Recipe().with_epochs(epochs)
    assert (recipe.milestones, recipe.warmup_epochs) == (milestones, warmup)


def test_a_recipe_without_warm_up_stays_without() -> None:
    assert Recipe(warmup_epochs=0).with_epochs(10).warmup_epochs == 0


@pytest.mark.parametrize(
    ("epochs", "kept"),
    [(200, (1, 10, 20, 35, 50, 80, 120, 160)), (10, (1, 2, 3, 4, 6, 8)), (2, (1, 2)), (1, (1,))],
)
def test_a_baseline_keeps_the_snapshots_that_de_kd_and_figure_2_need(
    epochs: int, kept: tuple[int, ...]
) -> None:
    assert snapshot_epochs(epochs) == kept


def test_only_a_baseline_keeps_snapshots() -> None:
    assert TEACHER.snapshots
    assert not STUDENT.snapshots
    assert not replace(TEACHER, loss=CrossEntropy(scale=0.05)).snapshots


@given(st.integers(1, 200), st.integers(1, 400))
def test_a_paper_epoch_is_always_an_epoch_of_the_run(paper_epoch: int, epochs: int) -> None:
    assert 1 <= scale_epoch(paper_epoch, epochs) <= epochs


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(STUDENT.to_json())), json_values)
def test_a_damaged_description_is_refused_and_never_crashes(field: str, value: object) -> None:
    data = {**STUDENT.to_json(), field: value}
    try:
        assert isinstance(RunSpec.from_json(data), RunSpec)
    except RequestError as error:
        assert error.what  # noqa: PT017  any outcome but a RequestError is a failure


@pytest.mark.parametrize("text", ["../x", "/etc/passwd", "a\0b", "<script>", "..", ""])
def test_a_slug_is_never_a_path(text: str) -> None:
    made = slug(text)
    assert made
    assert not set(made) & set("/\0<>")
    assert not made.startswith(".")


GOLDEN_KEYS = {
    "cifar100-resnet18-baseline-s0-": TEACHER,
    "cifar100-mobilenetv2-kd-from-resnet18-s1-": STUDENT,
}


def test_published_keys_stand() -> None:
    """A key is a run's name on disk: when this fails, every result made so far would be trained again."""
    assert {prefix + spec.key[:12] for prefix, spec in GOLDEN_KEYS.items()} == {
        "cifar100-resnet18-baseline-s0-d01b790d0d6d",
        "cifar100-mobilenetv2-kd-from-resnet18-s1-2db581c1fde7",
    }
