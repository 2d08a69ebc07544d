"""The page as a file: it asks no network, and every number leads to its runs."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from paper_tables.render.as_data import comparison_record
from tfkd_cli import report
from tfkd_cli.report import page as pages

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Made  # type: ignore[import-not-found, unused-ignore]

ALLOWED = ("#", "data:", "report/")


class Links(HTMLParser):
    """Where a page's elements point to, and the ids there are."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src", "action", "data", "poster", "srcset") and value is not None:
                self.targets.append(value)
            if name == "id" and value is not None:
                self.ids.append(value)


def links(page: str) -> Links:
    """The links and ids of a page."""
    found = Links()
    found.feed(page)
    return found


def test_the_page_asks_no_network(paper: Made) -> None:
    assert all(target.startswith(ALLOWED) for target in links(paper.page).targets)
    assert "default-src 'none'" in paper.page
    style = paper.page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_every_link_of_the_page_leads_somewhere(paper: Made) -> None:
    found, data = links(paper.page), paper.data
    runs = {run["name"] for run in data["runs"]}
    for target in found.targets:
        kind, _, name = target.partition("=")
        if target.startswith("report/"):
            assert (paper.out / target).exists(), target
        elif kind == "#cell":
            assert name in data["cells"]
        elif kind == "#run":
            assert name in runs
        elif target.startswith("#"):
            assert target[1:] in found.ids, target


def test_the_gains_of_a_table_are_drawn_below_it(paper: Made) -> None:
    assert (paper.folder / "figures" / "table9-gains.svg").exists()
    figure = paper.page.split('id="table9"')[1].split("</figure>")[0]
    assert '<img src="data:image/svg+xml;base64,' in figure
    rows = paper.record["figures"]["table9-gains"]["gains"]
    measured = [
        cell["measured"]["best"]
        for table in paper.record["tables"]
        for cell in table["cells"]
        if table["slug"] == "table9" and cell["measured"]["best"]
    ]
    gains = [(each["gain"], [each["gain_low"], each["gain_high"]]) for each in measured if each["gain"]]
    assert [(row["gain"], row["interval"]) for row in rows] == gains


@pytest.mark.usefixtures("undrawn")
def test_what_was_measured_stands_before_what_was_not(stores: ModuleType, tmp_path: Path) -> None:
    campaign = stores.campaign(tmp_path, ["table2", "table9"], seeds=(0,))
    asked = {spec.key for spec in stores.wanted(campaign.only("table9"))}
    others = [at for at, spec in enumerate(stores.wanted(campaign)) if spec.key not in asked]
    stores.finish_all(campaign, skip=others)
    page = report.write([campaign], store=campaign.store, out=tmp_path).index.read_text()
    assert page.index('<figure class="sheet" id="table9"') < page.index('<figure class="sheet" id="table2"')
    assert page.index('id="tables"') < page.index('id="claims"')  # one seed judges none
    assert "claims that hold" not in page


def test_a_figure_has_one_title(paper: Made) -> None:
    caption = paper.page.split('id="fig3"')[1].split("<figcaption>")[1].split("</figcaption>")[0]
    assert caption.count("CVPR 2020, Figure 3") == 1
    assert "Figure 3" not in (paper.folder / "figures" / "fig3.svg").read_text().split("<g id=")[1]


@pytest.mark.usefixtures("undrawn")
def test_runs_of_an_older_trainer_version_are_listed_apart(stores: ModuleType, tmp_path: Path) -> None:
    campaign = stores.campaign(tmp_path, ["demo"])
    for spec in stores.wanted(campaign):
        with stores.in_memory():
            stores.finish(campaign.store, replace(spec, trainer=1))
    made = report.write([campaign], store=campaign.store, out=tmp_path)
    page, record = made.index.read_text(), json.loads((tmp_path / "report" / "report.json").read_text())
    assert "Numbers of trainer version 1; this is version 2" in page
    assert len(record["older"]) == len(stores.wanted(campaign))
    assert all(each["trainer"] == 1 and each["best_accuracy"] > 0 for each in record["older"])
    assert all(cell["measured"]["n"] == 0 for table in record["tables"] for cell in table["cells"])
    assert not any("belong to nothing" in note for note in record["notes"])


def test_no_id_is_given_twice(paper: Made) -> None:
    ids = links(paper.page).ids
    assert len(ids) == len(set(ids))


