"""The epochs of a run as a report needs them, and a cache of them.

Parsing 200,000 lines takes seconds, so what came out is kept beside the report, by the digest of the
file it came from. The cache only saves time: it may be deleted, and is rebuilt when it cannot be read.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfkd_cli.report.columns import EPOCH, names

VERSION = 2
COLUMNS = names(EPOCH)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
STEPS = len(ALPHABET) ** 2 - 1  # 0 to 100 % in steps of 0.024 points: finer than a pixel
PAIRS = [high + low for high in ALPHABET for low in ALPHABET]
NOTHING = ".."
NUMBERS = {int, float, type(None)}


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """All epochs of one run: lines of epochs.csv without the run's identity, and what the page draws."""

    text: str
    best_epoch: int
    best_accuracy: float
    last_accuracy: float
    seconds: float
    test: str  # packed accuracies, two characters an epoch
    train: str

    def by_epoch(self, name: str) -> dict[int, float]:
        """Epoch → one column's value; missing ones are left out."""
        index = COLUMNS.index(name)
        cells = (line.split(",") for line in self.text.splitlines())
        return {int(cell[0]): float(cell[index]) for cell in cells if cell[0] and cell[index]}


def from_lines(lines: Sequence[Mapping[str, Any]]) -> Epochs | None:
    """The epochs in the lines of a metrics file; None where there is none with an accuracy."""
    rows = _rows(lines)
    columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)) if rows else {}
    test = columns.get("test_accuracy", ())
    chosen_on = [line.get("val_accuracy", line.get("test_accuracy")) for line in lines]
    known = [
        (by, -number, accuracy)
        for by, accuracy, number in zip(chosen_on, test, columns.get("epoch", ()), strict=True)
        if type(by) in (int, float) and accuracy is not None and isinstance(number, int)
    ]
    if not known or test[-1] is None:
        return None
    _, minus_epoch, best_accuracy = max(known)  # on the validation part if any; the earliest on ties
    return Epochs(
        text=_csv(rows),
        best_epoch=-minus_epoch,
        best_accuracy=best_accuracy,
        last_accuracy=test[-1],
        seconds=sum(filter(None, columns["seconds"])),
        test=pack(test),
        train=pack(columns["train_accuracy"]),
    )


_values = operator.itemgetter(*COLUMNS)


def _rows(lines: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    """The columns of each line; what is no number is None."""
    try:
        rows = list(map(_values, lines))
    except KeyError:
        rows = [tuple(line.get(name) for name in COLUMNS) for line in lines]
    if not set(map(type, itertools.chain.from_iterable(rows))) <= NUMBERS:
        rows = [tuple(value if type(value) in NUMBERS else None for value in row) for row in rows]
    return rows


def _csv(rows: Sequence[Sequence[int | float | None]]) -> str:
    """Lines of CSV, all digits kept; by way of JSON, which writes numbers ten times as fast."""
    return json.dumps(rows, separators=(",", ":"))[2:-2].replace("],[", "\n").replace("null", "") + "\n"


def pack(percents: Sequence[float | None]) -> str:
    """Accuracies as text, two characters each: what the page draws a curve from."""
    return "".join(
        [
            NOTHING if percent is None else PAIRS[round(min(100.0, max(0.0, percent)) * STEPS / 100)]
            for percent in percents
        ]
    )


@dataclass
class Kept:
    """What was parsed before, by the sha256 of the metrics file."""

    found: dict[str, Epochs] = field(default_factory=dict)  # by an earlier report
    ahead: dict[str, Epochs] = field(default_factory=dict)  # parsed by other processes
    used: dict[str, Epochs] = field(default_factory=dict)
    file: Path | None = None  # of the earlier report, where every line of it is sound

    def get(self, digest: str) -> Epochs | None:
        """The epochs of the file with this digest, if they are known."""
        known = self.found.get(digest) or self.ahead.get(digest)
        if known is not None:
            self.used[digest] = known
        return self.used.get(digest)

    def add(self, digest: str, epochs: Epochs) -> None:
        """Keep these for the next report."""
        self.used[digest] = epochs

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.used.keys() != self.found.keys()


def read_kept(path: Path) -> Kept:
    """What an earlier report kept; nothing where it cannot be read."""
    found: dict[str, Epochs] = {}
    try:
        with path.open(encoding="ascii") as stream:
            if json.loads(stream.readline()) != _header():
                return Kept()
            for line in stream:
                digest, check, record = json.loads(line)
                if check != _check(record["text"]) or not line.endswith("\n"):
                    raise ValueError(digest)
                found[digest] = Epochs(**record)
    except (OSError, ValueError, TypeError, KeyError):
        return Kept(found)
    return Kept(found, file=path)


def write_kept(path: Path, kept: Kept) -> None:
    """Write what this report used; what the earlier one kept is copied where all of it is still used."""
    copied: Mapping[str, Epochs] = {}
    if kept.file is not None and kept.used.keys() >= kept.found.keys():
        shutil.copyfile(kept.file, path)
        copied = kept.found
    else:
        path.write_text(json.dumps(_header()) + "\n", encoding="ascii")
    with path.open("a", encoding="ascii") as stream:
        for digest, epochs in kept.used.items():
            if digest not in copied:
                stream.write(json.dumps([digest, _check(epochs.text), asdict(epochs)]) + "\n")


def _header() -> dict[str, Any]:
    return {"what": "epochs parsed by tfkd report; may be deleted", "version": VERSION, "columns": COLUMNS}


def _check(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
