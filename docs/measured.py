"""What docs/results.md and README say from the packs of records in results/reference/.

Tables, intervals and verdicts are those of `tfkd report --results PACK`. What the report does not have (best
minus last epoch, accuracy against the teacher's checkpoint) is calculated from the frames of `results.load`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd  # noqa: TID253 - it reads results, and is no command

from paper_tables import plot
from paper_tables.compare import CellComparison, Comparison, Reading, compare
from paper_tables.figure_data import FigureData, GainRow, Line
from paper_tables.render.claims import mean_gain_text, verdict_text
from paper_tables.statistics import Error, t_interval
from paper_tables.verdicts import ClaimVerdict
from tfkd_cli import data, results
from tfkd_cli.execution import Execution
from tfkd_cli.reproduction import judging, requests
from tfkd_cli.reproduction.measure import assumed, code, measure
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.results import columns

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
SUBJECT = ["dataset", "student"]
TAUGHT = ["dataset", "student", "teacher"]
SEEDS = (0, 1, 2)
SHOWN = 3  # settings that README shows
QUESTIONS = {  # what each claim of the audit compares; the same name with `-equal` tests for equality
    "audit-tf-reg": "Tf-KD_reg minus label smoothing with its ε and loss scale",
    "audit-tf-self": "Tf-KD_self minus cross-entropy with the same weight",
    "audit-teacher": "Normal KD from a trained teacher minus from one of one epoch",
}


def published(folder: Path = REFERENCE, *, pictures: Path) -> str:
    """What the packs in `folder` hold, as Markdown; their figures are written to the folder `pictures`."""
    pictures.mkdir(parents=True, exist_ok=True)
    packs = sorted(folder.glob("*.tar.gz"))
    if not packs:
        return "No runs are published yet."
    return "\n\n".join(part for pack in packs for part in _pack(pack, pictures))


_load = cache(results.load)


def _runs(folder: Path) -> pd.DataFrame:
    """The runs of all packs in `folder`, each once."""
    frames = [_load(pack)[0] for pack in sorted(folder.glob("*.tar.gz"))]
    return pd.concat(frames).drop_duplicates("run") if frames else results.runs_frame([])


@cache
def against_the_paper(folder: Path = REFERENCE) -> list[Comparison]:
    """The paper's tables, with what the packs in `folder` have measured at paper scale."""
    request = requests.for_names(["all"], Request(seeds=SEEDS), execution=Execution(cache="no-cache"))
    runs = _runs(folder)
    return [
        compare(table, measure(request, table, runs).by_setting, lambda setting: assumed(request, setting))
        for table in paper().tables.values()
        if table.kind == "paper"
    ]


def _counted(comparisons: Sequence[Comparison]) -> tuple[int, list[tuple[Comparison, CellComparison]]]:
    """How many values the paper prints, and those that are measured; a gain needs its baseline, too."""
    printed = [
        (each, cell) for each in comparisons for cell in each.cells() if _printed(cell) != (None, None)
    ]
    return len(printed), [(each, cell) for each, cell in printed if cell.best and _value(cell, cell.best)]


def _printed(cell: CellComparison) -> tuple[float | None, float | None]:
    """The printed accuracy, and the printed gain where it stands alone."""
    published = cell.cell.published
    return published.mean, published.gain if published.mean is None else None


def state(folder: Path = REFERENCE) -> str:
    """The sentence of README that says how many of the published values are measured."""
    total, measured = _counted(against_the_paper(folder))
    settings = {cell.cell.setting: cell for _, cell in measured}
    plural = "setting" if len(settings) == 1 else "settings"
    which = f", by the runs of {len(settings)} {plural}" if settings else ""
    first = "".join(
        f" {data.dataset(setting.dataset).label}, {setting.student}, {setting.method}: {_text(cell)} "
        f"published, {_value(cell, cell.best)} measured at the best epoch with {cell.n} of {len(SEEDS)} "
        f"seeds (verdict: {cell.best.level.word})."
        for setting, cell in list(settings.items())[:SHOWN]
        if cell.best
    )
    share = f"{len(measured)} of {total} published values are measured so far{which}"
    return f"**State of the reproduction.** {share} ([details](docs/results.md)).{first}"


def audit(folder: Path = REFERENCE, *, pictures: Path) -> str:
    """The audit's answer for README: its three differences at the best epoch, both tests, and a figure."""
    verdicts = {each.claim.name: each for each in judging.judge([], _runs(folder))[0].best}
    asked = [
        (question, verdicts[claim], verdicts[f"{claim}-equal"])
        for claim, question in QUESTIONS.items()
        if verdicts[claim].gain
    ]
    if not asked:
        return "An [audit](docs/audit.md) with controls and many seeds has begun; no method is compared yet."
    title = "The audit's differences, with 95 % intervals"
    rows = [GainRow(labels=(question, data.dataset(part.dataset).label), gain=part.gain.mean,
                    interval=part.gain.interval)
            for question, better, _ in asked for part in better.by_dataset if part.gain]  # fmt: skip
    figure = FigureData(
        name="audit", title=title, x_label="difference (points)", y_label="", gains=tuple(rows)
    )
    pictures.mkdir(parents=True, exist_ok=True)
    plot.draw(figure, pictures / "audit", formats=("svg",))
    answers = "; ".join(_answer(*each) for each in asked)
    return (
        f"**[Audit](docs/audit.md)**, test accuracy in points, on the plain CNN: {answers}.\n\n"
        f"![{title}](docs/images/audit.svg)"
    )


