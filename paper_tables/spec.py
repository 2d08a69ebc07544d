"""The paper's nouns: Setting, Cell, Table, Figure, Claim. Frozen data; nothing here runs anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

Values = tuple[tuple[str, Any], ...]
"""Named values in a hashable form, sorted by name: `(("alpha", 0.1), ("temperature", 20))`."""

TeacherSeeds = Literal["one", "paired"]
"""`one`: a teacher (seed 0) for all seeds of a student, as in the paper. `paired`: one for each seed."""

FigureKind = Literal["sweep", "curves", "bars", "soft-targets"]


class PaperTablesError(ValueError):
    """What is wrong in a TOML (file, row, cell, key), what was expected, what to do."""

    def __init__(self, what: str, *, expected: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what, self.expected, self.hint = what, expected, hint


class UnknownNameError(PaperTablesError):
    """There is no table or figure of this name; the files themselves are sound."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One experiment as the paper would name it, seeds apart.

    `loss` and `recipe` hold what the TOML sets on top of hyperparameters.toml; `form` overrides the
    request's `--form`. `teacher_epoch` counts in the paper's 200 epochs (None: the best epoch).
    """

    dataset: str
    student: str
    method: str
    teacher: str | None = None
    teacher_epoch: int | None = None
    form: Literal["released", "printed"] | None = None
    loss: Values = ()
    recipe: Values = ()
    teacher_recipe: Values = ()  # of a teacher of another network; empty: that of the student

    def baseline(self) -> Setting:
        """The same network on the same data with plain cross-entropy."""
        return Setting(dataset=self.dataset, student=self.student, method="baseline", recipe=self.recipe)

    def to_json(self) -> dict[str, Any]:
        """As `show --format json` and `explain --json` have it."""
        names = ("dataset", "student", "method", "teacher", "teacher_epoch", "form")
        values = {name: dict(getattr(self, name)) for name in ("loss", "recipe")}
        return {**{name: getattr(self, name) for name in names}, **values}

    def taught_by(self, network: str) -> Setting:
        """The baseline whose run teaches this setting."""
        own = network == self.student or not self.teacher_recipe
        return replace(self.baseline(), student=network, recipe=self.recipe if own else self.teacher_recipe)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What the paper prints in a cell, in percent and points; None where nothing is printed."""

    mean: float | None = None
    std: float | None = None
    gain: float | None = None
    runs: int = 1  # the runs behind the printed value: 3 where it has a ±, else 1
    teacher_accuracy: float | None = None  # De-KD prints the poor teacher's accuracy


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One printed number: where it stands, the setting that makes it, what was published."""

    row: int
    column: str
    setting: Setting
    published: Published = Published()
    note: str = ""  # an erratum or a remark; shown wherever the number is
    erratum: bool = False  # the note is about a slip of the paper, copied and not mended

    @property
    def is_baseline(self) -> bool:
        """Whether this cell is a baseline (it has no gain of its own); scaled cross-entropy is not."""
        return self.setting == self.setting.baseline()


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of numbers: its name (in the TOML), its printed heading."""

    name: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A printed row: the texts that head it, and its cells in the order of the columns (None: empty)."""

    labels: tuple[str, ...]
    cells: tuple[Cell | None, ...]
    seeds: int | None = None  # at most so many of the seeds that are asked for; None: all of them


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as printed.

    `kind`: the paper's own, our controls, our audit, the demo, or made from a grid (`run`).
    """

    name: str
    title: str
    kind: Literal["paper", "control", "audit", "demo", "grid"]
    heads: tuple[str, ...]  # headings of the text columns, one per Row.labels
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    source: str = ""
    caption: str = ""
    note: str = ""
    seeds: int | None = None  # default number of seeds, None: the command's
    fast: bool = False  # the demo's recipes are fast
    teacher_seeds: TeacherSeeds = "one"  # "paired" whatever the request says

    @property
    def has_own_recipe(self) -> bool:
        """Whether the file itself says how long to train: then no scale describes its runs."""
        return bool(self.rows) and all("epochs" in dict(cell.setting.recipe) for cell in self.cells())

    def cells(self) -> Iterator[Cell]:
        """All cells, row by row."""
        for row in self.rows:
            yield from (cell for cell in row.cells if cell is not None)

    def settings(self) -> tuple[Setting, ...]:
        """The distinct settings of the cells and of their baselines, in order of appearance."""
        return tuple(self.most_seeds())

    def most_seeds(self) -> dict[Setting, int | None]:
        """Setting → how many of the seeds that are asked for it takes at most, over its rows; None: all."""
        most: dict[Setting, int | None] = {}
        for row in self.rows:
            for cell in filter(None, row.cells):
                for setting in (cell.setting.baseline(), cell.setting):
                    known = most.setdefault(setting, row.seeds)
                    whole = known is None or row.seeds is None
                    most[setting] = None if whole else max(known or 0, row.seeds or 0)
        return most


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line, bar group or set of points of a figure: what is measured, and what was published."""

    label: str
    settings: tuple[Setting, ...] = ()
    published: tuple[tuple[float, float], ...] = ()  # points (x, y)
    status: str = "CONFIRMED"  # of these points; or APPROXIMATE: read off the printed figure
    values: Values = ()  # parameters of a computed series (classes, correct_prob, temperature …)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure.

    `sweep`: student accuracy against the accuracy of the teacher's checkpoint (fig2a, fig2b);
    `curves`: test accuracy by epoch (fig4); `bars`: distributions computed from a definition (fig3);
    `soft-targets`: a trained teacher's softened outputs beside the uniform distribution.
    """

    name: str
    title: str
    kind: FigureKind
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    source: str = ""
    caption: str = ""
    note: str = ""

    def settings(self) -> tuple[Setting, ...]:
        """The distinct settings whose runs this figure needs."""
        return tuple(dict.fromkeys(each for series in self.series for each in series.settings))


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One cell of a claim: the gain of `setting` over `against`, in points where the paper prints it."""

    setting: Setting
    against: Setting
    label: str
    published: float | None = None


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence of the paper as one number: the mean gain over its contrasts.

    `better`: the 95 % interval lies above 0. `equal`: the 90 % interval lies inside ±margin points.
    """

    name: str
    statement: str
    relation: Literal["better", "equal"]
    contrasts: tuple[Contrast, ...]
    margin: float = 0.3
    source: str = ""
    note: str = ""
    family: str = "paper"  # Holm's correction runs over the claims of one family
