"""Where a report goes, and what happens when it is interrupted, repeated, or cannot be written."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tfkd_cli import report
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.report import page
from tfkd_cli.store import Store, free

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def one_table(stores: ModuleType, tmp_path: Path) -> Any:
    """A small finished grid, its store at tmp_path/results."""
    axes = {"dataset": "digits", "students": ["resnet8"], "methods": ["baseline", "lsr"]}
    campaign = stores.grid(tmp_path / "results", seeds=(0, 1), **axes)
    stores.finish_all(campaign)
    return campaign


def test_a_report_into_the_results_folder_touches_no_run(one_table: Any, stores: ModuleType) -> None:
    root = one_table.store.root
    before = stores.contents(root)
    report.write([one_table], store=one_table.store, out=root)
    after = stores.contents(root)
    made = {name: digest for name, digest in after.items() if name not in before}
    assert {name: after.get(name) for name in before} == before
    assert all(name == "index.html" or name.startswith("report/") for name in made)


def test_it_names_every_file_it_made(one_table: Any, tmp_path: Path, stores: ModuleType) -> None:
    written = report.write([one_table], store=one_table.store, out=tmp_path / "out")
    made = set(stores.contents(tmp_path / "out"))
    assert made == {"index.html", "report/.files.json", *(f"report/{name}" for name in written.files)}
    assert written.index == tmp_path / "out" / "index.html"


def test_an_interrupted_report_leaves_the_old_one(
    one_table: Any, tmp_path: Path, stores: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    report.write([one_table], store=one_table.store, out=tmp_path / "out")
    before = stores.contents(tmp_path / "out")

    def stop(*_: Any, **__: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "render", stop)
    with pytest.raises(KeyboardInterrupt):
        report.write([one_table], store=one_table.store, out=tmp_path / "out")
    assert stores.contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    "damage", [b"", b"nonsense\n", b'{"files": {"x": 1}}\n', b"\xff\xfe", b"[" * 99999, None]
)
def test_what_earlier_reports_noted_may_be_damaged_or_gone(
    one_table: Any, tmp_path: Path, damage: bytes | None
) -> None:
    report.write([one_table], store=one_table.store, out=tmp_path)
    before = (tmp_path / "report" / "epochs.csv").read_bytes()
    path = tmp_path / "report" / ".files.json"
    path.unlink() if damage is None else path.write_bytes(damage)
    report.write([one_table], store=one_table.store, out=tmp_path)
    assert (tmp_path / "report" / "epochs.csv").read_bytes() == before


def test_naming_a_table_adds_it_and_loses_nothing(stores: ModuleType, tmp_path: Path) -> None:
    campaigns = [stores.campaign(tmp_path, [name]) for name in ("table9", "table2", "table4")]
    store = campaigns[0].store
    for names in (["table9"], ["table2"]):
        written = report.write(campaigns, store=store, out=tmp_path, names=names)
    shown = {name for name in written.files if name.startswith("table") and name.endswith(".md")}
    assert shown == {"table9.md", "table2.md"}
    page = written.index.read_text()
    assert 'id="table9"' in page
    assert 'id="table4"' not in page
    files = set(report.write(campaigns, store=store, out=tmp_path).files)
    assert files >= {*written.files, "table4.md"}


def test_files_that_no_report_shows_any_more_stay_until_they_are_cleaned(
    one_table: Any, stores: ModuleType, tmp_path: Path
) -> None:
    written = report.write([one_table], store=one_table.store, out=tmp_path)
    table = next(name for name in written.files if name.startswith("run-") and name.endswith(".md"))
    (tmp_path / "report" / "mine.txt").write_text("keep me")
    demo = stores.campaign(tmp_path / "other", ["demo"])
    report.write([demo], store=demo.store, out=tmp_path)
    assert (tmp_path / "report" / table).exists()
    outdated = report.outdated(tmp_path)
    found = {each.path.relative_to(tmp_path / "report").as_posix() for each in outdated}
    assert table in found
    assert found.isdisjoint({"mine.txt", "demo.md", "runs.csv"})
    free(outdated, tmp_path)
    assert report.outdated(tmp_path) == []
    assert (tmp_path / "report" / "demo.md").exists()


@pytest.mark.parametrize("name", ["report", "index.html"])
def test_a_link_where_the_report_goes_is_refused(one_table: Any, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(one_table.store.root / "runs")
    with pytest.raises(RequestError, match="is a link"):
        report.write([one_table], store=one_table.store, out=out)


def test_a_page_that_no_report_wrote_is_not_replaced(one_table: Any, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<title>My own site</title>")
    with pytest.raises(RequestError, match="no page that `tfkd report` wrote"):
        report.write([one_table], store=one_table.store, out=tmp_path)
    assert (tmp_path / "index.html").read_text() == "<title>My own site</title>"
    (tmp_path / "index.html").unlink()
    for _ in range(2):
        report.write([one_table], store=one_table.store, out=tmp_path)
    (tmp_path / "report" / ".files.json").unlink()
    report.write([one_table], store=one_table.store, out=tmp_path)


def test_a_list_of_files_with_path_tricks_names_nothing_outside(one_table: Any, tmp_path: Path) -> None:
    report.write([one_table], store=one_table.store, out=tmp_path)
    precious = tmp_path / "precious.txt"
    precious.write_text("keep me")
    (tmp_path / "report" / "link.md").symlink_to(precious)
    tricks = ["../precious.txt", str(precious), "", ".", "curves/../../precious.txt", "link.md"]
    (tmp_path / "report" / ".files.json").write_text(json.dumps({"older": tricks}))
    assert report.outdated(tmp_path) == []


def test_a_place_that_cannot_be_written_is_a_clear_error(one_table: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="is not a folder"):
        report.write([one_table], store=one_table.store, out=tmp_path / "file")
    with pytest.raises(RunError, match="cannot write the report"):
        report.write([one_table], store=one_table.store, out=Path("/proc/nowhere"))


def test_an_empty_store_still_gets_a_report(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "results", create=False, writable=False)
    written = report.write([], store=store, out=tmp_path / "out")
    assert "No table was requested yet" in written.index.read_text()
    assert written.left_out == ()
    assert not (tmp_path / "results").exists()


def test_a_request_without_a_single_run_gets_a_report(stores: ModuleType, tmp_path: Path) -> None:
    campaign = stores.campaign(tmp_path, ["table1", "fig2a"])
    written = report.write([campaign], store=campaign.store, out=tmp_path)
    assert "0 of " in written.index.read_text()
    assert (tmp_path / "report" / "figures" / "fig2a.svg").exists()
