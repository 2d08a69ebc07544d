from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paper_tables import plot
from paper_tables.figure_data import (
    FigureData,
    GainRow,
    Line,
    Sources,
    training_curves,
)
from paper_tables.figure_data import figure_data as data_of
from paper_tables.measured import Measured
from paper_tables.plot import COLOURS, draw, drawing
from paper_tables.spec import Figure, Series, Setting
from paper_tables.statistics import Interval

Make = Callable[..., Measured]


def student(epoch: int | None) -> Setting:
    method = "kd" if epoch is None else "de-kd"
    return Setting(
        dataset="cifar100", student="mobilenetv2", method=method, teacher="resnet18", teacher_epoch=epoch
    )


BASELINE = student(None).baseline()
SWEEP = Figure(
    name="fig2a",
    title="A sweep",
    kind="sweep",
    x_label="teacher",
    y_label="student",
    series=(
        Series(
            label="student",
            settings=(student(None), student(1)),
            published=((15.48, 70.5), (75.87, 71.05)),
            status="APPROXIMATE",
        ),
        Series(
            label="baseline",
            settings=(BASELINE,),
            published=((15.48, 68.38), (75.87, 68.38)),
        ),
    ),
)
CURVES = replace(
    SWEEP,
    name="fig4",
    kind="curves",
    series=(Series(label="baseline", settings=(BASELINE,), published=((200, 67.8),)),),
)
SOFT = replace(
    SWEEP,
    name="soft-targets",
    kind="soft-targets",
    series=(
        Series(label="τ = 20", values=(("temperature", 20),)),
        Series(label="LSR", values=(("classes", 4), ("distribution", "uniform"))),
    ),
)


def figure_data(figure: Figure, **sources: Any) -> FigureData:
    return data_of(figure, Sources(**sources))


def values(data: object) -> list[float]:
    return [float(each) for each in np.asarray(data)]


def test_a_sweep_draws_students_against_the_accuracy_of_their_teachers_checkpoint(
    make_measured: Make,
) -> None:
    measured = {
        student(None): make_measured(71.0, 72.0, 73.0, name="a"),
        student(1): make_measured(70.0, name="b"),
        BASELINE: make_measured(68.0, 69.0, 70.0, name="c"),
    }
    data = figure_data(SWEEP, measured=measured, teacher_accuracy={student(None): 75.9, student(1): 15.2})
    assert data.lines[:3] == (
        Line(
            label="student (ours ± std, n = 1–3)",
            x=(15.2, 75.9),
            y=(70.0, 72.0),
            low=(70.0, 71.0),
            high=(70.0, 73.0),
            n=1,
            look="marked line",
        ),
        Line(
            label="baseline (ours ± std, n = 3)",
            y=(69.0,),
            low=(68.0,),
            high=(70.0,),
            n=3,
            look="level",
            slot=1,
        ),
        Line(label="student (paper, read off)", x=(15.48, 75.87), y=(70.5, 71.05), look="read off"),
    )
    assert data.lines[-1] == Line(label="baseline (paper)", y=(68.38,), look="printed level", slot=1)
    assert data.status == ""


def test_published_points_are_marked_as_such_and_read_off_ones_apart() -> None:
    exact = replace(SWEEP, series=(replace(SWEEP.series[0], status="CONFIRMED"),))
    assert (figure_data(exact).lines[0].look, figure_data(SWEEP).lines[0].look) == ("printed", "read off")


def test_a_student_whose_teachers_accuracy_is_unknown_is_not_placed(make_measured: Make) -> None:
    data = figure_data(SWEEP, measured={student(1): make_measured(70.0)})
    assert {line.look for line in data.lines} == {"read off", "printed level"}
    assert data.status == "not measured yet"


def test_curves_are_means_with_a_band_over_the_epochs_all_seeds_have() -> None:
    runs = [
        {1: 10.0, 2: 20.0, 3: 30.0},
        {1: 12.0, 2: 24.0},
    ]
    line, _ = figure_data(CURVES, curves={BASELINE: runs}).lines
    assert (line.label, line.n) == ("baseline (mean ± std, n = 2)", 2)
    assert (line.x, line.y) == ((1.0, 2.0), (11.0, 22.0))
    assert line.low == pytest.approx((11 - 2**0.5, 22 - 8**0.5))
    assert line.high == pytest.approx((11 + 2**0.5, 22 + 8**0.5))


def test_a_single_run_has_no_band() -> None:
    run = {1: 10.0, 2: 20.0}
    (line,) = training_curves("run", "A run", {"mine": [run]}).lines
    assert (line.label, line.low, line.high) == ("mine", (), ())


def bars_of(**values: object) -> Series:
    return Series(label="p", values=tuple(values.items()))


def test_a_distribution_is_computed_by_what_was_handed_in() -> None:
    series = bars_of(distribution="virtual-teacher", classes=3, correct=2)
    data = figure_data(
        replace(SWEEP, kind="bars", series=(series,)),
        virtual_teacher=lambda *, classes, correct: [float(each == correct) for each in range(classes)],
    )
    assert [(line.look, line.y) for line in data.lines[:1]] == [("bars", (0.0, 0.0, 1.0))]


