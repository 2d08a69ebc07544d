"""Faults put into every process of a drill from outside: this folder stands in its PYTHONPATH.

DRILL_KILL_WORKERS=N  workers, and not the command itself, die at their N-th write
DRILL_NO_LINKS=1      a file system without hard links
DRILL_PRELOAD=NAME    workers are forked with a module here loaded, instead of torch
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

FORKSERVER = any("multiprocessing.forkserver" in each for each in sys.orig_argv)

if FORKSERVER and "DRILL_KILL_WORKERS" in os.environ:
    os.environ["TFKD_KILL_AT_WRITE"] = os.environ["DRILL_KILL_WORKERS"]

if FORKSERVER and "DRILL_PRELOAD" in os.environ:
    sys.modules["tfkd_cli.training.preload"] = importlib.import_module(os.environ["DRILL_PRELOAD"])

if "DRILL_NO_LINKS" in os.environ:

    def _no_links(source: Any, target: Any, **_: Any) -> None:
        raise PermissionError(1, "Operation not permitted", str(target))

    os.link = _no_links  # type: ignore[assignment]
