"""One run's folder: identity, states, metrics, weights, and what its damage is called."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfkd_cli.errors import RunError
from tfkd_cli.spec import Recipe, RunSpec
from tfkd_cli.store import Attempt, DamagedFile, RunFolder, Store, files, lease, publishing, run_state


@pytest.fixture
def run(store: Store, tiny_spec: RunSpec) -> RunFolder:
    """A declared run."""
    folder = store.run(tiny_spec)
    folder.declare(tiny_spec)
    return folder


@pytest.fixture
def finished(store: Store, tiny_spec: RunSpec, play: Any) -> RunFolder:
    """A finished run."""
    assert play.train(store.root, tiny_spec)
    return store.run(tiny_spec)


def save(attempt: Attempt, data: bytes, *, step: int) -> Path:
    return attempt.save_state(data, step=step, epoch=step)


def test_a_run_is_declared_once_and_known_by_its_spec(run: RunFolder, tiny_spec: RunSpec) -> None:
    before = (run.path / "spec.json").read_bytes()
    run.declare(tiny_spec)
    assert (run.path / "spec.json").read_bytes() == before
    assert run.spec() == tiny_spec
    assert json.loads(before)["key"] == tiny_spec.key


def damaged_spec(run: RunFolder, damage: str, spec: RunSpec) -> None:
    """spec.json is broken, missing, a link, or another run's."""
    path = run.path / "spec.json"
    whole = path.read_bytes()
    path.unlink()
    if damage == "broken":
        path.write_bytes(whole.replace(b'"resnet8"', b'"resnet9"'))
    elif damage == "another's":
        path.write_text(json.dumps(replace(spec, seed=1).to_json()))
    elif damage == "link":
        path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("damage", ["broken", "missing", "link", "another's"])
def test_a_damaged_description_is_written_again_by_the_command_that_asks_for_the_run(
    run: RunFolder, tiny_spec: RunSpec, damage: str
) -> None:
    damaged_spec(run, damage, tiny_spec)
    with pytest.raises(
        DamagedFile, match=r"(?s)spec\.json.*the command that asked for this run writes it again"
    ):
        run.spec()
    run.declare(tiny_spec)
    assert run.spec() == tiny_spec


@pytest.mark.parametrize("damage", ["broken", "missing", "link", "another's"])
def test_a_damaged_description_is_repaired_from_the_copy_of_an_attempt(
    finished: RunFolder, tiny_spec: RunSpec, damage: str
) -> None:
    sound = (finished.path / "spec.json").read_bytes()
    damaged_spec(finished, damage, tiny_spec)
    assert finished.spec() == tiny_spec
    assert (finished.path / "spec.json").read_bytes() == sound


@pytest.mark.parametrize("damage", ["text", "folder", "gone"])
def test_a_damaged_description_of_a_finished_run_is_written_again(
    finished: RunFolder, tiny_spec: RunSpec, damage: str
) -> None:
    shutil.rmtree(finished.path / "attempts" / "0001")
    path = finished.path / "spec.json"
    path.unlink() if damage != "text" else path.write_text("x")
    if damage == "folder":
        path.mkdir()
    with pytest.raises(DamagedFile):
        finished.spec()
    finished.mend(tiny_spec)
    assert finished.spec() == tiny_spec


def test_two_runs_whose_keys_begin_alike_are_not_mixed(run: RunFolder, tiny_spec: RunSpec) -> None:
    class Collided(RunSpec):
        key = tiny_spec.key[:12] + "0" * 52

    with pytest.raises(RunError, match="belongs to another run"):
        run.declare(Collided(dataset="digits", student="resnet8"))


def test_a_new_run_is_todo_then_running_then_resumable(run: RunFolder) -> None:
    assert run.state().status == "todo"
    attempt = run.start_attempt(owner={"slurm": "17_3"})
    attempt.heartbeat({"epoch": 1})
    state = run.state()
    assert (state.status, state.epoch, state.epochs, state.slurm) == ("running", 1, 2, "17_3")
    assert state.heartbeat_age is not None
    save(attempt, b"state", step=1)
    attempt.release()
    state = run.state()
    assert (state.status, state.epoch, state.attempts) == ("resumable", 1, 1)


def test_a_failed_run_says_why_until_a_new_attempt_begins(run: RunFolder) -> None:
    attempt = run.start_attempt(owner={})
    attempt.fail({"kind": "ValueError", "message": "no"})
    state = run.state()
    assert (state.status, state.failure) == ("failed", {"attempt": 1, "kind": "ValueError", "message": "no"})
    run.start_attempt(owner={}).release()
    assert run.state().status == "todo"
    assert run.failure() == state.failure


