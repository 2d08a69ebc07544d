"""What may be freed: never a result, never what a plan or a resume needs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store, free


def test_only_snapshots_that_no_plan_needs_are_freed(store: Store, tiny_spec: RunSpec, play: Any) -> None:
    play.train(store.root, tiny_spec)
    run = store.run(tiny_spec)
    assert store.cleanable(needed={tiny_spec.key: ["epoch-001.pt"]}) == []
    found = store.cleanable(needed={})
    size = (run.path / "weights/epoch-001.pt").stat().st_size
    assert [(each.path.name, each.bytes) for each in found] == [("epoch-001.pt", size)]
    assert free(found, store.root) == size
    assert free(found, store.root) == 0
    state = run.state()
    assert (state.status, state.missing) == ("done", ("epoch-001.pt",))
    assert state.can_teach("best")
    assert run.result() is not None


def test_states_left_in_attempts_of_a_finished_run_are_freed(
    store: Store, tiny_spec: RunSpec, play: Any
) -> None:
    play.train(store.root, tiny_spec)
    loser = store.run(tiny_spec).start_attempt(owner={})
    loser.save_state(b"123", step=1, epoch=1)
    loser.release()
    found = store.cleanable(needed={tiny_spec.key: ["epoch-001.pt"]})
    assert [(each.path.name, each.bytes) for each in found] == [("state-000001.pt", 3)]


def test_a_resumable_run_keeps_its_two_furthest_sound_states(store: Store, tiny_spec: RunSpec) -> None:
    run = store.run(tiny_spec)
    run.declare(tiny_spec)
    paths = []
    for step in (1, 2, 3, 4):
        attempt = run.start_attempt(owner={})
        paths.append(attempt.save_state(b"123", step=step, epoch=1))
        attempt.release()
    paths[2].write_bytes(b"!!!")
    found = store.cleanable(needed={})
    assert [each.path for each in found] == [paths[0]]
    free(found, store.root)
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


def test_cached_logits_of_teachers_that_no_unfinished_run_has_are_freed(store: Store) -> None:
    names = ("0123456789ab-11111111-22222222", "ba9876543210-11111111-22222222", "foreign-33333333-44444444")
    for name in (*names, "mine"):
        (store.teacher_logits_path / name).mkdir(parents=True)
        (store.teacher_logits_path / name / "epoch-001.npy").write_bytes(b"123")
        (store.teacher_logits_path / name / "epoch-002.lock").touch()
    found = store.cleanable(needed={}, teachers={"ba9876543210"})
    assert {each.path.name: each.bytes for each in found} == {names[0]: 3, names[2]: 3}
    assert free(found, store.root) == 6
    assert sorted(path.name for path in store.teacher_logits_path.iterdir()) == [names[1], "mine"]


def test_what_a_kill_left_beside_cached_logits_in_use_is_freed(store: Store) -> None:
    folder = store.teacher_logits_path / "0123456789ab-11111111-22222222"
    folder.mkdir(parents=True)
    (folder / "epoch-001.npy").write_bytes(b"123")
    _age(folder / ".epoch-003.npy.1.tmp")
    found = store.cleanable(needed={}, teachers={"0123456789ab"})
    assert [each.path.name for each in found] == [".epoch-003.npy.1.tmp"]
    free(found, store.root)
    assert [path.name for path in folder.iterdir()] == ["epoch-001.npy"]


def test_how_many_epochs_are_cached_is_known_by_teacher_and_weights(store: Store) -> None:
    for name, epochs in (("22222222", 2), ("33333333", 3)):
        folder = store.teacher_logits_path / f"0123456789ab-11111111-{name}"
        folder.mkdir(parents=True)
        for epoch in range(1, epochs + 1):
            (folder / f"epoch-{epoch:03d}.npy").write_bytes(b"123")
    assert store.cached_epochs() == {("0123456789ab", "11111111"): 3}


def test_where_the_results_lie_decides_nothing(tmp_path: Path, tiny_spec: RunSpec, play: Any) -> None:
    store = Store.open(tmp_path / "attempts" / "runs" / "res", create=True)
    play.train(store.root, tiny_spec)
    (store.teacher_logits_path / "0123456789ab-11111111-22222222").mkdir(parents=True)
    names = {each.path.name for each in store.cleanable(needed={})}
    assert names == {"epoch-001.pt", "0123456789ab-11111111-22222222"}


def test_a_link_in_the_cache_of_teacher_logits_is_not_followed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    store.teacher_logits_path.mkdir()
    (store.teacher_logits_path / "0123456789ab-11111111-22222222").symlink_to(tmp_path / "elsewhere")
    assert store.cleanable(needed={}) == []
