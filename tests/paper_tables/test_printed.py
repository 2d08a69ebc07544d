"""Numbers as the paper prints them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_tables.printed import parse, show
from paper_tables.spec import PaperTablesError, Published


def hundredths(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda each: each / 100)


@given(
    mean=hundredths(100, 10000),
    std=st.none() | hundredths(1, 1000),
    gain=st.none() | hundredths(-2000, 2000),
)
def test_what_is_printed_is_read_back(mean: float, std: float | None, gain: float | None) -> None:
    published = Published(mean=mean, std=std, gain=gain, runs=3 if std else 1)
    assert parse(show(published), where="here") == published


@given(hundredths(-2000, 2000))
def test_a_gain_may_stand_alone(gain: float) -> None:
    assert parse(show(Published(gain=gain)), where="here") == Published(gain=gain)


@given(st.text(alphabet="0123456789.±+-() ", max_size=20))
def test_a_text_is_read_as_printed_or_refused_and_nothing_else(text: str) -> None:
    with contextlib.suppress(PaperTablesError):
        published = parse(text, where="here")
        assert published.mean is None or 1 <= published.mean <= 100


def test_three_runs_stand_behind_a_spread_and_one_behind_none() -> None:
    assert parse("71.05±0.16 (+2.67)", where="").runs == 3
    assert parse("64.12 (+0.68)", where="").runs == 1


@pytest.mark.parametrize(
    "text", ["", " ", "nan", "71.05 ±0.16", "71.05(+2.67)", "(+2.67)", "71,05", "-71.05 (1)"]
)
def test_other_ways_to_write_it_are_refused(text: str) -> None:
    with pytest.raises(PaperTablesError, match="is not a printed number"):
        parse(text, where="table1.toml, row 1")
