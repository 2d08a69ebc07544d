"""What the report's tests share: made-up stores, and reports of them that are made once and only read."""

from __future__ import annotations

import importlib.util
import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tfkd_cli import report
from tfkd_cli.report import Written, figures


@dataclass(frozen=True)
class Made:
    """A report on disk."""

    written: Written
    out: Path

    @property
    def folder(self) -> Path:
        """`out/report`."""
        return self.out / "report"

    @property
    def record(self) -> dict[str, Any]:
        """report.json."""
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found

    @property
    def page(self) -> str:
        """index.html."""
        return self.written.index.read_text(encoding="utf-8")

    @property
    def data(self) -> dict[str, Any]:
        """The JSON within the page."""
        text = self.page.split('<script type="application/json" id="data">')[1].split("</script>")[0]
        found: dict[str, Any] = json.loads(text)
        return found


class DrawsAtOnce:
    """Stands in for the process that draws: its pictures are small files, made when the tasks arrive."""

    returncode = 0

    def __init__(self) -> None:
        self.stdin = self

    def write(self, tasks: bytes) -> None:
        for data, path, formats in pickle.loads(tasks):
            for each in formats:
                path.with_name(f"{path.name}.{each}").write_text(
                    f"<svg width='9pt' height='9pt'><title>{data.name}</title></svg>"
                )

    def flush(self) -> None:
        pass

    def communicate(self) -> tuple[bytes, bytes]:
        return b"", b""

    def poll(self) -> int:
        return 0


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures become small files at once."""
    monkeypatch.setattr(figures, "drawing_process", DrawsAtOnce)


@pytest.fixture(scope="session")
def stores() -> ModuleType:
    """The helpers in stores.py, which lies beside this file."""
    spec = importlib.util.spec_from_file_location("report_stores", Path(__file__).with_name("stores.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def demo(stores: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The report of a finished demo, beside its runs."""
    root = tmp_path_factory.mktemp("demo")
    campaign = stores.campaign(root, ["demo"])
    stores.finish_all(campaign)
    return Made(report.write([campaign], store=campaign.store, out=root), root)


@pytest.fixture(scope="session")
def paper(stores: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Table 9 and figures at the paper's scale, one run missing; Table 2 quick, half of it there."""
    root = tmp_path_factory.mktemp("paper")
    asked = stores.campaign(root, ["table9", "fig2a", "fig3"])
    stores.finish_all(asked, skip=(3,))
    quick = stores.campaign(root, ["table2"], scale="quick")
    stores.finish_all(quick, skip=range(6, 100))
    return Made(report.write([quick, asked], store=asked.store, out=root), root)