def test_an_owner_that_died_on_this_machine_is_known_to_be_dead(run: RunFolder, play: Any) -> None:
    play.Child(lambda: run.start_attempt(owner={})).wait()
    found = run.lease()
    assert found is not None
    assert found.age < lease.LIVE_SECONDS
    assert run.state().status == "todo"
    assert run.claim_attempt(owner={}) is not None


def test_an_owner_elsewhere_is_taken_for_dead_after_ten_minutes(run: RunFolder) -> None:
    run.start_attempt(owner={"host": "another", "pid": 1})
    assert run.state().status == "running"
    assert run.claim_attempt(owner={}) is None
    past = time.time() - lease.LIVE_SECONDS - 60
    os.utime(run.path / "attempts/0001/owner.json", (past, past))
    assert run.state().status == "todo"
    assert run.claim_attempt(owner={}) is not None


def test_an_overtaken_owner_is_told_and_does_not_take_the_lease_back(run: RunFolder) -> None:
    old = run.start_attempt(owner={})
    new = run.start_attempt(owner={"pid": 1})
    assert not old.heartbeat({"epoch": 9})
    old.release()
    assert new.heartbeat({"epoch": 1})
    found = run.lease()
    assert found is not None
    assert (found.pid, found.progress) == (1, {"epoch": 1})


@pytest.mark.parametrize("data", [b"", b"[]", b'{"host": 1}', b'{"host": "x", "pid": "y"}', b"\0" * 99])
def test_a_damaged_lease_is_none(run: RunFolder, data: bytes) -> None:
    (run.start_attempt(owner={}).path / "owner.json").write_bytes(data)
    assert run.lease() is None
    assert run.claim_attempt(owner={}) is not None


def test_numerics_are_those_of_the_attempt_that_saved_the_furthest_state(run: RunFolder) -> None:
    for threads, step in ((1, None), (2, 5), (3, 4), (4, None)):
        attempt = run.start_attempt(owner={})
        attempt.write_env({"numerics": {"threads": threads}})
        if step:
            save(attempt, b"state", step=step)
    assert run.numerics() == {"threads": 2}
    path = run.path / "attempts/0002/env.json"
    sound = path.read_bytes()
    for damage in (b"", b"[]", sound * 2, sound.replace(b"2", b"9"), sound.replace(b"2", b'"2"')):
        path.write_bytes(damage)
        assert run.numerics() == {"threads": 3}


def test_the_two_newest_states_of_an_attempt_are_kept(run: RunFolder) -> None:
    attempt = run.start_attempt(owner={})
    saved = [save(attempt, b"%d" % step, step=step) for step in range(5)]
    assert run.newest_states() == [saved[4], saved[3]]
    assert sorted(attempt.path.glob("*.pt")) == [saved[3], saved[4]]


def test_a_state_whose_digest_fails_is_passed_over(run: RunFolder) -> None:
    attempt = run.start_attempt(owner={})
    first, second = save(attempt, b"first", step=1), save(attempt, b"second", step=2)
    second.write_bytes(b"secomd")
    assert run.newest_states() == [first]
    second.with_suffix(".json").write_bytes(b"{")
    first.write_bytes(b"")
    assert run.newest_states() == []


def test_states_of_earlier_attempts_stay_until_a_later_one_has_two(run: RunFolder) -> None:
    first = run.start_attempt(owner={})
    old = save(first, b"old", step=1)
    second = run.start_attempt(owner={})
    new = save(second, b"new", step=2)
    assert run.newest_states() == [new, old]
    newer = save(second, b"newer", step=3)
    assert run.newest_states() == [newer, new]
    assert not old.exists()


def test_metrics_of_a_run_are_those_of_its_newest_attempt(run: RunFolder) -> None:
    first = run.start_attempt(owner={})
    for epoch in (1, 2, 3):
        first.append_metrics({"epoch": epoch, "attempt": 1})
    second = run.start_attempt(owner={})
    assert [line["epoch"] for line in run.metrics()] == [1, 2, 3]
    second.begin_metrics([{"epoch": 1, "attempt": 1}, {"epoch": 2, "attempt": 1}])
    second.append_metrics({"epoch": 3, "attempt": 2})
    assert [(line["epoch"], line["attempt"]) for line in run.metrics()] == [(1, 1), (2, 1), (3, 2)]
    assert len((first.path / "metrics.jsonl").read_bytes().splitlines()) == 3


def test_a_metrics_file_cut_off_is_read_up_to_there_and_said(run: RunFolder) -> None:
    attempt = run.start_attempt(owner={})
    attempt.append_metrics({"epoch": 1})
    attempt.append_metrics({"epoch": 2})
    path = attempt.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert run.metrics() == [{"epoch": 1}]
    assert "line 2 is cut off" in run.read_metrics(None).damage


