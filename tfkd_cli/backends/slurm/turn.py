"""One submission at a time for a store: two terminals that ask for the same submit it once."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from tfkd_cli.errors import RunError
from tfkd_cli.store import files, lease

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 900.0  # a submission takes seconds; with a slurmctld that is down, minutes


@contextlib.contextmanager
def my_turn(submissions: Path, *, tell: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Hold the store's submission lease; gives a function that proves, now and then, that we still do.

    The lease of a process that is gone is broken: at once on this machine, after ten minutes on another.
    """
    files.make_folder(submissions)
    owner = lease.new_owner({})
    path = submissions / lease.LEASE
    content = lease.encode(owner, attempt=0, progress={})
    _wait(path, content, tell=tell)
    try:
        yield lambda: _still_mine(path, owner["uuid"])
    finally:
        if _holder(path) == owner["uuid"]:
            path.unlink(missing_ok=True)


def _wait(path: Path, content: bytes, *, tell: Callable[[str], None]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    told = False
    while not files.create_once(path, content):
        held = lease.read(path, clock=lease.Clock(path.parent))
        if held is None or not held.live:
            if path.exists():
                _break(path, held.owner if held else None)
            continue
        if not told:
            tell(
                f"another tfkd (process {held.pid} on {held.host.split()[0]}) is submitting; waiting for it."
            )
            told = True
        if time.monotonic() > deadline:
            raise RunError(
                f"another tfkd has been submitting for {PATIENCE_SECONDS / 60:.0f} minutes.",
                hint=f"if it is gone, delete {path} and give the same command again.",
            )
        time.sleep(POLL_SECONDS)


def _break(path: Path, owner: str | None) -> None:
    """Move a dead lease away. Should a live one have taken its place meanwhile, put that back."""
    moved = path.with_name(f"{path.name}.stale.{uuid.uuid4().hex[:12]}")
    try:
        path.rename(moved)
    except FileNotFoundError:
        return
    if _holder(moved) != owner:
        with contextlib.suppress(FileExistsError):
            os.link(moved, path)
    moved.unlink(missing_ok=True)


def _still_mine(path: Path, owner: str) -> None:
    deadline = time.monotonic() + 1.0  # somebody may have moved it by mistake, and puts it back
    while _holder(path) != owner and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 4)
    if _holder(path) != owner:
        raise RunError(
            "another tfkd took over this submission.",
            hint="`tfkd status` shows what was submitted; nothing was lost.",
        )
    with contextlib.suppress(OSError):
        os.utime(path)  # the heartbeat


def _holder(path: Path) -> str | None:
    try:
        data = files.read_json(path)
    except RunError:
        return None
    return data.get("uuid") if isinstance(data, dict) else None
