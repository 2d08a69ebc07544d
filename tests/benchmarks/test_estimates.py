"""The benchmark of estimates: its cases are commands of tfkd, its table gives ratios and their medians."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import estimates, images
from tfkd_cli.__main__ import main


def test_the_table_gives_used_over_planned_and_the_medians() -> None:
    like = {"planned": 10.0, "used": 11.0}
    found: dict[str, dict[str, Any]] = {
        "a": {"planned": 10.0, "used": 15.0, "planned_disk": 100.0, "disk": 150.0, "like": like},
        "b": {"planned": 10.0, "used": 5.0, "planned_disk": 100.0, "disk": 50.0},
        "c": {"planned": 20.0, "used": 22.0, "planned_disk": 100.0, "disk": 101.0},
    }
    shown = Console(file=io.StringIO(), width=100)
    shown.print(estimates.table(found))
    assert isinstance(shown.file, io.StringIO)
    rows = [line.split() for line in shown.file.getvalue().splitlines()]
    assert ["a", "10", "15", "1.50", "1.10", "1.50"] in rows
    assert ["median", "1.10", "1.10", "1.01"] in rows


def test_every_case_can_be_planned(tmp_path: Path) -> None:
    tiles = images.write_synthetic(tmp_path / "tiles", train=20, test=10)
    photos = estimates.write_photographs(tmp_path / "photos", images=12)
    cases = estimates.cases(tiles, photos)
    assert len(cases) == 10
    for case in cases:
        places = ["--results", str(tmp_path / "results"), "--cache-dir", str(tmp_path / "cache")]
        assert main([*case.words, *places, "--dry-run", "--json"]) == 0, case.name
