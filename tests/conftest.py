"""What all tests share: Hypothesis without clocks, and no accidental network or home folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Deadlines measure the machine, not the code; the same examples each time keep CI from flaking.
# `make drills` explores with fresh ones (--hypothesis-profile=explore).
settings.register_profile(
    "tfkd", deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=500)
settings.load_profile("tfkd")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache, data or results."""
    cache = Path(os.environ.get("TFKD_TEST_CACHE", "")) if "TFKD_TEST_CACHE" in os.environ else None
    shared = cache or tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("TFKD_CACHE", str(shared))
    for name in ("TFKD_RESULTS", "TFKD_DATA"):
        monkeypatch.delenv(name, raising=False)
