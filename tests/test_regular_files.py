"""One guarded open: regular files only, no links where none are expected, and never a wait for a pipe."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli import locks
from tfkd_cli.errors import RequestError, RunError, plain
from tfkd_cli.regular_files import expanded, link_on_the_way, open_regular, open_to_append
from tfkd_cli.store import files


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


NOT_REGULAR: dict[str, Any] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "socket": _socket,
    "link in a circle": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("kind", NOT_REGULAR)
def test_what_is_no_regular_file_is_refused_at_once(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 108 characters
    path = Path("x")
    NOT_REGULAR[kind](path)
    for open_it in (open_regular, open_to_append):
        with pytest.raises(OSError, match="it is a"):
            open_it(path)


def test_a_pipe_that_somebody_reads_is_not_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    reader = os.open(tmp_path / "x", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError, match="a pipe"):
            open_to_append(tmp_path / "x")
    finally:
        os.close(reader)


def test_a_link_is_followed_only_where_that_is_meant(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_text("text")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "x").symlink_to(tmp_path / "real" / "x")
    with open_regular(tmp_path / "x") as stream:
        assert stream.read() == b"text"
    for path in ("x", "linked/x"):
        with pytest.raises(OSError, match="it is a link"):
            open_regular(tmp_path / path, below=tmp_path)
    assert link_on_the_way(tmp_path / "linked" / "x", below=tmp_path) == tmp_path / "linked"
    with open_regular(tmp_path / "linked" / "x", below=tmp_path / "linked") as stream:
        assert stream.read() == b"text"  # the folder itself may be a link: `--results` may be one


def test_nothing_is_added_to_the_file_that_a_planted_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="it is a link"):
        files.append(tmp_path / "metrics.jsonl", b"{}\n")
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_pipe_in_the_place_of_a_lock_is_no_lock_and_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    with locks.held(tmp_path / "lock", while_waiting=lambda: None) as locked:
        assert not locked


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    with pytest.raises(OSError, match="5 bytes of at most 4"):
        open_regular(tmp_path / "x", limit=4)


def test_a_home_folder_that_nobody_has_is_a_clear_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="no home folder to put for ~nosuchuser in ~nosuchuser/x"):
        expanded(Path("~nosuchuser/x"), hint="--cache-dir DIR")
    assert expanded(Path("x/~y"), hint="") == Path("x/~y")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", r"a\x1b[31mb"),
        ("photo\u202egnp.exe", r"photo\u202egnp.exe"),
        ("\u2066x\u2069", r"\u2066x\u2069"),
        ("a\rb\x07\x00\x9b", r"a\rb\x07\x00\x9b"),
        ("byte \udcff", r"byte \udcff"),
        ("猫 ± × α\n\tfine", "猫 ± × α\n\tfine"),
    ],
)
def test_what_a_terminal_obeys_or_hides_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert plain(text) == shown
