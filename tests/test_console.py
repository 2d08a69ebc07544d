"""Text and tables at the width of a terminal: no word and no number is broken."""

from __future__ import annotations

import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tfkd_cli import console

WORDS = st.text("abcdefgh", min_size=1, max_size=20)
TEXTS = st.lists(WORDS, min_size=0, max_size=8).map(" ".join)
NUMBERS = st.sampled_from(["1,234.5 GB", "+0.84 [-3.02, +4.69]", "93.41±2.43", "5 min 41 s", "-", "12"])
WIDTHS = (80, 100, 140)


def drawn(heads: list[str], rows: list[tuple[str, ...]], width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, no_color=True).print(console.simple_table(heads, rows))
    return out.getvalue()


@given(
    rows=st.integers(1, 4).flatmap(
        lambda n: st.lists(st.tuples(*([TEXTS, NUMBERS] * n)), min_size=1, max_size=4)
    ),
    width=st.sampled_from(WIDTHS),
)
def test_no_word_and_no_number_of_a_table_is_broken(rows: list[tuple[str, ...]], width: int) -> None:
    shown = drawn([f"head{i}" for i in range(len(rows[0]))], rows, width)
    assert max(map(len, shown.splitlines())) <= width
    tokens = shown.split()
    for row in rows:
        for text in row[::2]:
            assert all(word in tokens for word in text.split())
        assert all(number in shown for number in row[1::2])


def test_a_word_that_is_wider_than_the_terminal_is_broken_and_stays_whole() -> None:
    shown = drawn(["field", "value"], [("run", "x" * 100), ("epoch", "3")], 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("x") == 100
    assert {"field", "value", "run", "epoch", "3"} <= set(shown.split())


def test_a_table_that_fits_stays_one_and_a_wide_one_repeats_its_first_column() -> None:
    row = ("name", *(f"value-{i}-of-twenty-cells" for i in range(4)))
    assert drawn(["who", "a", "b", "c", "d"], [row], 140).count("name") == 1
    assert drawn(["who", "a", "b", "c", "d"], [row], 80).count("name") == 2


@given(text=st.lists(WORDS, min_size=1, max_size=30).map(" ".join), indent=st.integers(0, 4))
def test_wrapped_lines_keep_their_words_and_their_indentation(text: str, indent: int) -> None:
    shown = console.wrapped(" " * indent + text, 80)
    assert shown.split() == text.split()
    assert all(len(line) < 80 and line.startswith(" " * indent) for line in shown.splitlines())


def test_a_path_longer_than_the_terminal_stays_whole() -> None:
    path = "/results/" + "x" * 100
    assert path in console.wrapped(f"Report: {path}", 80).split()


def test_a_number_is_never_parted_from_its_unit() -> None:
    for width in range(12, 40):
        lines = console.wrapped("about 1 min 54 s left, 20 GB and 93.5 % in all", width).splitlines()
        assert not any(line.startswith(("min", "s ", "GB", "%")) for line in lines)


@pytest.mark.parametrize(
    ("values", "units", "unit", "shown"),
    [
        ([7200, 540_000, 0], console.TIMES, "h", ["2", "150", "0"]),
        ([90, 36_000], console.TIMES, "h", ["0.0", "10.0"]),
        ([45, 12], console.TIMES, "s", ["45.0", "12.0"]),
        ([3e6, 2.5e9], console.SIZES, "GB", ["0.0", "2.5"]),
        ([], console.SIZES, "kB", []),
    ],
)
def test_a_column_has_one_unit(
    values: list[float], units: dict[str, float], unit: str, shown: list[str]
) -> None:
    assert console.in_one_unit(values, units) == (unit, shown)


def test_a_chart_has_the_best_value_at_its_top_and_the_last_epoch_at_its_right() -> None:
    shown = console.chart({"test": [(1, 50.0), (2, 75.0), (3, 100.0)]}, width=60).splitlines()
    assert shown[0].lstrip().startswith("100.0 |")
    assert shown[0].endswith("*")
    assert shown[14].lstrip().startswith("50.0 |*")
    assert shown[16].split() == ["1", "3"]
    assert max(map(len, shown)) <= 60


def test_what_is_logged_is_shown_once_and_its_escapes_are_not_obeyed(
    capfd: pytest.CaptureFixture[str],
) -> None:
    log = logging.getLogger("tfkd")
    log.addHandler(output := console.LogOutput())
    try:
        for _ in range(2):
            log.warning("%s is damaged.", "\x1b[31mresult.json")
    finally:
        log.removeHandler(output)
    assert capfd.readouterr().err == "Note: \\x1b[31mresult.json is damaged.\n"
