"""What the axes of a grid mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli.errors import RequestError
from tfkd_cli.grid import Axes, parse_seeds, table


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("3", (0, 1, 2)),
        ("0-4", (0, 1, 2, 3, 4)),
        ("7,9", (7, 9)),
        ("1", (0,)),
        ("0-1,7", (0, 1, 7)),
        ("20", tuple(range(20))),
        ("123456-123456", (123456,)),
        ("0-41", tuple(range(42))),
    ],
)
def test_seeds_are_a_count_a_range_or_a_list(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["0", "", "x", "4-1", "4-1,3", "-3", "1,,2", "1.5", "0-", "٣"])
def test_seeds_that_name_none_are_refused(text: str) -> None:
    with pytest.raises(RequestError, match="names no seed"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["42", "123456", "1234567"])
def test_a_number_that_may_be_meant_as_one_seed_is_refused_with_both_ways_to_say_it(text: str) -> None:
    with pytest.raises(RequestError, match="is a count") as caught:
        parse_seeds(text)
    assert f"--seeds {text}-{text} is the one seed" in caught.value.hint
    assert f"--seeds 0-{int(text) - 1}" in caught.value.hint


def test_a_range_of_more_seeds_than_anybody_trains_is_refused_not_cut_short() -> None:
    with pytest.raises(RequestError, match="names no seed, or too many"):
        parse_seeds("1-999999999")


@given(st.text(max_size=12))
def test_any_text_is_seeds_or_a_clear_refusal(text: str) -> None:
    try:
        assert all(seed >= 0 for seed in parse_seeds(text))
    except RequestError as error:
        assert "--seeds" in str(error)  # noqa: PT017  any other exception fails the test


def axes(*methods: str, teachers: tuple[str, ...] = (), epochs: tuple[int, ...] = ()) -> Axes:
    return Axes(
        dataset="digits",
        students=("resnet8", "plain-cnn"),
        methods=methods,
        teachers=teachers,
        teacher_epochs=epochs,
    )


def test_a_grid_has_a_row_for_each_method_and_teacher_under_the_baseline_of_each_student() -> None:
    made = table(axes("kd", "re-kd", teachers=("resnet20", "resnet18")))
    assert [row.labels for row in made.rows][:3] == [
        ("Baseline", "resnet8", "–"),
        ("Normal KD", "resnet8", "resnet20"),
        ("Normal KD", "resnet8", "resnet18"),
    ]
    assert len(list(made.cells())) == 10
    assert sum(cell.is_baseline for cell in made.cells()) == 2


def test_a_grid_says_itself_where_a_student_is_its_own_teacher() -> None:
    made = table(axes("tf-self", "de-kd", teachers=("torchvision:resnet18",)))
    teachers = {labels[0]: labels[2] for labels in (row.labels for row in made.rows)}
    assert teachers == {"Baseline": "–", "Tf-KD_self": "itself", "De-KD": "resnet18, epoch 1"}


@pytest.mark.parametrize("name", ["kd", "re-kd", "de-kd"])
def test_a_method_with_a_teacher_needs_one(name: str) -> None:
    with pytest.raises(RequestError, match="needs a teacher"):
        table(axes(name))


@pytest.mark.parametrize("name", ["tf-self", "tf-reg", "lsr", "baseline"])
def test_a_method_without_a_teacher_forbids_one(name: str) -> None:
    with pytest.raises(RequestError, match="takes no teacher"):
        table(axes(name, teachers=("resnet20",)))


def test_de_kd_is_taught_by_the_first_epoch_unless_told_otherwise() -> None:
    epochs = {
        c.setting.method: c.setting.teacher_epoch
        for c in table(axes("kd", "de-kd", teachers=("resnet20",))).cells()
    }
    assert epochs == {"baseline": None, "kd": None, "de-kd": 1}


def test_a_teacher_epoch_without_a_chosen_teacher_is_refused() -> None:
    with pytest.raises(RequestError, match="teacher-epoch"):
        table(axes("tf-self", epochs=(3,)))
