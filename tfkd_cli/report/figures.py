"""The paper's figures and the training curves, drawn again only where their data have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paper_tables import plot
from paper_tables.figure_data import Curve, FigureData, figure_data
from paper_tables.spec import Figure, Setting
from tfkd_cli.report import curves
from tfkd_cli.report.asked import Item
from tfkd_cli.report.runs import Run
from tfkd_cli.report.staging import Staging
from tfkd_cli.reproduction.measure import measure
from tfkd_cli.spec import RunSpec, Teacher
from tfkd_cli.store import RunState

if TYPE_CHECKING:
    from tfkd_cli.report.contents import Contents

DRAWN = ".drawn.json"
FORMATS = ("png", "svg", "pdf")


def data_of(item: Item, runs: Mapping[str, Run], states: Mapping[str, RunState]) -> FigureData:
    """What one of the paper's figures shows: published, and what was measured."""
    figure, request = item.what, item.campaign.request
    assert isinstance(figure, Figure)
    by_setting = request.runs_by_setting(figure)
    done = {
        setting: [spec for spec in specs if runs[spec.folder].done] for setting, specs in by_setting.items()
    }
    by_epoch: dict[Setting, Sequence[Curve]] = {
        setting: [curves.curve(runs[spec.folder]) for spec in specs] for setting, specs in done.items()
    }
    taught = {setting: _teacher_accuracy(specs[0], runs) for setting, specs in by_setting.items()}
    return figure_data(
        figure,
        measured=measure(request, figure, states).by_setting,
        teacher_accuracy={setting: value for setting, value in taught.items() if value is not None},
        curves=by_epoch if figure.kind == "curves" else None,
    )


def _teacher_accuracy(spec: RunSpec, runs: Mapping[str, Run]) -> float | None:
    """Test accuracy (percent) of the checkpoint that taught."""
    if not isinstance(spec.teacher, Teacher):
        return None
    teacher = runs.get(spec.teacher.run.folder)
    if teacher is None or teacher.epochs is None:
        return None
    if isinstance(spec.teacher.checkpoint, int):
        return teacher.epochs.by_epoch("test_accuracy").get(spec.teacher.checkpoint)
    best = spec.teacher.checkpoint == "best"
    return teacher.epochs.best_accuracy if best else teacher.epochs.last_accuracy


def draw_all(contents: Contents, staging: Staging, *, progress: Callable[[str, float], None]) -> None:
    """figures/NAME.{png,svg,pdf} of the paper's figures, curves/NAME.png of all finished runs."""
    wanted: list[tuple[str, FigureData, Sequence[str]]]
    wanted = [(f"figures/{name}", data, FORMATS) for name, data in contents.figures.items()]
    wanted += [
        (f"curves/{name}", curves.picture_data(name, title, by_label), FORMATS[:1])
        for name, title, by_label in contents.pictures
    ]
    before, drawn = _before(staging.old(DRAWN)), {}
    for index, (name, data, formats) in enumerate(wanted):
        progress("drawing figures", index / len(wanted))
        drawn[name] = _mark(data)
        files = [f"{name}.{each}" for each in formats]
        if before.get(name) != drawn[name] or not all(map(staging.keep, files)):
            plot.draw(data, staging.path(name), formats)
    staging.write(DRAWN, json.dumps(drawn, indent=1) + "\n")


def _mark(data: FigureData) -> str:
    """What a drawing depends on: its data, and the code that draws."""
    code = Path(plot.__file__).read_bytes()
    return hashlib.sha256(code + repr(data).encode()).hexdigest()


def _before(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
