"""Faults put into every process of a drill from outside: this folder stands in its PYTHONPATH.

DRILL_KILL_COMMAND=N  every process dies at its N-th write
DRILL_KILL_WORKERS=N  workers, and not the command itself, do
DRILL_NO_LINKS=1      a file system without hard links
DRILL_PRELOAD=NAME    workers are forked with a module here loaded, instead of torch
"""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
from typing import Any

FORKSERVER = any("multiprocessing.forkserver" in each for each in sys.orig_argv)

if point := os.environ.get("DRILL_KILL_COMMAND") or (FORKSERVER and os.environ.get("DRILL_KILL_WORKERS")):
    from tfkd_cli.store import files

    _points = itertools.count(1)

    def _die(name: str) -> None:
        if next(_points) == int(point or 0):
            os.kill(os.getpid(), signal.SIGKILL)

    files.at_write_point = _die

if FORKSERVER and "DRILL_PRELOAD" in os.environ:
    sys.modules["tfkd_cli.training.preload"] = importlib.import_module(os.environ["DRILL_PRELOAD"])

if "DRILL_NO_LINKS" in os.environ:

    def _no_links(source: Any, target: Any, **_: Any) -> None:
        raise PermissionError(1, "Operation not permitted", str(target))

    os.link = _no_links  # type: ignore[assignment]
