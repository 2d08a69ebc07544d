"""The paper's figures and the training curves, and the process that draws them."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from paper_tables import plot
from paper_tables.figure_data import Curve, FigureData, Sources, figure_data, training_curves
from paper_tables.spec import Figure
from tfkd_cli import results
from tfkd_cli.errors import RunError
from tfkd_cli.methods import TfReg
from tfkd_cli.report.runs import RequestedRun
from tfkd_cli.report.staging import Staging
from tfkd_cli.reproduction.measure import measure
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import RunSpec, Teacher, slug

if TYPE_CHECKING:
    import pandas as pd

FORMATS: Sequence[str] = ("png", "svg", "pdf")
CURVE_FORMATS = FORMATS[:2]  # a PDF takes longer than both
MANY = 10  # pictures of training curves from which they are SVG only: a PNG takes 0.2 s of a processor
MOST_LINES = len(plot.COLOURS)  # in one picture, so that no two lines share a colour or a dash
DRAW = """
import os, pickle, sys
import matplotlib.figure
from matplotlib.backends import backend_agg, backend_pdf, backend_svg
from paper_tables import plot
tasks = pickle.load(sys.stdin.buffer)
other = os.fork()  # it draws every second one
for task in tasks[bool(other) :: 2]:
    plot.draw(*task)
sys.exit(other and os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]))
"""


def data_of(
    figure: Figure, request: Request, found: Mapping[str, results.Run], runs: pd.DataFrame
) -> FigureData:
    """What one of the paper's figures shows: published, and what was measured.

    `found`: runs of the store by folder, teachers included; `runs`: the frame of the same runs.
    """
    by_setting = request.runs_by_setting(figure)
    done = {
        setting: [found[spec.folder] for spec in specs if spec.folder in found and found[spec.folder].done]
        for setting, specs in by_setting.items()
    }
    curves = {key: [curve(run) for run in each] for key, each in done.items()}
    taught = {
        setting: fmean(known)
        for setting, specs in by_setting.items()
        if (known := [each for spec in specs if (each := _teacher_accuracy(spec, found)) is not None])
    }
    sources = Sources(
        measured=measure(request, figure, runs).by_setting,
        teacher_accuracy=taught,
        curves=curves,
        soft_targets=_soft_targets([run for each in done.values() for run in each]),
        virtual_teacher=virtual_teacher,
    )
    return figure_data(figure, sources)


def virtual_teacher(*, classes: int, correct: int = 1, **fields: Any) -> list[float]:
    """Probabilities by class of Tf-KD_reg's softened teacher for class `correct` (from 1)."""
    right, wrong = TfReg(**fields).virtual_probabilities(classes)
    return [right if each == correct else wrong for each in range(1, classes + 1)]


def _soft_targets(runs: Sequence[results.Run]) -> dict[float, Sequence[float]]:
    """Temperature → what the first of these runs would teach (probabilities, most probable first)."""
    kept: Mapping[str, Sequence[float]] = next(
        (found for run in runs if (found := run.result.get("soft_targets"))), {}
    )
    return {float(temperature): values for temperature, values in kept.items()}


def _teacher_accuracy(spec: RunSpec, found: Mapping[str, results.Run]) -> float | None:
    """Test accuracy (percent) of the checkpoint that taught."""
    teacher = found.get(spec.teacher.run.folder) if isinstance(spec.teacher, Teacher) else None
    if teacher is None or not teacher.done or not isinstance(spec.teacher, Teacher):
        return None
    if isinstance(spec.teacher.checkpoint, int):
        return curve(teacher).get(spec.teacher.checkpoint)
    return float(teacher.result[spec.teacher.checkpoint]["accuracy"])


def curve(run: results.Run) -> Curve:
    """A run's test accuracy by epoch."""
    known = {line["epoch"]: line.get("test_accuracy") for line in run.lines}
    return {epoch: accuracy for epoch, accuracy in known.items() if accuracy is not None}


def gains_name(slug: str) -> str:
    """What the forest plot of a table is called."""
    return f"{slug}-gains"


