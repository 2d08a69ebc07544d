"""The paper's figures and the training curves, drawn again only where their data have changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from statistics import fmean

from paper_tables import plot
from paper_tables.figure_data import Curve, FigureData, figure_data
from paper_tables.spec import Figure, Setting
from tfkd_cli.report import curves
from tfkd_cli.report.asked import Item
from tfkd_cli.report.runs import Run
from tfkd_cli.report.staging import Staging
from tfkd_cli.report.workers import Workers
from tfkd_cli.reproduction.measure import measure
from tfkd_cli.spec import RunSpec, Teacher
from tfkd_cli.store import RunState

DRAWN = ".drawn.json"
FORMATS = ("png", "svg", "pdf")
CURVE_FORMATS = FORMATS[:2]  # there are many of them, and a PDF takes longer than both
MANY = 1  # pictures: even one is drawn, and matplotlib imported, beside other work


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
    taught = {
        setting: fmean(found)
        for setting, specs in by_setting.items()
        if (found := [each for spec in specs if (each := _teacher_accuracy(spec, runs)) is not None])
    }
    return figure_data(
        figure,
        measured=measure(request, figure, states).by_setting,
        teacher_accuracy=taught,
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


class Drawing:
    """The pictures of a report, drawn while other work goes on; those whose mark is as before are kept."""

    def __init__(self, staging: Staging, workers: Workers) -> None:
        self._staging, self._workers = staging, workers
        self._before = _before(staging.old(DRAWN))
        self._marks: dict[str, str] = {}
        self._started: list[tuple[int, Iterator[object]]] = []

    def start_all(self, runs: Sequence[Run], figures: Mapping[str, FigureData]) -> None:
        """The paper's figures and these runs' training curves."""
        self.start(chain(wanted_figures(figures), wanted_curves(curves.pictures(runs))))

    def start(self, wanted: Iterable[Wanted]) -> None:
        """Begin with those that have changed."""
        tasks = []
        for each in wanted:
            self._marks[each.name] = each.mark
            same = self._before.get(each.name) == each.mark
            if not (same and all(map(self._staging.keep, each.files))):
                tasks.append((each.data(), self._staging.path(each.name), each.formats))
        self._started.append((len(tasks), self._workers.start(_draw, tasks, many=MANY)))

    def finish(self, progress: Callable[[str, float], None]) -> None:
        """Wait for all of them."""
        total, done = sum(count for count, _ in self._started), 0
        for _, drawn in self._started:
            for _ in drawn:
                progress("drawing figures", done / total)
                done += 1
        self._staging.write(DRAWN, json.dumps(self._marks, indent=1) + "\n")


def _draw(task: tuple[FigureData, Path, Sequence[str]]) -> None:
    plot.draw(*task)


def wanted_figures(figures: Mapping[str, FigureData]) -> Iterator[Wanted]:
    """figures/NAME.{png,svg,pdf}: the paper's."""
    for name, data in figures.items():
        yield Wanted(f"figures/{name}", FORMATS, _mark(data), partial(_itself, data))


def _itself(data: FigureData) -> FigureData:
    return data


def wanted_curves(pictures: Iterable[curves.Picture]) -> Iterator[Wanted]:
    """curves/NAME.{png,svg}: all finished runs."""
    for picture in pictures:
        digests = {label: [run.digest for run in runs] for label, runs in picture.runs.items()}
        yield Wanted(f"curves/{picture.name}", CURVE_FORMATS, _mark((picture.title, digests)), picture.data)


@cache
def _code() -> bytes:
    return Path(plot.__file__).read_bytes()


def _mark(data: object) -> str:
    """What a drawing depends on: its data, and the code that draws."""
    return hashlib.sha256(_code() + repr(data).encode()).hexdigest()


def _before(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