def test_bars_need_no_run() -> None:
    series = Series(label="LSR", values=(("classes", 4), ("distribution", "uniform")))
    data = figure_data(replace(SWEEP, kind="bars", series=(series,)))
    bars = Line(label="LSR", x=(1.0, 2.0, 3.0, 4.0), y=(0.25,) * 4, look="bars")
    assert (data.lines, data.status) == ((bars,), "")


def test_soft_targets_stand_beside_the_uniform_distribution() -> None:
    data = figure_data(SOFT, soft_targets={20: [0.4, 0.3, 0.2, 0.1]})
    assert data.lines == (
        Line(label="τ = 20", x=(1.0, 2.0, 3.0, 4.0), y=(0.4, 0.3, 0.2, 0.1)),
        Line(label="LSR", y=(0.25,), look="printed level", slot=1),
    )
    assert data.kind == "soft-targets"


def test_what_is_drawn_is_the_data(make_measured: Make) -> None:
    data = figure_data(
        SWEEP,
        measured={student(None): make_measured(71.0, 72.0, 73.0, name="a"), student(1): make_measured(70.0)},
        teacher_accuracy={student(None): 75.9, student(1): 15.2},
    )
    (axes,) = drawing(data).axes
    drawn = {str(line.get_label()): line for line in axes.lines}
    ours = drawn["student (ours ± std, n = 1–3)"]
    assert (values(ours.get_xdata()), values(ours.get_ydata())) == ([15.2, 75.9], [70.0, 72.0])
    assert drawn["student (paper, read off)"].get_markerfacecolor() == "white"
    assert values(drawn["baseline (paper)"].get_ydata()) == [68.38, 68.38]


def test_bars_are_drawn_at_their_heights() -> None:
    bars = Line(label="a", x=(1.0, 2.0), y=(0.1, 0.3), look="bars")
    data = FigureData(name="b", title="t", x_label="x", y_label="y", lines=(bars,))
    (axes,) = drawing(data).axes
    assert [patch.get_height() for patch in axes.patches] == [0.1, 0.3]  # type: ignore[attr-defined]


def test_the_band_spans_the_spread_over_seeds() -> None:
    runs = [{1: 10.0 + s, 2: 20.0 + s} for s in (0, 2)]
    (axes,) = drawing(figure_data(CURVES, curves={BASELINE: runs})).axes
    heights = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((11 - 2**0.5, 21 + 2**0.5))


def test_a_figure_with_nothing_measured_shows_the_published_points_and_says_so() -> None:
    (axes,) = drawing(figure_data(CURVES)).axes
    assert axes.get_title() == "not measured yet"
    assert [values(line.get_ydata()) for line in axes.lines] == [[67.8]]


def test_no_two_lines_share_a_colour_or_a_dash() -> None:
    runs = {f"run {index}": [{1: 1.0, 2: 2.0}] for index in range(len(COLOURS))}
    (axes,) = drawing(training_curves("r", "t", runs)).axes
    assert len({str(line._dash_pattern) for line in axes.lines}) == len(COLOURS)  # type: ignore[attr-defined]
    assert len({str(line.get_color()) for line in axes.lines}) == len(COLOURS)


@pytest.mark.parametrize("last", [1, 2, 5, 10, 37, 200])
def test_curves_begin_at_epoch_1_and_have_whole_epochs_as_ticks(last: int) -> None:
    run = dict.fromkeys(range(1, last + 1), 1.0)
    (axes,) = drawing(training_curves("r", "t", {"mine": [run]})).axes
    ticks = axes.get_xticks()
    assert ticks[0] == 1
    assert all(tick == int(tick) for tick in ticks)
    assert max(ticks) <= last
    assert 1 - max(0.05, 0.02 * last) < axes.get_xlim()[0] < 1


def test_a_forest_plot_has_a_dot_an_interval_and_the_printed_gain_for_each_row() -> None:
    rows = (
        GainRow(labels=("Normal KD", "resnet18"), gain=1.5, interval=Interval(0.5, 2.5), published=1.2),
        GainRow(labels=("LSR",), gain=-0.2),
    )
    data = FigureData(name="g", title="Gains", x_label="gain", y_label="", gains=rows)
    (axes,) = drawing(data).axes
    drawn = {str(line.get_label()): line for line in axes.lines}
    assert values(drawn[plot.OURS + plot.WITH_INTERVAL].get_xdata()) == [1.5, -0.2]
    assert values(drawn["printed in the paper"].get_xdata()) == [1.2]
    assert [0.5, 2.5] in [values(line.get_xdata()) for line in axes.lines]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Normal\xa0KD\xa0· resnet18", "LSR"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first row on top


def test_a_figure_is_written_in_each_format_and_the_same_each_time(tmp_path: Path) -> None:
    data = figure_data(CURVES)
    first = draw(data, tmp_path / "fig4.v1")
    second = draw(data, tmp_path / "again")
    assert [path.name for path in first] == ["fig4.v1.png", "fig4.v1.svg", "fig4.v1.pdf"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes().startswith(b"\x89PNG")
