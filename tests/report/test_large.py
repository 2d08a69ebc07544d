"""A thousand finished runs of 200 epochs through the command: the full size (make drills)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

RUNS = 1000
TABLES = [f"table{number}" for number in (1, 2, 3, 4, 5, 6, 9, 10)]
PAGE_LIMIT, MEMORY_LIMIT = 3_000_000, 1_000_000_000  # bytes
CPU_LIMIT = 2 * 12.0  # seconds: 12 on two cores; the time on the clock depends on what else runs


def report(root: Path) -> tuple[float, float, int]:
    """Seconds on the clock and of CPU, and peak memory (bytes, of the parent or its largest child)."""
    started = time.monotonic()
    command = [sys.executable, "-m", "tfkd_cli", "report", "--results", str(root), "--out", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


@pytest.mark.drill
def test_a_thousand_runs_are_reported_within_time_memory_and_page_size(
    stores: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = stores.campaign(tmp_path, [*TABLES, "fig2a", "fig2b", "fig3", "fig4"], seeds=tuple(range(12)))
    specs = stores.wanted(campaign)[: RUNS + 1]
    assert len(specs) == RUNS + 1
    with stores.in_memory():
        for spec in specs[:-1]:
            stores.finish(campaign.store, spec)
        first, cpu, memory = report(tmp_path)
        stores.finish(campaign.store, specs[-1])
    again, cpu_again, _ = report(tmp_path)
    page = (tmp_path / "index.html").stat().st_size
    with capsys.disabled():
        print(f"\nreport of {RUNS} runs: {first:.1f} s, {cpu:.1f} s of CPU, {memory / 1e6:.0f} MB;")
        print(f"after one new run: {again:.1f} s, {cpu_again:.1f} s of CPU; page {page / 1e6:.2f} MB;")
        print(f"load {os.getloadavg()[0]:.1f}")
    assert cpu <= CPU_LIMIT
    assert page <= PAGE_LIMIT
    assert memory <= MEMORY_LIMIT
