"""Names and sizes in the cache of teacher logits: `<teacher>-<weights>-<context>/epoch-NNN.npy`.

Everything in it may be deleted at any moment, also while these functions read it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

TEACHER_LOGITS = "teacher-logits"
FOLDER = re.compile(r"(?P<teacher>[0-9a-f]{12}|foreign)-(?P<weights>[0-9a-f]{8})-[0-9a-f]{8}")


def folders(teacher_logits: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """The folders of the cache, with the parts of their names; links in it and anything else are skipped."""
    try:
        found = sorted(teacher_logits.iterdir())
    except OSError:
        return
    for path in found:
        match = FOLDER.fullmatch(path.name)
        if match and path.is_dir() and not path.is_symlink():
            yield path, match


def cached_epochs(teacher_logits: Path) -> dict[tuple[str, str], int]:
    """(Teacher's cache prefix, 8 digits of its weights' digest) → epochs in the fullest folder of these."""
    found: dict[tuple[str, str], int] = {}
    for path, match in folders(teacher_logits):
        key = match["teacher"], match["weights"]
        with contextlib.suppress(OSError):
            found[key] = max(len(list(path.glob("epoch-*.npy"))), found.get(key, 0))
    return found


def bytes_below(path: Path) -> int:
    """The size of all files below `path`; files that vanish meanwhile count as nothing."""
    total = 0
    for parent, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(parent, name).lstat().st_size
    return total
