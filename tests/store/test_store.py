"""The results folder as a whole."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tfkd_cli.errors import RequestError
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store


def test_a_store_that_is_not_there_is_empty_and_not_made_by_looking(
    tmp_path: Path, tiny_spec: RunSpec
) -> None:
    store = Store.open(tmp_path / "results", create=False)
    assert store.scan() == {}
    assert store.requests() == []
    assert store.scan([tiny_spec.key])[tiny_spec.key].status == "todo"
    assert not store.root.exists()


@pytest.mark.parametrize("root", ["/proc/results", "/dev/null", "/dev/null/results", "a\0b"])
def test_a_folder_that_cannot_be_one_is_a_wrong_request(root: str) -> None:
    with pytest.raises(RequestError, match=r"[\s\S]*(--results|NUL)"):
        Store.open(Path(root), create=True)


@pytest.mark.skipif(os.getuid() != 0, reason="needs a user to become")
def test_a_folder_that_may_only_be_read_can_be_read(store: Store, tiny_spec: RunSpec, play: Any) -> None:
    play.train(store.root, tiny_spec)
    for folder in (store.root, *store.root.parents):
        if folder.stat().st_uid == 0 and folder != Path("/") and not folder.stat().st_mode & 0o5:
            folder.chmod(0o755)

    def work() -> bool:
        os.setuid(65534)
        with pytest.raises(RequestError, match="cannot write the results folder"):
            Store.open(store.root, create=True)
        reader = Store.open(store.root, create=False, writable=False)
        return reader.scan()[tiny_spec.key].status == "done" and bool(reader.run(tiny_spec).result())

    assert play.Child(work).wait() == 0


def test_a_scan_tells_all_runs_or_those_asked_for(store: Store, tiny_spec: RunSpec, play: Any) -> None:
    play.train(store.root, tiny_spec)
    other = replace(tiny_spec, seed=1)
    store.run(other).declare(other)
    unknown = replace(tiny_spec, seed=2)
    found = store.scan([tiny_spec.key, unknown.key])
    assert {key: state.status for key, state in found.items()} == {
        tiny_spec.key: "done",
        unknown.key: "todo",
    }
    assert {key: state.status for key, state in store.scan().items()} == {
        tiny_spec.key: "done",
        other.key: "todo",
    }


def test_what_is_no_run_is_left_alone(store: Store, tiny_spec: RunSpec, tmp_path: Path) -> None:
    store.run(tiny_spec).declare(tiny_spec)
    runs = store.runs_path
    (runs / "notes.txt").write_text("mine")
    (runs / "folder").mkdir()
    (runs / f"link-{'0' * 12}").symlink_to(tmp_path)
    assert [run.name for run in store.runs()] == [tiny_spec.folder]
    assert list(store.scan()) == [tiny_spec.key]
    with pytest.raises(RequestError, match="is a link"):
        store.folder(f"link-{'0' * 12}")


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"key": "x"}', b"[" * 9999])
def test_one_damaged_run_does_not_hide_the_others(
    store: Store, tiny_spec: RunSpec, play: Any, damage: bytes
) -> None:
    play.train(store.root, tiny_spec)
    other = replace(tiny_spec, seed=1)
    store.run(other).declare(other)
    (store.run(other).path / "spec.json").write_bytes(damage)
    states = store.scan()
    assert states[tiny_spec.key].status == "done"
    assert states[other.key[:12]].status == "damaged"
    assert "spec.json" in states[other.key[:12]].damage


def test_a_run_is_found_by_the_beginning_of_its_key_or_name(store: Store, tiny_spec: RunSpec) -> None:
    other = replace(tiny_spec, seed=1)
    for spec in (tiny_spec, other):
        store.run(spec).declare(spec)
    for text in (tiny_spec.key, tiny_spec.key[:6], tiny_spec.folder, tiny_spec.folder.upper()):
        assert store.find(text).name == tiny_spec.folder
    with pytest.raises(RequestError, match="means 2 runs"):
        store.find("digits-resnet8")
    with pytest.raises(RequestError, match="no run"):
        store.find("cifar100")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text())
@example("../../etc")
@example("/etc/passwd")
@example("a\0b")
@example("x" * 99999)
@example("../runs/x-0123456789ab")
def test_any_text_is_a_run_or_a_wrong_request(store: Store, text: str) -> None:
    with pytest.raises(RequestError):
        store.find(text)
    with pytest.raises(RequestError):
        store.folder(text)


def test_a_request_is_kept_once_and_the_newest_wish_is_last(store: Store) -> None:
    first, second = store.add_request({"names": ["demo"]}), store.add_request({"names": ["table1"]})
    past = time.time() - 100
    os.utime(store.root / f"requests/{second}.json", (past, past))
    assert store.add_request({"names": ["demo"]}) == first
    assert [request["id"] for request in store.requests()] == [second, first]
    (store.root / "requests" / f"{second}.json").write_bytes(b"{")
    assert [request["names"] for request in store.requests()] == [["demo"]]


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "a\0b", "x" * 300, ".hidden"])
def test_a_submission_lies_among_the_submissions(store: Store, name: str) -> None:
    with pytest.raises(RequestError, match="no submission's id"):
        store.submission_path(name)


def test_a_clear_message_when_a_file_stands_where_a_folder_must_be(store: Store) -> None:
    store.runs_path.write_text("")
    with pytest.raises(Exception, match=r"runs"):
        store.scan()