def test_every_measured_cell_is_one_link_away_from_its_runs_seeds_and_commits(paper: Made) -> None:
    data = paper.data
    for table in paper.record["tables"]:
        for cell in table["cells"]:
            name = f"{table['slug']}/{cell['row']}/{cell['column']}"
            if cell["measured"]["n"]:
                assert f'href="#cell={name}"' in paper.page
            shown = [data["runs"][place] for place in data["cells"][name]["runs"]]
            done = [run for run in shown if run["status"] == "done"]
            assert [run["name"] for run in done] == cell["measured"]["runs"]
            for run in done:
                assert re.fullmatch(r"[0-9a-f]{40}", data["places"][run["place"]]["commit"])
                assert data["specs"][run["spec"]]["recipe"]["epochs"] > 0


def test_every_claim_stands_on_the_page_with_its_verdict(paper: Made) -> None:
    page, judged = paper.page, paper.record["claims"]
    assert judged[0]["departures"] == []
    for verdict in judged[0]["verdicts"]:
        assert verdict["verdict"] in page


@pytest.mark.usefixtures("undrawn")
def test_claims_of_quick_runs_are_shown_apart_as_not_comparable(stores: ModuleType, tmp_path: Path) -> None:
    campaign = stores.campaign(tmp_path, ["table9"], scale="quick", seeds=(0, 1, 2))
    stores.finish_all(campaign)
    written = report.write([campaign], store=campaign.store, out=tmp_path)
    page = written.index.read_text()
    assert "none at the paper’s own scale is finished" in page
    assert "The same claims with other runs: quick" in page
    assert page.index('id="tables"') < page.index('id="claims"')
    assert "claims that hold" not in page


def test_the_demo_says_that_toy_data_decides_nothing(demo: Made, paper: Made) -> None:
    assert "Toy data decides nothing about the paper" in demo.page
    assert demo.record["toy"]
    assert "Toy data decides nothing" not in paper.page


def test_what_is_missing_comes_with_the_command_for_it(paper: Made) -> None:
    by_slug = {each["slug"]: each for each in paper.record["missing"]}
    quick = by_slug["table2-quick"]
    assert quick["command"] == "tfkd reproduce table2"
    assert quick["command"] in paper.page
    assert quick["counts"]["todo"] == quick["wanted"] - quick["counts"]["done"] > 0
    assert by_slug["fig3"]["wanted"] == 0


@pytest.mark.usefixtures("undrawn")
def test_how_many_claims_hold_is_said_of_those_that_were_judged(stores: ModuleType, tmp_path: Path) -> None:
    campaign = stores.campaign(tmp_path, ["table9", "table10", "table11"])
    stores.finish_all(campaign)
    page = report.write([campaign], store=campaign.store, out=tmp_path).index.read_text()
    claims = json.loads((tmp_path / "report" / "report.json").read_text())["claims"][0]["verdicts"]
    words = [each["verdict"] for each in claims if each["epoch"] == "best"]
    judged = [word for word in words if word in ("holds", "contradicted", "not shown")]
    assert 0 < len(judged) < len(words)
    assert f"<dd>{judged.count('holds')} of {len(judged)}</dd>" in page
    assert page.index('id="claims"') < page.index('id="tables"') < page.index('id="runs"')


def test_report_json_holds_every_table_as_show_prints_it(demo: Made, stores: ModuleType) -> None:
    campaign = stores.campaign(demo.out, ["demo"])
    made = comparison_record(campaign.comparison(campaign.request.tables[0], campaign.runs()))
    expected = json.loads(json.dumps(made))
    [table] = demo.record["tables"]
    assert {name: table[name] for name in expected} == expected


def test_the_errata_of_the_paper_are_listed(demo: Made) -> None:
    texts = [each["text"] for each in demo.record["errata"]]
    assert len(texts) >= 8
    assert all(text.split(";")[0] in html.unescape(demo.page) for text in texts)


def test_marks_that_hide_or_turn_text_are_shown_as_escapes_on_the_page() -> None:
    hostile = {"classes": ["photo\u202egnp", "a\x1b[31mb", "猫"], "log": r"\u202e as typed"}
    shown = json.loads(pages._json(hostile, ensure_ascii=False))
    assert shown == {"classes": [r"photo\u202egnp", r"a\x1b[31mb", "猫"], "log": r"\u202e as typed"}
    template = pages._environment().from_string("<td>{{ name }}</td>")
    assert template.render(name="<b>\u202e") == r"<td>&lt;b&gt;\u202e</td>"
