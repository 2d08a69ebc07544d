"""Every kind of damage to a TOML is refused with file, row, cell, key and what was expected."""

from __future__ import annotations

import contextlib
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables import hyperparameters
from paper_tables.reader import FOLDER, Paper
from paper_tables.spec import PaperTablesError, Table
from paper_tables.strict import Names
from paper_tables.table_toml import table

GOOD = """
title = "A table"
kind = "paper"
dataset = "cifar100"
heads = ["Large", "Small"]
roles = ["large", "small"]
column = [
  { name = "small", label = "Baseline", method = "baseline", student = "small" },
  { name = "kd", label = "Normal KD", method = "kd", student = "small", teacher = "large" },
]

[[row]]
networks = ["ResNet18", "MobileNetV2"]
cells = ["68.38", "71.05±0.16 (+2.67)"]
"""


def read(text: str, names: Names) -> Table:
    return table("table0", tomllib.loads(text), names)


def refusal(text: str, names: Names) -> PaperTablesError:
    with pytest.raises(PaperTablesError) as caught:
        read(text, names)
    return caught.value


def test_a_well_formed_table_is_read(names: Names) -> None:
    cell = read(GOOD, names).rows[0].cells[1]
    assert cell is not None
    assert (cell.setting.student, cell.setting.teacher) == ("mobilenetv2", "resnet18")
    assert (cell.published.mean, cell.published.std, cell.published.gain, cell.published.runs) == (
        71.05,
        0.16,
        2.67,
        3,
    )


DAMAGE = [
    # what is replaced, by what, what the refusal says, what it expects or hints at
    ('title = "A table"', "", "table0.toml: Object missing required field `title`", ""),
    ('title = "A table"', 'title = "A table"\nlables = []', "table0.toml: Object contains unknown field", ""),
    ('kind = "paper"', 'kind = "papre"', "table0.toml, kind: Invalid enum value 'papre'", ""),
    ('label = "Normal KD"', 'label = "x", size = 3', "table0.toml, column 2: Object contains unknown", ""),
    ('name = "kd"', 'name = "small"', "table0.toml, column 2: repeats column 1", "once"),
    ('"68.38", ', "", 'table0.toml, row 1, key "cells": has 1 values', "small, kd"),
    ('"68.38"', '"700"', 'table0.toml, row 1, cell "small": the mean is 700', "from 1 to 100"),
    ('"68.38"', "68.38", "table0.toml, row 1, cells 1: Expected `str | object`, got `float`", ""),
    ('"68.38"', '"68,38"', 'row 1, cell "small": "68,38" is not a printed number', "as printed"),
    ("(+2.67)", "(+2.76)", 'row 1, cell "kd", key "printed": the gain is +2.76', 'add erratum = "…"'),
    ('"ResNet18"', '"ResNet-18x"', 'row 1, cell "kd", key "teacher": unknown', 'did you mean "resnet18"'),
    ('"cifar100"', '"cifar1000"', 'row 1, cell "small", key "dataset": unknown dataset', '"cifar100"'),
    ('dataset = "cifar100"', "", 'row 1, cell "small": no "dataset" is given', "the table"),
    ('method = "kd"', 'method = "de-kd"', 'row 1, cell "kd", key "teacher_epoch": de-kd has none', "epoch"),
    ('["Large", "Small"]', '["Large"]', 'row 1, key "labels": has 2 values', "Large"),
    ('"68.38"', "{ loss = { alhpa = 0.1 } }", 'cell "small", loss: unknown key', 'did you mean "alpha"'),
    ('"68.38"', "{ loss = { alpha = nan } }", 'cell "small", loss, key "alpha": nan is not', ""),
    ('"68.38"', '{ note = "" }', "row 1, cells 1, note: Expected `str` matching regex", ""),
    ('"68.38"', '{ note = "a", erratum = "b" }', 'cell "small", key "note": stands beside', "one of the two"),
]


@pytest.mark.parametrize(("old", "new", "what", "expected"), DAMAGE, ids=[each[2][-40:] for each in DAMAGE])
def test_damage_is_refused_with_its_place(names: Names, old: str, new: str, what: str, expected: str) -> None:
    assert GOOD.count(old) == 1
    error = refusal(GOOD.replace(old, new), names)
    assert what in error.what
    assert expected in error.expected + error.hint


def test_a_table_may_declare_one_teacher_per_seed(names: Names) -> None:
    assert read(GOOD, names).teacher_seeds == "one"
    assert read('teacher_seeds = "paired"\n' + GOOD, names).teacher_seeds == "paired"


def test_a_repeated_row_is_refused(names: Names) -> None:
    row = GOOD[GOOD.index("[[row]]") :]
    assert "table0.toml, row 2: repeats row 1" in refusal(GOOD + row, names).what


def test_the_same_settings_under_another_label_are_refused(names: Names) -> None:
    row = GOOD[GOOD.index("[[row]]") :].replace("networks", 'labels = ["x", "y"]\nnetworks')
    assert "table0.toml, row 2: repeats row 1" in refusal(GOOD + row, names).what


def test_a_slip_with_an_erratum_is_copied_and_not_mended(names: Names) -> None:
    slip = '{ printed = "71.05±0.16 (+2.76)", erratum = "71.05 - 68.38 = 2.67." }'
    cell = read(GOOD.replace('"71.05±0.16 (+2.67)"', slip), names).rows[0].cells[1]
    assert cell is not None
    assert (cell.published.gain, cell.note, cell.erratum) == (2.76, "71.05 - 68.38 = 2.67.", True)


