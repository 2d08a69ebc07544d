"""What was asked besides tables: the axes of `tfkd run`, as a table like any other, and `tfkd compare`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from paper_tables.spec import Cell, Column, Row, Setting, Table
from tfkd_cli import models
from tfkd_cli.errors import RequestError
from tfkd_cli.methods import METHODS, Method, method

UNNAMED = "run"  # what a grid without a name is shown by
MOST_COUNTED = 20  # seeds; a larger count is more likely to be meant as one seed
MOST_SEEDS = 10_000
_SEEDS = re.compile(r"\s*\d{1,9}(-\d{1,9})?(\s*,\s*\d{1,9}(-\d{1,9})?)*\s*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The axes of a grid: canonical names, in the order they were asked for; `name`: to show it by."""

    name: str = UNNAMED
    dataset: str
    students: tuple[str, ...]
    methods: tuple[str, ...]
    teachers: tuple[str, ...] = ()
    teacher_epochs: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What `tfkd compare` was asked for: these methods with one student on one data set.

    The first method is the baseline. Each method has `trials` trials, with the seed `trial_seed`; the
    baseline's are learning rates around `lr`. `classes` and `test_images` are those of the data set, whose
    files may be gone when the answer is read.
    """

    dataset: str
    student: str
    teacher: str | None
    methods: tuple[str, ...]
    trials: int
    trial_seed: int
    lr: float
    classes: int
    test_images: int


def parse_seeds(text: str) -> tuple[int, ...]:
    """`3` → 0, 1, 2; `0-4` → 0 … 4; `7,9` → 7, 9; `42-42` → 42.

    RequestError on anything else, and on a count above MOST_COUNTED, which may be meant as one seed.
    """
    parts = [_seed_range(part) for part in text.split(",")] if _SEEDS.fullmatch(text) else []
    if text.strip().isdigit() and parts:
        (count,) = parts[0]
        if count > MOST_COUNTED:
            raise RequestError(
                f"--seeds {count} is a count: the {count:,} seeds from 0 to {count - 1:,}.",
                expected=f"a count of at most {MOST_COUNTED}, a range or a list.",
                hint=f"--seeds {count}-{count} is the one seed {count}, --seeds 0-{count - 1} all of these.",
            )
        parts = [range(count)]
    if not parts or not all(parts) or sum(map(len, parts)) > MOST_SEEDS:
        raise RequestError(
            f'--seeds "{text}" names no seed, or too many.',
            expected="a count (3 is 0, 1, 2), a range (0-4) or a list (7,9); at least one seed, at most "
            f"{MOST_SEEDS:,}.",
            hint="--seeds 3",
        )
    return tuple(dict.fromkeys(seed for part in parts for seed in part))


def _seed_range(part: str) -> range:
    first, _, last = part.strip().partition("-")
    return range(int(first), int(last or first) + 1)


def table(axes: Axes, *, dataset: str = "") -> Table:
    """The grid as a table: a row for each student, method and teacher, and for each student's baseline.

    `dataset`: what its title calls the data set, where that is not its name in the axes.
    """
    methods = [method(name) for name in axes.methods]
    _check_teacher(methods, axes)
    settings = dict[Setting, tuple[str, ...]]()  # → what heads its row
    for student in axes.students:
        wanted = [
            (each, _setting(student, teacher, each, axes))
            for each in methods
            for teacher in (axes.teachers if each.teacher == "given" else (None,))
        ]
        baseline = Setting(dataset=axes.dataset, student=student, method="baseline")
        settings[baseline] = METHODS["baseline"].label, models.short(student), "–"
        settings |= {
            setting: (each.label, models.short(student), _taught_by(setting, each))
            for each, setting in wanted
        }
    rows = (
        Row(labels=labels, cells=(Cell(row=index, column="accuracy", setting=setting),))
        for index, (setting, labels) in enumerate(settings.items())
    )
    return Table(
        name=axes.name,
        title=f"{', '.join(each.label for each in methods)} on {dataset or axes.dataset}",
        kind="grid",
        heads=("Method", "Student", "Teacher"),
        columns=(Column(name="accuracy", label="Accuracy"),),
        rows=tuple(rows),
    )


def _taught_by(setting: Setting, each: Method) -> str:
    if setting.teacher is None:
        return "itself" if each.teacher == "self" else "–"
    epoch = f", epoch {setting.teacher_epoch}" if setting.teacher_epoch else ""
    return models.short(setting.teacher) + epoch


def _setting(student: str, teacher: str | None, each: Method, axes: Axes) -> Setting:
    taught = each.teacher == "given"
    epoch = axes.teacher_epochs[0] if axes.teacher_epochs and taught else None
    if each.name == "de-kd" and epoch is None:
        epoch = 1
    if each.name != "de-kd" and "de-kd" in axes.methods:
        epoch = None  # the epoch is meant for the badly trained teacher
    return Setting(
        dataset=axes.dataset,
        student=student,
        method=each.name,
        teacher=teacher if taught else None,
        teacher_epoch=epoch,
    )


def _check_teacher(methods: Sequence[Method], axes: Axes) -> None:
    need = [each.name for each in methods if each.teacher == "given"]
    if need and not axes.teachers:
        raise RequestError(
            f"{', '.join(need)} needs a teacher, none was given.",
            expected="--teacher NETWORK beside --method " + ",".join(need) + ".",
            hint="--teacher resnet18; `tfkd list models` shows all.",
        )
    if axes.teachers and not need:
        raise RequestError(
            f"{', '.join(axes.methods)} takes no teacher, {', '.join(axes.teachers)} was given.",
            expected="--teacher only with "
            + ", ".join(m.name for m in METHODS.values() if m.teacher == "given")
            + ".",
            hint="leave out --teacher"
            + (": tf-self is taught by the student's own baseline." if "tf-self" in axes.methods else "."),
        )
    if axes.teacher_epochs and not need:
        raise RequestError(
            "--teacher-epoch was given, but no method here has a teacher that is chosen.",
            expected="--method kd, re-kd or de-kd beside it.",
            hint="leave out --teacher-epoch.",
        )
