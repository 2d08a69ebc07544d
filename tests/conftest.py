"""What all tests share: Hypothesis without clocks, and no accidental network or home folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.drills.ledger import (  # noqa: F401  hooks
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)
from tfkd_cli.execution import Execution

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


@dataclass(frozen=True)
class TinyData:
    """A data set that trains in milliseconds: its resolved name, and how to find it."""

    name: str
    execution: Execution


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> TinyData:
    """Two classes of random 32-pixel images, 9 to train and 4 to test each, decoded in a cache of its own."""
    from PIL import Image

    from tfkd_cli import data

    folder = tmp_path_factory.mktemp("tiny")
    numbers = np.random.default_rng(0)
    for part, count in (("train", 9), ("test", 4)):
        for label in ("cat", "dog"):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{number}.png")
    execution = Execution(cache=str(tmp_path_factory.mktemp("tiny-cache")), device="cpu", threads=1)
    return TinyData(data.prepare(f"folder:{folder}", execution=execution).name, execution)