@dataclass(frozen=True)
class Picture:
    """Training curves of one student: file name, title, and by label the finished runs it shows."""

    name: str
    title: str
    runs: Mapping[str, Sequence[RequestedRun]]

    def data(self) -> FigureData:
        """Its lines."""
        curves = {each: [curve(run) for run in runs] for each, runs in self.runs.items()}
        return training_curves(self.name, self.title, curves)


def pictures(runs: Iterable[RequestedRun]) -> list[Picture]:
    """One for each data set, student, scale and number of epochs; more where there are many lines."""
    groups: dict[tuple[str, ...], dict[str, list[RequestedRun]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.done:
            where = (run.spec.dataset, run.spec.student, run.row["scale"], str(run.spec.recipe.epochs))
            groups[where][label(run)].append(run)
    return [picture for where, by_label in groups.items() for picture in _parts(where, by_label)]


def _parts(where: tuple[str, ...], by_label: Mapping[str, list[RequestedRun]]) -> Iterator[Picture]:
    dataset, student, scale, epochs = where
    labels = list(by_label)
    for start in range(0, len(labels), MOST_LINES):
        part = [str(start // MOST_LINES + 1)] if start else []
        name = slug("-".join([dataset, student, scale, f"{epochs}-epochs", *part]).replace("@", "-"))
        length = "1 epoch" if epochs == "1" else f"{epochs} epochs"
        title = f"{student} on {dataset}, {length}" + (f" ({scale})" if scale != "paper" else "")
        yield Picture(name, title, {each: by_label[each] for each in labels[start : start + MOST_LINES]})


def curve_formats(curves: Sequence[Picture]) -> Sequence[str]:
    """The formats that these training curves are drawn in."""
    return CURVE_FORMATS if len(curves) < MANY else ("svg",)


def label(run: RequestedRun) -> str:
    """What a line is called: the method, its teacher, and what the loss sets."""
    row, method = run.row, str(run.row["method"])
    parts = [method]
    if row["teacher"] and method != "tf-self":
        parts.append(f"from {row['teacher']}")
    if row["checkpoint"] not in (None, "best"):
        parts.append(
            f"(epoch {row['checkpoint']})" if row["checkpoint"].isdigit() else f"({row['checkpoint']})"
        )
    loss = run.spec.loss
    if row["form"] == "printed" and loss.FORMS["printed"] != loss.FORMS["released"]:
        parts.append("printed")
    shown = {sign: value for sign, value in loss.signs().items() if value != 1}
    parts += [f"{k}={v:g}" if isinstance(v, int | float) else f"{k}={v}" for k, v in shown.items()]
    fast = row["scale"] == "paper" and (row["precision"], row["augment_stream"]) != ("fp32", "seed")
    return " ".join([*parts, *(["fast"] if fast else [])])


class Drawing:
    """The pictures of a report, drawn by another process while the rest is written."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._process = drawing_process()

    def start(self, figures: Mapping[str, FigureData], curves: Sequence[Picture]) -> None:
        """Begin with figures/NAME.{png,svg,pdf} and curves/NAME.{png,svg}."""
        path, formats = self._staging.path, curve_formats(curves)
        tasks = [(data, path(f"figures/{name}"), FORMATS) for name, data in figures.items()]
        tasks += [(each.data(), path(f"curves/{each.name}"), formats) for each in curves]
        with contextlib.suppress(BrokenPipeError):  # `finish` says why the process has ended
            self._process.stdin.write(pickle.dumps(tasks))
            self._process.stdin.flush()

    def finish(self) -> None:
        """Wait until all pictures are there; RunError when the process that draws has failed."""
        _, said = self._process.communicate()
        if self._process.returncode:
            last = (said.decode(errors="replace").strip().splitlines() or ["it was ended"])[-1]
            raise RunError(
                f"the figures could not be drawn: {last}.",
                expected="room on the disk, and some hundred MB of free memory.",
                hint="the report before stands; give the same command again.",
            )

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()


def drawing_process() -> Any:
    """A process that imports matplotlib, forks, and draws the pickled tasks of its standard input.

    Ctrl-C does not reach it, and it ends with its work, or when this process ends.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-c", DRAW],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