def _answer(question: str, better: ClaimVerdict, equal: ClaimVerdict) -> str:
    """`Tf-KD_self minus ...: +0.12 [-0.05, +0.29] 95 % (better: not shown; equal within ±0.3: holds)`.

    The verdicts are left out until all seeds that were declared are in.
    """
    judged = f"better: {verdict_text(better)}; equal within ±{equal.claim.margin:g}: {verdict_text(equal)}"
    so_far = f"{better.runs} of {better.runs_wanted} runs, not judged yet"
    text = judged if better.runs == better.runs_wanted else so_far
    return f"{question}: {mean_gain_text(better)} ({text})"


def beside_the_paper(folder: Path = REFERENCE) -> str:
    """The published values that are measured, as Markdown."""
    total, measured = _counted(against_the_paper(folder))
    if not measured:
        return f"None of the {total} published values is measured yet."
    rows = [
        [
            comparison.table.name,
            " / ".join(comparison.table.rows[cell.cell.row].labels),
            next(each.label for each in comparison.table.columns if each.name == cell.cell.column),
            _text(cell),
            f"{cell.n} of {len(SEEDS)}",
            *(_value(cell, reading) for reading in (cell.best, cell.last) if reading),
            "; ".join(cell.assumed) or "–",
        ]
        for comparison, cell in measured
    ]
    heads = ["table", "row", "column", "published", "seeds", "best epoch", "last epoch", "assumed"]
    return markdown(heads, rows)


def _text(cell: CellComparison) -> str:
    """The printed accuracy in percent, or the printed gain in points."""
    mean, gain = _printed(cell)
    return f"{gain:+.2f}" if mean is None else f"{mean:.2f}"


def _value(cell: CellComparison, reading: Reading) -> str:
    """`86.90 ± 0.15 [86.53, 87.27] (-0.24)`: mean ± std, 95 % interval, difference from the printed value.

    Percent; points for a gain, which has no standard deviation. Empty for a gain without its baseline.
    """
    mean, gain = _printed(cell)
    if mean is not None:
        spread, interval = "", None
        if reading.std is not None:
            error = Error(se=reading.std / cell.n**0.5, df=cell.n - 1)
            spread, interval = f" ± {reading.std:.2f}", t_interval(reading.mean, error)
        value, difference = f"{reading.mean:.2f}{spread}", reading.mean - mean
    elif reading.gain is None or gain is None:
        return ""
    else:
        value, interval, difference = (
            f"{reading.gain.mean:+.2f}",
            reading.gain.interval,
            reading.gain.mean - gain,
        )
    return (
        value + (f" [{interval.low:.2f}, {interval.high:.2f}]" if interval else "") + f" ({difference:+.2f})"
    )


def _pack(pack: Path, pictures: Path) -> Iterator[str]:
    runs, epochs = _load(pack)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tfkd_cli", "report", "--results", str(pack), "--out", folder]
        subprocess.run(command, check=True, capture_output=True)
        report = Path(folder) / "report"
        record = json.loads((report / "report.json").read_text(encoding="utf-8"))
        yield f"## {pack.name}"
        yield _state(record, runs)
        if any(table["kind"] == "audit" for table in record["tables"]):
            yield _verdicts(record)
        for table in (each for each in record["tables"] if each["kind"] != "grid"):
            yield (report / f"{table['slug']}.md").read_text(encoding="utf-8").strip()
            yield from _figure(report / "figures" / f"{table['slug']}-gains.svg", pictures, table["title"])
        if any(table["kind"] == "grid" for table in record["tables"]):
            yield _settings(runs)
    yield from _checkpoints(runs, epochs, pictures)
    yield from _best_minus_last(runs)


def _state(record: Mapping[str, Any], runs: pd.DataFrame) -> str:
    finished = int((runs["status"] == "done").sum())
    waiting = sum(each["wanted"] - each["counts"].get("done", 0) for each in record["missing"])
    spent = "; ".join(f"{each['hours']:.1f} hours on {each['hardware']}" for each in record["hours"])
    failed = runs.loc[runs["status"] == "failed", "run"]
    return (
        f"{finished} runs are finished and {waiting} are not. Time in runs: {spent or 'none'}. "
        f"Trainer version {', '.join(map(str, sorted(runs['trainer'].unique())))}; "
        f"code: {'; '.join(map(code, runs['commit'].dropna().unique())) or 'no commit'}. "
        f"Failed runs: {', '.join(failed) or 'none'}."
    )


