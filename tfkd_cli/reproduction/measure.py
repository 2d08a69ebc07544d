"""Results → measured values, in the shape the comparison takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from paper_tables import hyperparameters
from paper_tables.measured import Measured, SeedValue
from paper_tables.spec import Figure, Setting, Table
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import RunSpec, Teacher
from tfkd_cli.store import RunState

SET_BY_SCALE = ("epochs", "milestones", "warmup_epochs")  # what `--scale quick` decides


@dataclass(frozen=True)
class Measurements:
    """The finished runs of one table or figure, and why others are left out."""

    by_setting: Mapping[Setting, Measured]
    left_out: tuple[str, ...]  # damaged or failed runs, one sentence each


def measure(request: Request, item: Table | Figure, states: Mapping[str, RunState]) -> Measurements:
    """What the store holds for the settings of `item`; only valid results count."""
    by_setting: dict[Setting, Measured] = {}
    left_out: dict[str, None] = {}
    for setting, specs in request.runs_by_setting(item).items():
        values = []
        for spec in specs:
            state = states.get(spec.key)
            if state is not None and state.status == "done" and state.result is not None:
                values.append(seed_value(spec, state))
            elif state is not None and state.status in ("damaged", "failed"):
                left_out[f"{spec.folder}: {why(state)}"] = None
        by_setting[setting] = Measured(
            values=tuple(values),
            wanted=len(specs),
            warnings=cut_down(request, item, specs[0]),
            unlike_paper=unlike_paper(request, item, setting, specs[0]),
        )
    return Measurements(by_setting, tuple(left_out))


def seed_value(spec: RunSpec, state: RunState) -> SeedValue:
    """One finished run as a value of its seed."""
    result = state.result or {}
    commit, diff = str(result.get("commit") or "")[:12], str(result.get("diff") or "")[:8]
    return SeedValue(
        seed=spec.seed,
        best=float(result["best"]["accuracy"]),
        last=float(result["last"]["accuracy"]),
        run=state.name,
        teacher=_teacher(spec),
        precision=spec.recipe.precision,
        code=f"{commit}+{diff}" if diff else commit,
    )


def _teacher(spec: RunSpec) -> str:
    """The run, or the file, that taught a run; empty without a teacher."""
    if spec.teacher is None:
        return ""
    return spec.teacher.run.folder if isinstance(spec.teacher, Teacher) else spec.teacher.digest


def why(state: RunState) -> str:
    """Why a run has no result that counts: what is damaged, or what its newest failure says."""
    if state.damage:
        return state.damage
    failure: Mapping[str, Any] = state.failure or {}
    return str(failure.get("message") or failure.get("cause") or "failed")


def unlike_paper(request: Request, item: Table | Figure, setting: Setting, spec: RunSpec) -> tuple[str, ...]:
    """What sets these runs apart from the paper's; empty at paper scale, on the full data."""
    if isinstance(item, Table) and item.kind not in ("paper", "control"):
        return ()
    theirs = request.at_paper_scale.spec(setting, seed=spec.seed)
    found = [
        f"{f.name} {_text(getattr(spec.recipe, f.name))} (paper: {_text(getattr(theirs.recipe, f.name))})"
        for f in fields(spec.recipe)
        if getattr(spec.recipe, f.name) != getattr(theirs.recipe, f.name)
    ]
    if spec.loss != theirs.loss:
        found.append("another loss setting")
    if "@" in spec.dataset:
        found.append("not the full data set")
    if isinstance(spec.teacher, Teacher) and request.teachers_of(item) == "paired":
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
    if "@" in spec.dataset and not spec.dataset.startswith("folder"):
        found.append(f"{spec.dataset}: not the full data set")
    return tuple(found)


def _text(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, tuple) else str(value)


def assumed(request: Request, setting: Setting) -> tuple[str, ...]:
    """The values of a setting that nobody published; what this request names itself is not among them."""
    asked = {*request.overrides.to_json()}
    if request.scale == "quick":
        asked |= {f"recipe.{name}" for name in SET_BY_SCALE}
    found = hyperparameters.assumed(setting, form=setting.form or request.form)
    return tuple(each for each in found if each.removeprefix("teacher.") not in asked)
