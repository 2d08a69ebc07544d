"""`answers/`, as far as its names and sizes go: `<teacher>-<weights>-<context>/epoch-NNN.npy`.

Everything there may be deleted at any moment, also while it is looked at.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

TEACHER_LOGITS = "teacher-logits"
BLOCKS = ".blocks"  # ends the name of an epoch in progress
NAME = re.compile(r"(?P<teacher>[0-9a-f]{12}|foreign)-(?P<weights>[0-9a-f]{8})-[0-9a-f]{8}")
_EPOCH = re.compile(r"epoch-\d{3,}\.npy")


def name_of(mark: str, *, weights_digest: str, context: str) -> str:
    """The folder of a teacher's answers; `mark`: of its run, `context`: 8 digits that stand for the views."""
    return f"{mark}-{weights_digest[:8]}-{context}"


def folders(teacher_logits: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """The folders of answers, with their names' parts; links and whatever else lies there are left alone."""
    try:
        found = sorted(teacher_logits.iterdir())
    except OSError:
        return
    for path in found:
        match = NAME.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink():
            yield path, match


def epochs_kept(teacher_logits: Path) -> dict[tuple[str, str], int]:
    """(Teacher's mark, 8 digits of its weights) → how many epochs are kept, of the context that has most."""
    found: dict[tuple[str, str], int] = {}
    for path, match in folders(teacher_logits):
        key = (match["teacher"], match["weights"])
        with contextlib.suppress(OSError):
            number = sum(_EPOCH.fullmatch(each.name) is not None for each in path.iterdir())
            found[key] = max(number, found.get(key, 0))
    return found


def bytes_below(path: Path) -> int:
    """What all files below `path` take; those that vanish meanwhile take nothing."""
    total = 0
    for parent, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).lstat().st_size
    return total