def test_only_our_own_tables_may_leave_cells_unprinted(names: Names) -> None:
    bare = GOOD.replace('kind = "paper"', 'kind = "control"')
    bare = bare.replace('cells = ["68.38", "71.05±0.16 (+2.67)"]', "")
    assert [cell.published.mean for cell in read(bare, names).cells()] == [None, None]


def test_a_fault_of_the_program_is_not_taken_for_one_of_the_file(names: Names) -> None:
    def broken(_: str) -> str:
        raise RuntimeError("ours")

    faulty = Names(
        network=broken,
        dataset=broken,
        method=broken,
        loss_fields=names.loss_fields,
        recipe_fields=names.recipe_fields,
    )
    with pytest.raises(RuntimeError, match="ours"):
        read(GOOD, faulty)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The shipped TOML in a folder that may be damaged."""
    return Path(
        shutil.copytree(FOLDER, tmp_path / "paper", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    )


FILES = [
    ("figures/fig2a.toml", '"best"', '"last"', "fig2a.toml, series 1", "teacher_epochs"),
    ("figures/fig2a.toml", "[15.48, 70.5]", "[15.48, 700]", "fig2a.toml, series 1", "points"),
    ("figures/fig2a.toml", 'status = "APPROXIMATE"', 'status = "MAYBE"', "fig2a.toml, series 1", "status"),
    (
        "figures/fig3.toml",
        "classes = 10 }",
        "klasses = 10 }",
        "fig3.toml, series 3, values: Invalid enum value",
        "klasses",
    ),
    ("figures/soft-targets.toml", "values = { temperature = 1 }", "vales = 1", "series 1", "vales"),
    ("claims/tf-reg.toml", '"table9"', '"table99"', "tf-reg.toml, over 1", "table"),
    ("claims/tf-reg.toml", 'against = "lsr"', 'against = "lst"', "tf-reg.toml, over 1", "against"),
    ("claims/tf-self.toml", '"equal"', '"same"', "tf-self.toml", "relation"),
    ("claims/tf-self.toml", "margin = 0.3", "margin = 0", "tf-self.toml", "margin"),
    ("claims/loss-scale.toml", '["kd"]', '["dk"]', "loss-scale.toml, over 1", "methods"),
    ("variants.toml", "alpha = 0.1,", "alfa = 0.1,", "variants.toml, variant 1, loss", "alfa"),
    ("tables/table1.toml", "title =", "title", "table1.toml: cannot be read", ""),
]


@pytest.mark.parametrize(("file", "old", "new", "place", "key"), FILES)
def test_every_kind_of_file_is_read_strictly(
    names: Names, copied: Path, file: str, old: str, new: str, place: str, key: str
) -> None:
    text = (copied / file).read_text(encoding="utf-8")
    assert old in text
    (copied / file).write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(PaperTablesError) as caught:
        Paper(names, copied)
    assert place in caught.value.what
    assert key in caught.value.what


HYPERPARAMETERS = [
    ('student = "googlenet"', 'student = "googlenett"', "student"),
    ('dataset = "digits"', 'dataset = "digitz"', "dataset"),
    ('method = "tf-self"', 'method = "tf-shelf"', "method"),
    ('form = "printed"', 'form = "painted"', "form"),
    ('from = "printed"', 'from = "guessed"', "from"),
    ("loss = { alpha", "loss = { alfa", "alfa"),
    ("batch_size = 128", "batchsize = 128", "batchsize"),
    ("elsewhere = true", 'elsewhere = "yes"', "elsewhere"),
    ("[[entry]]", "[[entrys]]", "entrys"),
    ('method = "tf-self"', 'method = "re-kd"', "whose values are those of kd"),
]


@pytest.mark.parametrize(("old", "new", "key"), HYPERPARAMETERS)
def test_the_hyperparameters_are_read_strictly(
    names: Names, tmp_path: Path, old: str, new: str, key: str
) -> None:
    text = hyperparameters.FILE.read_text(encoding="utf-8")
    damaged = tmp_path / "hyperparameters.toml"
    damaged.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(PaperTablesError, match=r"hyperparameters\.toml") as caught:
        hyperparameters.check(names, damaged)
    assert key in caught.value.what


PLAIN = st.recursive(
    st.one_of(
        st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["kd", "68.38"])
    ),
    lambda each: st.one_of(
        st.lists(each, max_size=3), st.dictionaries(st.text(max_size=8), each, max_size=3)
    ),
    max_leaves=8,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path] * bool(path) + [place for key, each in inside for place in places(each, (*path, key))]


@given(place=st.sampled_from(places(tomllib.loads(GOOD))), value=PLAIN)
def test_any_other_value_anywhere_is_read_or_refused_and_nothing_else(
    names: Names, place: tuple[Any, ...], value: Any
) -> None:
    data: Any = tomllib.loads(GOOD)
    owner = data
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = value
    with contextlib.suppress(PaperTablesError):
        table("table0", data, names)


def test_a_table_may_give_networks_recipes_of_their_own_as_students_and_as_teachers(names: Names) -> None:
    own = """
recipe = { epochs = 4, lr = 0.1 }
recipes = { ResNet18 = { lr = 0.2 }, mobilenetv2 = { lr = 0.3 } }
"""
    student, taught = (each.setting for each in read(own + GOOD, names).cells())
    assert dict(student.recipe) == dict(taught.recipe) == {"epochs": 4, "lr": 0.3}
    assert dict(taught.taught_by("resnet18").recipe) == {"epochs": 4, "lr": 0.2}
    assert taught.taught_by("mobilenetv2") == taught.baseline() == student
    with pytest.raises(PaperTablesError, match=r"table0\.toml, recipes"):
        read(own.replace("ResNet18", "ResNet81") + GOOD, names)
