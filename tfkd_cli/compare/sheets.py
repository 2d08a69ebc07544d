"""An answer as sheets, which `paper_tables.render` draws in a terminal and as Markdown, LaTeX and HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from paper_tables.figure_data import GainRow
from paper_tables.render.sheet import Field, Sheet, plain_sheet
from paper_tables.render.sheet import Line as Text
from tfkd_cli.compare.answer import Answer, Difference, Line, signed
from tfkd_cli.console import duration

SYMBOLS: Mapping[str, str] = {"alpha": "α", "temperature": "τ"}
ARROWS: Mapping[str, str] = {"largest": "↑", "smallest": "↓", "": ""}
DIFFERENCE = "difference of top-1 accuracy (points)"
COST = "Cost: training time of one run, + that of its teacher."
HOLM = "p: the first difference is the question and is judged alone; the others are corrected by Holm."


def sheets(found: Answer) -> tuple[Sheet, Sheet, Sheet]:
    """The methods, the differences between them, and the trials."""
    return methods_sheet(found), differences_sheet(found), trials_sheet(found)


def methods_sheet(found: Answer) -> Sheet:
    """A row per method: the values its trials chose, and what came of them on the test part."""
    images = (
        f"Means ± standard deviations over seeds on {found.test_images:,} test images (one image is "
        f"{100 / max(1, found.test_images):.2f} points). The validation part chose epochs and values."
    )
    left_out = [f"Left out: {line}" for line in found.left_out]
    heads = ("method", "chosen", "n", "top-1 %", "balanced %", "NLL", "ECE %", "cost")
    notes = [images, COST, *found.notes, *left_out] if found.lines else left_out
    rows = (_method_row(found, line) for line in found.lines)
    return plain_sheet(found.title, heads, rows, name=found.name, notes=notes)


def differences_sheet(found: Answer) -> Sheet:
    """A row per pair of methods: their difference in points, its interval, p and verdict."""
    heads = ("difference", "points", "95 %", "p", "verdict")
    rows = [
        (f"{each.method} − {each.against}", signed(each.points), _interval(each), _p(each), each.verdict)
        for each in found.differences
    ]
    notes = [HOLM] if rows else []
    return plain_sheet("Differences of top-1 accuracy", heads, rows, name=found.name, notes=notes)


def trials_sheet(found: Answer) -> Sheet:
    """A row per trial: its values and its scores on the validation part."""
    rows = [
        (
            each["method"],
            ", ".join(_value(name, value) for name, value in each["values"].items()),
            "" if each["val_accuracy"] is None else f"{each['val_accuracy']:.2f}",
            "" if each["val_loss"] is None else f"{each['val_loss']:.3f}",
            "chosen" if each["chosen"] else "",
        )
        for each in found.trials
    ]
    heads = ("method", "values", "validation top-1 %", "validation NLL", "")
    return plain_sheet("Trials", heads, rows, name=found.name)


def document(found: Answer) -> list[Sheet]:
    """All sheets for a file, the sentence first among the notes of the first."""
    first, *rest = sheets(found)
    return [replace(first, notes=(found.sentence, *first.notes)), *(each for each in rest if each.rows)]


def difference_rows(found: Answer) -> Iterator[GainRow]:
    """The differences for a forest plot."""
    for each in found.differences:
        yield GainRow(labels=(f"{each.method} − {each.against}",), gain=each.points, interval=each.interval)


def csv_text(found: Answer) -> str:
    """One line per method, in full digits: `mean_accuracy`, `std_accuracy`, `chosen_lr` …"""
    import pandas as pd

    frame = pd.json_normalize(found.to_json()["methods"], sep="_")
    text: str = frame.drop(columns="runs", errors="ignore").to_csv(index=False)
    return text


def _method_row(found: Answer, line: Line) -> tuple[str | Field, ...]:
    def spread(name: str, digits: int = 2) -> str:
        std = line.std[name]
        return f"{line.mean[name]:.{digits}f}" + ("" if std is None else f"±{std:.{digits}f}")

    values = (_value(name, value, line.edges.get(name, "")) for name, value in line.chosen.items())
    teacher = f" + {duration(line.teacher_seconds)}" if line.teacher_seconds else ""
    return (
        line.method,
        ", ".join(values),
        str(line.n),
        Field(lines=(Text(spread("accuracy")),), link=f"#cell={found.name}/{line.method}"),
        spread("balanced_accuracy"),
        spread("loss", 3),
        spread("ece"),
        f"{duration(line.seconds)}{teacher}",
    )


def _value(name: str, value: float, edge: str = "") -> str:
    return f"{SYMBOLS.get(name, name)}={value:g}{ARROWS[edge]}"


def _interval(each: Difference) -> str:
    return f"[{signed(each.interval.low)}, {signed(each.interval.high)}]" if each.interval else ""


def _p(each: Difference) -> str:
    return "" if each.p_holm is None else f"{each.p_holm:.3f}"