def test_a_finished_run_gives_its_records_and_keeps_no_training_states(finished: RunFolder) -> None:
    state, result = finished.state(), finished.result()
    assert (state.status, state.missing) == ("done", ())
    assert result is not None
    assert result["attempt"] == 1
    assert [line["epoch"] for line in finished.metrics()] == [1, 2]
    assert finished.weights("best.pt").read_bytes().startswith(b"best.pt")
    assert state.can_teach("epoch-001")
    assert not state.can_teach("epoch-002")
    assert not list((finished.path / "attempts").rglob("*.pt"))
    assert finished.lease() is None


def test_absent_weights_make_a_run_that_is_done_but_cannot_teach(finished: RunFolder) -> None:
    (finished.path / "weights/best.pt").unlink()
    state = finished.state()
    assert (state.status, state.missing) == ("done", ("best.pt",))
    assert state.can_teach(1)
    assert not state.can_teach("best")
    with pytest.raises(RunError, match=r"best\.pt are gone"):
        finished.weights("best.pt")


def test_weights_trained_again_return_and_the_result_stays(
    finished: RunFolder, store: Store, tiny_spec: RunSpec, play: Any
) -> None:
    path = finished.path / "weights/best.pt"
    result, before = (finished.path / "result.json").read_bytes(), path.read_bytes()
    path.unlink()
    assert play.train(store.root, tiny_spec)
    assert path.read_bytes() == before
    for flavour in ("other numerics", "yet others"):
        path.unlink()
        assert play.train(store.root, tiny_spec, flavour=flavour)
        assert flavour.encode() in finished.weights("best.pt").read_bytes()
    assert (finished.path / "result.json").read_bytes() == result
    assert play.outcome(store.root, tiny_spec)


@pytest.mark.parametrize("damage", ["flipped", "cut", "link", "pipe", "another's"])
def test_a_damaged_note_on_weights_trained_again_vouches_for_nothing_and_stops_nothing(
    finished: RunFolder, store: Store, tiny_spec: RunSpec, play: Any, damage: str
) -> None:
    weights, note = finished.path / "weights/best.pt", finished.path / "attempts/retrained-1.json"
    weights.unlink()
    assert play.train(store.root, tiny_spec, flavour="other numerics")
    sound = note.read_bytes()
    note.unlink()
    damaged: dict[str, Callable[[], object]] = {
        "flipped": lambda: note.write_bytes(sound.replace(b'"attempt": 2', b'"attempt": 3')),
        "cut": lambda: note.write_bytes(sound[:20]),
        "link": lambda: note.symlink_to("/etc/passwd"),
        "pipe": lambda: os.mkfifo(note),
        "another's": lambda: note.write_bytes(run_state.sealed({**json.loads(sound), "key": "0" * 64})),
    }
    damaged[damage]()
    finished.declare(tiny_spec)
    assert finished.state().status == "done"
    with pytest.raises(DamagedFile, match=r"best\.pt.*(?s:.*)has it trained again"):
        finished.weights("best.pt")
    weights.unlink()
    assert play.train(store.root, tiny_spec, flavour="yet others")
    assert b"yet others" in finished.weights("best.pt").read_bytes()


def test_weights_with_other_bytes_are_damage_when_loaded(finished: RunFolder) -> None:
    path = finished.path / "weights/best.pt"
    path.write_bytes(path.read_bytes() + b"!")
    assert finished.state().status == "done"
    with pytest.raises(DamagedFile, match=r"best\.pt: does not hold the weights its result vouches for"):
        finished.weights("best.pt")


@pytest.mark.parametrize("name", ["../result.json", "/etc/passwd", "best.pt\0", "best", ""])
def test_weights_of_other_names_are_not_looked_for(finished: RunFolder, name: str) -> None:
    with pytest.raises(RunError, match="keeps no weights"):
        finished.weights(name)


def test_weights_behind_a_link_are_refused(finished: RunFolder, tmp_path: Path) -> None:
    path = finished.path / "weights/best.pt"
    path.rename(tmp_path / "elsewhere.pt")
    path.symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(DamagedFile, match="is a link"):
        finished.weights("best.pt")


DAMAGED = [b"", b"{}", b"[" * 99999, b"\xff\0"]


