"""The paper's figures and the training curves, drawn again only where their data have changed."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
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
MANY = 6  # pictures from which a second process is worth its start
WORKERS = 2


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
        soft_targets=_soft_targets([runs[spec.folder] for specs in done.values() for spec in specs]),
    )


def _soft_targets(runs: Sequence[Run]) -> dict[float, Sequence[float]]:
    """Temperature → what the first of these runs would teach (probabilities, most probable first)."""
    kept: Mapping[str, Sequence[float]] = next(
        (found for run in runs if (found := run.result.get("soft_targets"))), {}
    )
    return {float(temperature): values for temperature, values in kept.items()}


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


@dataclass(frozen=True)
class Wanted:
    """A picture to draw: its name in the report's folder, its formats, a mark of all it depends on."""

    name: str
    formats: Sequence[str]
    mark: str
    data: Callable[[], FigureData]

    @property
    def files(self) -> list[str]:
        """One for each format."""
        return [f"{self.name}.{each}" for each in self.formats]


def draw_all(contents: Contents, staging: Staging, *, progress: Callable[[str, float], None]) -> None:
    """figures/NAME.{png,svg,pdf} of the paper's figures, curves/NAME.png of all finished runs."""
    wanted = [*_figures(contents), *_pictures(contents)]
    before = _before(staging.old(DRAWN))
    changed = [
        each
        for each in wanted
        if before.get(each.name) != each.mark or not all(map(staging.keep, each.files))
    ]
    tasks = [(each.data(), staging.path(each.name), each.formats) for each in changed]
    for index, _ in enumerate(_drawn(tasks)):
        progress("drawing figures", index / len(tasks))
    staging.write(DRAWN, json.dumps({each.name: each.mark for each in wanted}, indent=1) + "\n")


def _figures(contents: Contents) -> Iterator[Wanted]:
    for name, data in contents.figures.items():
        yield Wanted(f"figures/{name}", FORMATS, _mark(repr(data)), lambda data=data: data)  # type: ignore[misc]


def _pictures(contents: Contents) -> Iterator[Wanted]:
    for picture in contents.pictures:
        mark = _mark(
            repr(
                (picture.title, {label: [run.digest for run in runs] for label, runs in picture.runs.items()})
            )
        )
        yield Wanted(f"curves/{picture.name}", FORMATS[:1], mark, picture.data)


def _drawn(tasks: Sequence[tuple[FigureData, Path, Sequence[str]]]) -> Iterator[object]:
    """Draws them all; many at once by several processes, since one takes a third of a second."""
    if len(tasks) < MANY or sys.platform != "linux":
        yield from (plot.draw(*task) for task in tasks)
        return
    import multiprocessing
    import warnings
    from concurrent.futures import ProcessPoolExecutor

    with warnings.catch_warnings(), ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork")) as pool:
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside BLAS's idle threads, 3.12 warns
        yield from pool.map(plot.draw, *zip(*tasks, strict=True))


@cache
def _code() -> bytes:
    return Path(plot.__file__).read_bytes()


def _mark(data: str) -> str:
    """What a drawing depends on: its data, and the code that draws."""
    return hashlib.sha256(_code() + data.encode()).hexdigest()


def _before(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
