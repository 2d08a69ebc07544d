"""Which rank is taken for lost: one that no longer counts, not one that is slow or was suspended with all."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping

import pytest

from tfkd_cli.training import liveness
from tfkd_cli.training.liveness import Liveness


class Shared:
    """Stands for torch's store."""

    def __init__(self) -> None:
        self.values: dict[str, int | bytes] = {}
        self.stopped = threading.Event()

    def add(self, key: str, more: int) -> int:
        if self.stopped.is_set():
            time.sleep(1_000)
        self.values[key] = int(self.values.get(key, 0)) + more
        return int(self.values[key])

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def get(self, key: str) -> bytes:
        value = self.values[key]
        assert isinstance(value, bytes)
        return value


class Watching:
    """One rank of three, and what it finds lost."""

    def __init__(self, rank: int, store: Shared, *, starting: int = 5) -> None:
        self.lost: list[tuple[set[int], Mapping[int, str]]] = []
        self.known = threading.Event()
        self.of = Liveness(rank, 3, starting=starting, on_loss=self.note)
        self.of.connect(store)

    def note(self, silent: object, failed: Mapping[int, str]) -> None:
        assert isinstance(silent, set)
        self.lost.append((silent, dict(failed)))
        self.known.set()
        self.of.stop_watching()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    monkeypatch.setattr(liveness, "BEAT", 0.02)
    made = Shared()
    yield made
    made.stopped.set()  # no thread counts any more


def until(number: int, store: Shared) -> None:
    while int(store.values.get("beats/0", 0)) < number:
        time.sleep(0.01)


def test_ranks_that_count_are_never_lost_and_one_that_stops_is_named(
    store: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "SILENT", 1_000_000)
    ranks = [Watching(rank, store) for rank in range(3)]
    until(10, store)
    assert not any(each.lost for each in ranks)
    quiet = Shared()
    monkeypatch.setattr(liveness, "SILENT", 100)
    Watching(2, quiet, starting=1_000_000)
    first = Watching(0, quiet, starting=100)
    assert first.known.wait(100)
    assert first.lost == [({1}, {})]


def test_a_rank_whose_store_is_stopped_takes_rank_0_for_lost(store: Shared) -> None:
    store.stopped.set()
    other = Watching(1, store)
    assert other.known.wait(100)
    assert other.lost == [({0}, {})]


def test_a_rank_that_has_failed_by_itself_ends_the_run_and_one_that_lost_another_does_not(
    store: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "SILENT", 1_000_000)
    first = Watching(0, store, starting=1_000_000)
    store.values["failed/2"] = b""
    until(10, store)
    assert not first.lost
    store.values["failed/1"] = b"ValueError: why"
    assert first.known.wait(100)
    assert first.lost == [(set(), {1: "ValueError: why", 2: ""})]
