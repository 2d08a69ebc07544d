"""A results folder, or a file made by `tfkd pack`, as pandas frames.

    from tfkd_cli import results
    runs, epochs = results.load("results/")

`runs` has a row for each run in the folder, `epochs` a row for each epoch of the finished ones. Reports,
tables, figures and `tfkd compare` are made from these frames. The columns are explained in `columns.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli.results import columns
from tfkd_cli.results.frames import confusion_matrix, epochs_frame, records, runs_frame
from tfkd_cli.results.reading import Run, read, read_run
from tfkd_cli.store import Store

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Run",
    "columns",
    "confusion_matrix",
    "epochs_frame",
    "load",
    "read",
    "read_run",
    "records",
    "runs_frame",
]


def load(path: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames (runs, epochs) of a results folder or of a file made by `tfkd pack`.

    Every record is checked against its digest; a run whose records are damaged has the status "damaged",
    the reason in the column `problem`, no accuracy and no epochs. RequestError where `path` is neither a
    folder nor a pack, or is not there.
    """
    found = read(Store.existing(Path(path))).values()
    return runs_frame(found), epochs_frame(found)
