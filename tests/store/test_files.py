"""Durable writes: whole, once, and clear about why they failed."""

from __future__ import annotations

import errno
import math
import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store, files
from tfkd_cli.store.reading import parse_json


def test_the_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def fsync(handle: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(files, "at_write_point", lambda name: seen.append(name))
    files.write_atomic(tmp_path / "x", b"1")
    files.create_once(tmp_path / "y", b"2")
    one = ["open x", "written x", "file", "replace x", "replaced x", "folder"]
    assert seen == [*one, "open y", "written y", "file", "link y", "linked y", "folder"]


def test_a_link_that_the_server_made_but_reported_as_failed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def lossy(source: Any, target: Any, **more: Any) -> None:
        link(source, target, **more)
        raise FileExistsError(errno.EEXIST, "retransmitted")

    monkeypatch.setattr(os, "link", lossy)
    assert files.create_once(tmp_path / "x", b"mine")
    assert (tmp_path / "x").read_bytes() == b"mine"


def test_a_rename_that_the_server_did_but_reported_as_failed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = Path.replace

    def lossy(self: Path, target: Any) -> Path:
        replace(self, target)
        raise FileNotFoundError(errno.ENOENT, "retransmitted")

    monkeypatch.setattr(Path, "replace", lossy)
    files.write_atomic(tmp_path / "x", b"mine")
    assert (tmp_path / "x").read_bytes() == b"mine"


def test_a_file_system_without_hard_links_is_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **more: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(RunError, match=r"cannot write[\s\S]*no hard links[\s\S]*--results"):
        files.create_once(tmp_path / "x", b"first")
    assert not list(tmp_path.iterdir())


def test_a_limit_on_file_size_is_named(tmp_path: Path, play: Any) -> None:
    def work() -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        with pytest.raises(RunError, match=r"cannot write .*x\.pt: File too large[\s\S]*ulimit"):
            files.write_atomic(tmp_path / "x.pt", b"0" * 4_000_000)
        files.append(tmp_path / "lines", b"a" * 4000)
        with pytest.raises(RunError, match="File too large"):
            files.append(tmp_path / "lines", b"b" * 200)  # a line that is cut off
        return True

    assert play.Child(work).wait() == 0
    assert [each.name for each in tmp_path.iterdir()] == ["lines"]
    assert (tmp_path / "lines").read_bytes().startswith(b"a" * 4000)


@pytest.mark.skipif(os.getuid() != 0, reason="needs a user to become")
def test_a_folder_of_somebody_else_is_named_as_such(tmp_path: Path, play: Any) -> None:
    def work() -> bool:
        os.setuid(65534)
        with pytest.raises(RunError, match=r"Permission denied[\s\S]*--results"):
            files.write_atomic(tmp_path / "x", b"")
        with pytest.raises(RunError, match="Permission denied"):
            files.make_folder(tmp_path / "y")
        return True

    assert play.Child(work).wait() == 0


def test_numbers_that_are_not_finite_become_null() -> None:
    value = {"a": math.nan, "b": [math.inf, 1.5], "c": (1,)}
    assert files.encode_json(value, indent=None) == b'{"a": null, "b": [null, 1.5], "c": [1]}\n'


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_what_is_written_is_what_is_read(value: Any) -> None:
    assert parse_json(files.encode_json(value), path=Path("x")) == value


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not _mount(folder, "size=256k"):
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def _mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_a_run_on_a_disk_that_was_full_goes_on_when_there_is_room(
    small_disk: Path, tiny_spec: RunSpec, play: Any
) -> None:
    hog = small_disk / "hog"
    run = Store(small_disk / "results").run(tiny_spec)
    run.declare(tiny_spec)
    attempt = run.start_attempt(owner={})
    kept = attempt.save_state(b"1" * 5000, step=1, epoch=0)
    hog.write_bytes(b"0" * (small_disk_room(small_disk) - 8192))
    with pytest.raises(RunError, match=r"No space left on device[\s\S]*tfkd clean"):
        attempt.save_state(b"2" * 50_000, step=2, epoch=0)
    assert run.newest_states() == [kept]
    attempt.fail({"message": "full"})
    hog.unlink()
    kept.with_suffix(".json").unlink()
    assert play.train(small_disk / "results", tiny_spec)
    play.outcome(small_disk / "results", tiny_spec)


def small_disk_room(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_bsize


def test_a_file_system_that_is_read_only_is_named_as_such(small_disk: Path) -> None:
    assert _mount(small_disk, "remount,ro")
    with pytest.raises(RequestError, match="Read-only file system"):
        Store.open(small_disk, create=True)
    with pytest.raises(RunError, match="Read-only file system"):
        files.write_atomic(small_disk / "x", b"")
