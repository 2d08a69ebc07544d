"""Faults put into every process of a drill from outside: this folder stands in its PYTHONPATH.

DRILL_KILL_WORKERS=N  workers, and not the command itself, die at their N-th write
DRILL_NO_LINKS=1      a file system without hard links
DRILL_NURSERY=NAME    a module here instead of the nursery
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

if "tfkd_cli.backends.nursery" in sys.orig_argv and "DRILL_KILL_WORKERS" in os.environ:
    os.environ["TFKD_KILL_AT_WRITE"] = os.environ["DRILL_KILL_WORKERS"]

if "DRILL_NURSERY" in os.environ:

    class _Swapping(subprocess.Popen[Any]):
        def __init__(self, arguments: Any, *rest: Any, **more: Any) -> None:
            name = os.environ["DRILL_NURSERY"]
            swapped = [name if each == "tfkd_cli.backends.nursery" else each for each in arguments]
            super().__init__(swapped, *rest, **more)

    subprocess.Popen = _Swapping  # type: ignore[misc, assignment]

if "DRILL_NO_LINKS" in os.environ:

    def _no_links(source: Any, target: Any, **_: Any) -> None:
        raise PermissionError(1, "Operation not permitted", str(target))

    os.link = _no_links  # type: ignore[assignment]
