"""Every renderer against a golden file. `TFKD_UPDATE_GOLDEN=1 pytest …` rewrites them; read the diff."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from paper_tables.compare import Comparison, Measured, SeedValue, compare
from paper_tables.measured import EPOCHS
from paper_tables.render import sheet_latex, sheet_markdown, sheet_terminal
from paper_tables.render.as_data import comparison_csv, comparison_record
from paper_tables.render.cells import comparison_sheet
from paper_tables.render.claims import claims_record, claims_sheet, sentence
from paper_tables.spec import Cell, Claim, Column, Contrast, Published, Row, Setting, Table
from paper_tables.verdicts import judge_claims

GOLDEN = Path(__file__).parents[1] / "golden"
Make = Callable[..., Measured]
Name = Callable[..., Setting]
Runs = Mapping[Setting, Measured]


def shown(renderable: object, width: int = 100) -> str:
    out = io.StringIO()
    Console(file=out, width=width, no_color=True).print(renderable)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def text_of(comparison: Comparison, width: int) -> object:
    return sheet_terminal.text(comparison_sheet(comparison), width)


def markdown_of(comparison: Comparison) -> str:
    return sheet_markdown.markdown(comparison_sheet(comparison))


def latex_of(comparison: Comparison) -> str:
    return sheet_latex.latex(comparison_sheet(comparison))


def matches(text: str, name: str) -> bool:
    path = GOLDEN / name
    if os.environ.get("TFKD_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")
    return True


@pytest.fixture
def everything(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> Comparison:
    """Two rows with an erratum, an assumption, a missing run, a mixture and an empty place."""
    big = {method: make_setting(method, student="resnet18") for method in ("baseline", "kd", "lsr")}
    cells = (
        Cell(row=1, column="baseline", setting=big["baseline"], published=Published(mean=75.87)),
        Cell(
            row=1,
            column="kd",
            setting=big["kd"],
            published=Published(gain=1.19),
            note="Table 9 prints +1.32 for the same pair.",
            erratum=True,
        ),
        None,
    )
    mixed = make_measured(75.9, 76.1, name="big-baseline")
    last = SeedValue(seed=2, best=75.7, last=75.1, run="big-baseline-s2", precision="bf16", code="1d02437")
    measured = {
        **runs,
        big["baseline"]: replace(mixed, values=(*mixed.values, last)),
        big["kd"]: make_measured(77.0, 77.4, name="big-kd"),
    }
    rows = (*table.rows, Row(labels=("ResNet18",), cells=cells))
    return compare(
        replace(table, rows=rows, source="CVPR 2020, Table 0", note="A table made up for the tests."),
        measured,
        lambda each: ("loss.alpha",) if each.method == "lsr" else (),
    )


@pytest.fixture
def demo(runs: dict[Setting, Measured], make_setting: Name) -> Comparison:
    """A table of ours: one column, nothing published."""
    rows = tuple(
        Row(labels=(method,), cells=(Cell(row=index, column="accuracy", setting=make_setting(method)),))
        for index, method in enumerate(("baseline", "kd", "lsr", "tf-self"))
    )
    table = Table(
        name="demo",
        title="Every method on a toy",
        kind="demo",
        heads=("Method",),
        columns=(Column(name="accuracy", label="Accuracy"),),
        rows=rows,
        note="A toy data set decides nothing about the paper.",
    )
    return compare(table, {**runs, make_setting("tf-self"): Measured(wanted=3)}, lambda each: ("lr",))


def test_the_terminal_shows_published_beside_measured(everything: Comparison) -> None:
    assert matches(shown(text_of(everything, 100)), "table0.txt")


def test_the_demo_shows_a_line_per_method(demo: Comparison) -> None:
    assert matches(shown(text_of(demo, 100)), "demo.txt")


def test_markdown(everything: Comparison) -> None:
    assert matches(markdown_of(everything), "table0.md")


def test_latex(everything: Comparison) -> None:
    assert matches(latex_of(everything), "table0.tex")


def test_csv(everything: Comparison) -> None:
    assert matches(comparison_csv(everything), "table0.csv")


def test_json(everything: Comparison) -> None:
    text = json.dumps(comparison_record(everything), indent=1, ensure_ascii=False, allow_nan=False)
    assert matches(re.sub(r"(\d+\.\d{6})\d+", r"\1", text) + "\n", "table0.json")


@pytest.mark.parametrize("width", [40, 80, 140])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_lost(everything: Comparison, width: int) -> None:
    text = shown(text_of(everything, width), width)
    assert all(len(line) <= width for line in text.splitlines())
    for number in ("73.00±0.20", "(+2.50)", "74.00±1.00", "[+0.52,", "n=2/3"):
        assert number in text


def test_no_colour_is_asked_for_under_no_color(
    everything: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    Console(file=out, width=100, force_terminal=True).print(text_of(everything, 100))
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", out.getvalue())


def test_text_in_brackets_is_shown_and_not_taken_for_markup(everything: Comparison) -> None:
    strange = replace(everything, table=replace(everything.table, title="[bold]x[/bold]"))
    assert "[bold]x[/bold]" in shown(text_of(strange, 100))


def test_a_table_says_whether_one_teacher_or_one_per_seed_taught(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    one = shown(text_of(compare(table, runs), 200), 200)
    assert "One teacher per architecture (seed 0) teaches all student seeds" in one
    runs[make_setting("kd")] = make_measured(74.0, 73.0, 75.0, name="kd", teacher="resnet18-s{seed}")
    several = shown(text_of(compare(table, runs), 200), 200)
    assert "Each student seed has a teacher of its own" in several
    assert "One teacher per architecture" not in several


def test_a_gain_of_common_seeds_says_on_how_many_pairs_it_rests(
    table: Table, runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    assert "pairs)" not in shown(text_of(compare(table, runs), 200), 200).partition("paper:")[0]
    runs[make_setting("baseline")] = make_measured(70.0, 71.0, 72.0, 99.0, name="baseline")
    assert "+3.00 [+0.52, +5.48] (3 pairs)" in shown(text_of(compare(table, runs), 200), 200)


def test_settings_that_do_not_scatter_alike_are_noted_below_a_table_and_a_claim(
    table: Table, claims: list[Claim], runs: dict[Setting, Measured], make_setting: Name, make_measured: Make
) -> None:
    runs[make_setting("baseline")] = make_measured(70.0, 70.1, 70.2, 70.1, 70.3, name="baseline")
    runs[make_setting("kd")] = make_measured(50.0, 70.0, 90.0, 80.0, 58.0, name="kd")
    assert "do not scatter alike on cifar100" in shown(text_of(compare(table, runs), 200), 200)
    assert "do not scatter alike on cifar100" in judge_claims(claims, runs)[0].notes[-1]


def test_a_table_without_runs_shows_what_is_published_and_n_of_n(table: Table, make_setting: Name) -> None:
    text = shown(text_of(compare(table, {make_setting("kd"): Measured(wanted=3)}), 100))
    assert "73.00±0.20 (+2.50)" in text
    assert "0/3" in text
    assert "agrees" not in text


def test_a_setting_in_json_has_its_overrides_by_name(table: Table) -> None:
    cell = table.rows[0].cells[1]
    assert cell is not None
    tuned = replace(cell, setting=replace(cell.setting, loss=(("alpha", 0.5),)))
    only = replace(table, rows=(Row(labels=("x",), cells=(tuned,)),))
    assert comparison_record(compare(only, {}))["cells"][0]["setting"]["loss"] == {"alpha": 0.5}


EVIL = "<script>alert('x')</script> & \"q\" | $x$ \\end{table} # % _ ^ ~ `c` é 中"


def test_a_markdown_row_keeps_its_columns_whatever_a_text_holds(everything: Comparison) -> None:
    row = replace(everything.table.rows[0], labels=("a | b\nc",))
    strange = replace(everything, table=replace(everything.table, rows=(row, everything.table.rows[1])))
    lines = [line for line in markdown_of(strange).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {6}


@given(st.text(max_size=40))
def test_escaped_markdown_has_no_bare_special_character(text: str) -> None:
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_<>]", sheet_markdown.escape(text))


@given(st.text(max_size=40))
def test_escaped_latex_has_no_bare_special_character(text: str) -> None:
    bare = re.sub(r"\\[#$%&_{}]|\\[A-Za-z]+(\{\})?|\$[^$]*\$|\{[\[\]*]\}", "", sheet_latex.escape(text))
    assert not re.search(r"[#$%&_{}~^\\]", bare)


def test_a_negative_number_gets_a_real_minus_in_latex() -> None:
    assert sheet_latex.escape("Tf-KD -0.04") == "Tf-KD $-$0.04"


def tall(comparison: Comparison, times: int) -> Comparison:
    """The same with every row as many times."""
    table = comparison.table
    return replace(
        comparison, rows=comparison.rows * times, table=replace(table, rows=table.rows * times, note=EVIL * 9)
    )


@pytest.mark.parametrize("times", [1, 4, 40])
def test_a_table_too_tall_for_a_page_goes_on_in_another_float(everything: Comparison, times: int) -> None:
    text = latex_of(tall(everything, times))
    floats = text.count(r"\begin{table}")
    assert text.count(r"\begin{tabular}") <= floats
    assert (floats > 1) == (times > 1)
    assert text.count(r"\label") == 1
    assert text.count(r"\addtocounter{table}{-1}") == floats - 1
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len([line for line in body if " & best & " in line]) == times * len(everything.rows)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(
    everything: Comparison, demo: Comparison, claims: list[Claim], tmp_path: Path
) -> None:
    measured = {each.cell.setting: each.measured for each in everything.cells()}
    strange = replace(everything, table=replace(everything.table, title=EVIL, note=EVIL))
    tables = [latex_of(each) for each in (everything, demo, strange, tall(everything, 9), tall(demo, 30))]
    body = "\n".join([*tables, sheet_latex.latex(claims_sheet(judge_claims(claims, measured)))])
    (tmp_path / "all.tex").write_text(sheet_latex.DOCUMENT.format(body=body), encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Float too large" not in done.stdout
    assert (tmp_path / "all.pdf").stat().st_size > 1000


@pytest.fixture
def claims(make_setting: Name) -> list[Claim]:
    def contrast(method: str, published: float | None = None) -> Contrast:
        return Contrast(
            setting=make_setting(method),
            against=make_setting("baseline"),
            label=method,
            published=published,
        )

    return [
        Claim(name="kd", statement="KD gains", relation="better", contrasts=(contrast("kd", 2.5),)),
        Claim(name="lsr", statement="LSR changes nothing", relation="equal", contrasts=(contrast("lsr"),)),
        Claim(
            name="reg",
            statement="Tf-KD_reg gains",
            relation="better",
            contrasts=(contrast("kd"), contrast("tf-reg")),
        ),
    ]


def test_claims_are_shown_with_their_verdicts_at_both_epochs(claims: list[Claim], runs: Runs) -> None:
    both = [judge_claims(claims, runs, epoch=epoch) for epoch in EPOCHS]
    assert matches(sheet_markdown.markdown(claims_sheet(*both)), "claims.md")
    text = shown(sheet_terminal.text(claims_sheet(*both), 140), width=140)
    assert all(claim.statement in text for claim in claims)
    json.dumps(claims_record(*both), allow_nan=False)


def test_a_verdict_says_in_words_what_the_seeds_could_have_shown(claims: list[Claim], runs: Runs) -> None:
    kd, lsr, reg = map(sentence, judge_claims(claims, runs))
    assert kd == (
        "Not shown: mean gain +3.00 [+0.52, +5.48] 95 % over 1 of 1 cells, 6 of 6 runs; "
        "p 0.11 after Holm over 3 claims. These seeds could have shown a gain of 3.10 (80 % power). "
        "The paper prints +2.50, which needs 4 seeds."
    )
    assert "The paper prints no such gain. They could have confirmed equality within ±" in lsr
    assert reg.startswith("Partly measured: mean gain +3.00 [+0.52, +5.48] 95 % over 1 of 2 cells")
    nothing = sentence(judge_claims(claims, {})[0])
    assert nothing == "Not measured: 0 of 1 cells, 0 of 0 runs."
