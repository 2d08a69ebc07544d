"""What may be freed: never a result, never what a plan or a resume needs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Cleanable, Store, free


def test_only_snapshots_that_no_plan_needs_are_freed(store: Store, tiny_spec: RunSpec, play: Any) -> None:
    play.train(store.root, tiny_spec)
    run = store.run(tiny_spec)
    assert store.cleanable(needed={tiny_spec.key: ["epoch-001.pt"]}) == []
    found = store.cleanable(needed={})
    size = (run.path / "weights/epoch-001.pt").stat().st_size
    assert [(each.path.name, each.bytes) for each in found] == [("epoch-001.pt", size)]
    assert free(found) == size
    assert free(found) == 0
    state = run.state()
    assert (state.status, state.missing) == ("done", ("epoch-001.pt",))
    assert state.can_teach("best")
    assert run.result() is not None


def test_states_left_in_attempts_of_a_finished_run_are_freed(
    store: Store, tiny_spec: RunSpec, play: Any
) -> None:
    play.train(store.root, tiny_spec)
    loser = store.run(tiny_spec).start_attempt(owner={})
    loser.save_state(lambda stream: stream.write(b"123"), step=1, epoch=1)
    loser.release()
    found = store.cleanable(needed={tiny_spec.key: ["epoch-001.pt"]})
    assert [(each.path.name, each.bytes) for each in found] == [("state-000001.pt", 3)]


def test_a_resumable_run_keeps_its_two_furthest_sound_states(store: Store, tiny_spec: RunSpec) -> None:
    run = store.run(tiny_spec)
    run.declare(tiny_spec)
    paths = []
    for step in (1, 2, 3, 4):
        attempt = run.start_attempt(owner={})
        paths.append(attempt.save_state(lambda stream: stream.write(b"123"), step=step, epoch=1))
        attempt.release()
    paths[2].write_bytes(b"!!!")
    found = store.cleanable(needed={})
    assert [each.path for each in found] == [paths[0]]
    free(found)
    assert run.newest_states() == [paths[3], paths[1]]


def test_a_run_somebody_works_on_is_left_alone(store: Store, tiny_spec: RunSpec) -> None:
    run = store.run(tiny_spec)
    run.declare(tiny_spec)
    attempt = run.start_attempt(owner={})
    _age(attempt.path / ".x.pt.0123456789abcdef.tmp")
    assert store.cleanable(needed={}) == []
    attempt.release()
    assert len(store.cleanable(needed={})) == 1


def test_temporary_files_are_freed_once_they_are_old(store: Store, tiny_spec: RunSpec) -> None:
    run = store.run(tiny_spec)
    run.declare(tiny_spec)
    path = run.path / ".spec.json.0123456789abcdef.tmp"
    path.write_bytes(b"12")
    assert store.cleanable(needed={}) == []
    _age(path)
    assert [each.path for each in store.cleanable(needed={})] == [path]


def _age(path: Path) -> None:
    path.write_bytes(b"12")
    past = time.time() - 7200
    os.utime(path, (past, past))


@pytest.mark.parametrize(
    "path", ["result.json", "spec.json", "metrics.jsonl", "weights/best.pt", "attempts/0001/log", "weights"]
)
def test_results_and_records_cannot_even_be_named(path: str) -> None:
    with pytest.raises(ValueError, match="never freed"):
        Cleanable(Path("runs/x-0123456789ab") / path, 1, "why")
