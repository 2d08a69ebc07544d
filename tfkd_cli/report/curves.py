"""Training curves: one picture per data set and student, one line per setting, a band over its seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from paper_tables.figure_data import Curve, FigureData, training_curves
from tfkd_cli.report.runs import Run
from tfkd_cli.spec import slug

MOST_LINES = 12  # in one picture: more could not be told apart


def curve(run: Run) -> Curve:
    """One finished run's test accuracy by epoch."""
    assert run.epochs is not None
    accuracy = run.epochs.by_epoch("test_accuracy")
    return Curve(seed=run.spec.seed, epochs=tuple(accuracy), accuracy=tuple(accuracy.values()))


@dataclass(frozen=True)
class Picture:
    """Training curves of one student: file name, title, and by label the finished runs it shows."""

    name: str
    title: str
    runs: Mapping[str, Sequence[Run]]

    def data(self) -> FigureData:
        """Its lines."""
        by_label = {each: [curve(run) for run in runs] for each, runs in self.runs.items()}
        return training_curves(self.name, self.title, by_label)


def pictures(runs: Iterable[Run]) -> list[Picture]:
    """One for each data set, student, scale and number of epochs; more where there are many lines."""
    groups: dict[tuple[str, ...], dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.done:
            where = (run.spec.dataset, run.spec.student, run.scale, str(run.spec.recipe.epochs))
            groups[where][label(run)].append(run)
    return [picture for where, by_label in groups.items() for picture in _parts(where, by_label)]


def _parts(where: tuple[str, ...], by_label: Mapping[str, list[Run]]) -> Iterator[Picture]:
    dataset, student, scale, epochs = where
    labels = list(by_label)
    for start in range(0, len(labels), MOST_LINES):
        part = [str(start // MOST_LINES + 1)] if start else []
        name = slug("-".join([dataset, student, scale, f"{epochs}-epochs", *part]).replace("@", "-"))
        length = "1 epoch" if epochs == "1" else f"{epochs} epochs"
        title = f"{student} on {dataset}, {length}" + (f" ({scale})" if scale != "paper" else "")
        yield Picture(name, title, {each: by_label[each] for each in labels[start : start + MOST_LINES]})


def label(run: Run) -> str:
    """What a line is called: the method, its teacher, and what the loss sets."""
    parts = [run.method]
    if run.spec.teacher is not None and run.method != "tf-self":
        parts.append(f"from {run.spec.teacher.network}")
    if run.checkpoint not in ("", "best"):
        parts.append(f"(epoch {run.checkpoint})" if run.checkpoint.isdigit() else f"({run.checkpoint})")
    if run.form == "printed" and run.method != "baseline":
        parts.append("printed")
    values = {name: getattr(run.spec.loss, name, 1) for name in ("alpha", "temperature", "scale")}
    signs = {"alpha": "α", "temperature": "τ", "scale": "×"}
    parts += [f"{signs[name]}={value:g}" for name, value in values.items() if value != 1]
    return " ".join([*parts, *(["fast"] if run.fast and run.scale == "paper" else [])])
