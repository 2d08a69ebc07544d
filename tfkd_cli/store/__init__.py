"""The results folder: files, leases, attempts, publishing, scan. Bytes and JSON only, no torch."""

from __future__ import annotations

from tfkd_cli.store.attempts import Attempt
from tfkd_cli.store.cleaning import Cleanable, free
from tfkd_cli.store.reading import DamagedFile
from tfkd_cli.store.run_folder import RunFolder
from tfkd_cli.store.run_state import RunState
from tfkd_cli.store.store import Store

__all__ = ["Attempt", "Cleanable", "DamagedFile", "RunFolder", "RunState", "Store", "free"]