@pytest.mark.parametrize("data", DAMAGED)
def test_a_result_that_is_not_valid_is_repaired_from_the_copy_of_its_attempt(
    finished: RunFolder, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = finished.path / "result.json"
    before = path.read_bytes()
    path.write_bytes(data)
    assert finished.state().status == "done"
    assert path.read_bytes() == before
    assert f"{path} was damaged" in caplog.text


@pytest.mark.parametrize("data", DAMAGED)
def test_a_result_without_a_sound_copy_is_damage_and_is_made_again_when_both_come_back(
    finished: RunFolder, store: Store, tiny_spec: RunSpec, play: Any, data: bytes
) -> None:
    path, copy = finished.path / "result.json", finished.path / "attempts" / "winner.json"
    before = path.read_bytes()
    path.write_bytes(data)
    copy.write_bytes(data)
    state = finished.state()
    assert state.status == "damaged"
    assert state.key == tiny_spec.key
    assert f"mv '{finished.path}'" in state.damage
    with pytest.raises(DamagedFile):
        finished.result()
    path.rename(path.with_suffix(".bad"))
    copy.write_bytes(before)
    finished.declare(tiny_spec)
    assert path.read_bytes() == before
    play.outcome(store.root, tiny_spec)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
def test_no_flipped_bit_of_a_result_changes_what_is_read(finished: RunFolder, data: st.DataObject) -> None:
    """With the attempt's copy the result is repaired; in a pack, which has none, it is refused."""
    path = finished.path / "result.json"
    sound, result = path.read_bytes(), finished.result()
    bit = data.draw(st.integers(0, 8 * len(sound) - 1))
    flipped = bytearray(sound)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedFile):
        publishing.parse_result(bytes(flipped), path, key=finished.short_key)
    path.write_bytes(flipped)
    assert finished.result() == result
    assert path.read_bytes() == sound


def test_a_damaged_result_is_read_from_its_copy_where_it_cannot_be_repaired(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, result = finished.path / "result.json", finished.result()
    path.write_bytes(b"{}")

    def refuse(path: Path, data: bytes) -> None:
        raise RunError(f"cannot write {path}.")

    monkeypatch.setattr(files, "write_atomic", refuse)
    assert finished.result() == result
    assert path.read_bytes() == b"{}"


CHANGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "other": lambda path: path.write_bytes(path.read_bytes()[:-3] + b"!!!"),
    "missing": lambda path: None,
    "a folder": Path.mkdir,
    "a link": lambda path: path.symlink_to("/etc/passwd"),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        pair
        for pair in itertools.product(("metrics.jsonl", "result.json"), CHANGES)
        if pair != ("result.json", "missing")
    ],
)
def test_records_that_are_not_what_was_published_are_repaired_or_damage(
    finished: RunFolder, name: str, change: str
) -> None:
    attempts = finished.path / "attempts"
    path = finished.path / name
    copy = attempts / "0001" / name if name == "metrics.jsonl" else attempts / "winner.json"
    sound = path.read_bytes()

    def alter() -> None:
        if change not in ("truncated", "other"):
            path.unlink()
        CHANGES[change](path)

    alter()
    assert finished.state().status == "done"
    assert path.read_bytes() == sound
    alter()
    copy.unlink()
    assert finished.state().status == "damaged"
    with pytest.raises(DamagedFile, match=re.escape(str(path))) as damage:
        finished.result()
    assert f"mv '{finished.path}'" in damage.value.hint


def test_damaged_metrics_are_read_from_their_copy_where_they_cannot_be_repaired(
    finished: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise RunError("read-only")

    lines, path = finished.metrics(), finished.path / "metrics.jsonl"
    monkeypatch.setattr(files, "write_atomic", refuse)
    path.write_bytes(path.read_bytes().replace(b"50.0", b"99.0").replace(b"epoch", b"Epoch"))
    assert finished.metrics() == lines


@pytest.mark.parametrize("name", ["attempts", "weights"])
def test_folders_that_lead_out_of_the_store_are_refused(
    run: RunFolder, tiny_spec: RunSpec, play: Any, store: Store, tmp_path: Path, name: str
) -> None:
    (tmp_path / "outside").mkdir()
    (run.path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(DamagedFile, match="is a link"):
        play.train(store.root, tiny_spec)
    assert not list((tmp_path / "outside").iterdir())


def test_publishing_refuses_a_result_that_no_reader_would_accept(run: RunFolder, tiny_spec: RunSpec) -> None:
    attempt = run.start_attempt(owner={})
    with pytest.raises(DamagedFile, match="best is missing"):
        attempt.publish(metrics=[], weights={}, result={"key": tiny_spec.key, "epochs": 2})
    assert run.result() is None


def test_two_recipes_have_two_folders(store: Store, tiny_spec: RunSpec) -> None:
    longer = replace(tiny_spec, recipe=Recipe().with_epochs(3))
    assert store.run(tiny_spec).name != store.run(longer).name
