"""Results → measured values, in the shape the comparison takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from paper_tables import hyperparameters
from paper_tables.measured import Measured, SeedValue
from paper_tables.spec import Figure, Setting, Table
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ["status", "best_accuracy", "last_accuracy", "commit", "problem"]  # columns of the runs frame
SET_BY_SCALE = ("epochs", "milestones", "warmup_epochs")  # what `--scale quick` decides


@dataclass(frozen=True)
class Measurements:
    """The finished runs of one table or figure, and why others are left out."""

    by_setting: Mapping[Setting, Measured]
    left_out: tuple[str, ...]  # damaged or failed runs, one sentence each


def measure(request: Request, item: Table | Figure, runs: pd.DataFrame) -> Measurements:
    """What the frame `runs` (see `tfkd_cli.results`) holds for the settings of `item`: finished runs only."""
    rows: dict[Any, dict[str, Any]] = runs.set_index("run")[NEEDED].to_dict("index")  # type: ignore[assignment]
    by_setting: dict[Setting, Measured] = {}
    left_out: dict[str, None] = {}
    for setting, specs in request.runs_by_setting(item).items():
        values = []
        for spec in specs:
            row = rows.get(spec.folder, {})
            if row.get("status") == "done":
                values.append(seed_value(spec, row))
            elif row.get("status") in ("damaged", "failed"):
                left_out[f"{spec.folder}: {row['problem']}"] = None
        changed = [each for each in values if ", then " in each.code]  # between the attempts of a run
        by_setting[setting] = Measured(
            values=tuple(values),
            wanted=len(specs),
            warnings=(
                *cut_down(request, item, specs[0]),
                *(
                    f"the code changed during the training: {each.code} (seed {each.seed})"
                    for each in changed
                ),
            ),
            unlike_paper=unlike_paper(request, item, setting, specs[0]),
        )
    return Measurements(by_setting, tuple(left_out))


def seed_value(spec: RunSpec, row: Mapping[str, Any]) -> SeedValue:
    """One finished run as a value of its seed."""
    return SeedValue(
        seed=spec.seed,
        best=float(row["best_accuracy"]),
        last=float(row["last_accuracy"]),
        run=spec.folder,
        teacher=_teacher(spec),
        precision=spec.recipe.precision,
        code=code(str(row["commit"])),
    )


def code(commits: str) -> str:
    """The column `commit` of a run, shortened: `7fbc83ac2488, then c7eedc40bc4e+0123abcd`."""
    versions = [commit.partition("+") for commit in commits.split("; ")]
    return ", then ".join(f"{commit[:12]}{plus}{diff}" for commit, plus, diff in versions)


def _teacher(spec: RunSpec) -> str:
    """The run, or the file, that taught a run; empty without a teacher."""
    if spec.teacher is None:
        return ""
    return spec.teacher.run.folder if isinstance(spec.teacher, Teacher) else spec.teacher.digest


def unlike_paper(request: Request, item: Table | Figure, setting: Setting, spec: RunSpec) -> tuple[str, ...]:
    """What sets these runs apart from the paper's, or the audit's; empty at full scale on the full data."""
    if isinstance(item, Table) and item.kind not in ("paper", "control", "audit"):
        return ()
    own = (item.fast, item.teacher_seeds) if isinstance(item, Table) else (False, "one")
    theirs = request.at_paper_scale.spec(setting, seed=spec.seed, fast=own[0])
    found = [
        f"{f.name} {_text(getattr(spec.recipe, f.name))} (paper: {_text(getattr(theirs.recipe, f.name))})"
        for f in fields(spec.recipe)
        if getattr(spec.recipe, f.name) != getattr(theirs.recipe, f.name)
    ]
    if spec.loss != theirs.loss:
        found.append("another loss setting")
    if isinstance(spec.teacher, Teacher) and isinstance(theirs.teacher, ForeignTeacher):
        found.append("teacher trained here (released script: torchvision's pretrained weights)")
    if caveat := _caveat(request, spec.dataset):
        found.append(caveat)
    if isinstance(spec.teacher, Teacher) and request.teachers_of(item) != own[1]:
        found.append("one teacher per seed (paper: one for all)")
    return tuple(found)


def cut_down(request: Request, item: Table | Figure, spec: RunSpec) -> tuple[str, ...]:
    """What a table of our own must say of its runs, since no paper stands beside them."""
    if not isinstance(item, Table) or item.kind != "grid":
        return ()
    found = []
    if request.scale == "quick":
        found.append("quick scale: few epochs, fast, for trying things out")
    elif spec.recipe.precision != "fp32" or spec.recipe.augment_stream != "seed":
        found.append(f"fast: {spec.recipe.precision}, {spec.recipe.augment_stream} augmentation stream")
    if not spec.dataset.startswith("folder") and (caveat := _caveat(request, spec.dataset)):
        found.append(f"{spec.dataset}: {caveat}")
    return tuple(found)


def _caveat(request: Request, dataset: str) -> str:
    """What sets a data set apart from the official content; empty for that."""
    found = {each.name: each for each in request.data.values()}.get(dataset)
    if "@" in dataset and (found is None or not found.available):
        return "not known to be the full data set"  # its files are gone, or were never here
    return found.facts.caveat if found is not None else ""


def _text(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def assumed(request: Request, setting: Setting) -> tuple[str, ...]:
    """The values of a setting that nobody published; what this request names itself is not among them."""
    overridden = {*request.overrides.to_json()}
    if request.scale == "quick":
        overridden |= {f"recipe.{name}" for name in SET_BY_SCALE}
    found = hyperparameters.assumed(setting, form=setting.form or request.form)
    return tuple(each for each in found if each.removeprefix("teacher.") not in overridden)