def _verdicts(record: Mapping[str, Any]) -> str:
    lines = ["| claim of the audit | epoch | verdict |", "|---|---|---|"]
    for judged in record["claims"]:
        for verdict in judged["verdicts"]:
            if verdict["claim"].startswith("audit-"):
                texts = (verdict["statement"], verdict["epoch"], verdict["sentence"])
                lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def _figure(source: Path, pictures: Path, title: str) -> Iterator[str]:
    if source.exists():
        shutil.copyfile(source, pictures / f"results-{source.name}")
        yield f"![Gains over the baseline with 95 % intervals: {title}](images/results-{source.name})"


def _checkpoints(runs: pd.DataFrame, epochs: pd.DataFrame, pictures: Path) -> Iterator[str]:
    """Accuracy of students of one teacher against how long that teacher had been trained (paper Figure 2)."""
    kd = runs[
        (runs["status"] == "done") & runs["method"].isin(["kd", "de-kd"]) & (runs["form"] == "released")
    ]
    swept = kd.groupby(TAUGHT).filter(lambda own: own["checkpoint"].nunique() > 1)
    for dataset in swept["dataset"].unique():
        rows: list[list[str]] = []
        lines: list[Line] = []
        for (student, teacher), own in swept[swept["dataset"] == dataset].groupby(["student", "teacher"]):
            of_teacher = runs[(runs["dataset"] == dataset) & (runs["student"] == teacher)]
            curve = _curve(own, of_teacher[of_teacher["method"] == "baseline"], epochs)
            rows += [[student, teacher, point.epoch, *map(mean_and_std, point[1:])] for point in curve]
            lines.append(_line(curve, f"{student} taught by {teacher}", slot=len(lines)))
        name, title = (
            f"results-checkpoints-{dataset}",
            f"Students against their teacher's checkpoint: {dataset}",
        )
        x_label, y_label = "Teacher's test accuracy (%)", "Student's test accuracy (%)"
        figure = FigureData(name=name, title=title, x_label=x_label, y_label=y_label, lines=tuple(lines))
        plot.draw(figure, pictures / name, formats=("svg",))
        yield f"### {title}"
        yield markdown(["student", "teacher", "teacher's epoch", "teacher %", "student, best epoch %"], rows)
        yield f"![{title}; bands are mean ± standard deviation](images/{name}.svg)"


def _settings(runs: pd.DataFrame) -> str:
    """The runs of `tfkd run`: a line for each setting, with the columns in which they differ."""
    names = [name for name in (*columns.RECIPE, *columns.LOSS) if runs[name].nunique(dropna=False) > 1]
    by = ["dataset", "student", "method", *names]
    rows = [
        [
            *map(str, name if isinstance(name, tuple) else (name,)),
            f"{(own['status'] == 'done').sum()} of {len(own)}",
            *(
                mean_and_std(own[each].dropna())
                for each in ("val_accuracy", "best_accuracy", "last_accuracy")
            ),
        ]
        for name, own in runs.groupby(by, dropna=False)
    ]
    return markdown([*by, "finished", "validation %, best epoch", "best epoch %", "last epoch %"], rows)


class _Point(NamedTuple):
    """Accuracies (percent) of a teacher after `epoch` and of its students, over their seeds."""

    epoch: str
    teacher: pd.Series[float]
    students: pd.Series[float]


def _curve(students: pd.DataFrame, teachers: pd.DataFrame, epochs: pd.DataFrame) -> list[_Point]:
    """The checkpoints of one teacher, the least accurate first."""
    points = []
    for checkpoint, own in students.groupby("checkpoint"):
        epoch = str(checkpoint)
        after = epochs[epochs["run"].isin(teachers["run"]) & (epochs["epoch"].astype(str) == epoch)]
        taught = teachers["best_accuracy"].dropna() if epoch == "best" else after["test_accuracy"]
        points.append(_Point(epoch, taught, own["best_accuracy"]))
    return sorted(points, key=lambda point: point.teacher.mean())


def _line(curve: Sequence[_Point], label: str, *, slot: int) -> Line:
    mean = [point.students.mean() for point in curve]
    std = [point.students.std() if len(point.students) > 1 else 0.0 for point in curve]
    return Line(
        label=label,
        x=tuple(point.teacher.mean() for point in curve),
        y=tuple(mean),
        low=tuple(m - s for m, s in zip(mean, std, strict=True)),
        high=tuple(m + s for m, s in zip(mean, std, strict=True)),
        n=min(len(point.students) for point in curve),
        look="marked line",
        slot=slot,
    )


def _best_minus_last(runs: pd.DataFrame) -> Iterator[str]:
    """What the habit of reporting the epoch with the best test accuracy adds to an accuracy."""
    done = runs[(runs["status"] == "done") & runs["val_accuracy"].isna()]  # else that part chose the epoch
    if done.empty:
        return
    yield "### Best minus last epoch"
    added = (done["best_accuracy"] - done["last_accuracy"]).groupby([done[name] for name in SUBJECT])
    rows = [[*map(str, name), mean_and_std(own), f"{own.max():.2f}"] for name, own in added]
    yield markdown(["data set", "student", "best minus last (points)", "largest"], rows)


def mean_and_std(values: pd.Series[float]) -> str:
    """Mean ± sample standard deviation with the number of runs, in percent or points."""
    spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():.2f}{spread} (n = {len(values)})" if len(values) else "–"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])
