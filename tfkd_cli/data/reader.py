"""What a data set's own file offers: where its files are, what they are, their pixels.

A reader is a module with these functions; `DataSet.module` names it. Only `decode` is needed: without the
others, the set has one content, which comes with a package. Of a data set outside tfkd, `decode` identifies
the content, too (see `own.py`), and `identify` is not called.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Protocol, cast

from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from tfkd_cli.data.cache import Draft
    from tfkd_cli.data.facts import DataSet

Progress = Callable[[str, float], None]  # what is being done, and the share of it that is done

EMBEDDED = Path("(embedded)")
"""The place of a data set that comes with a package: nothing to find, nothing to fetch."""


class Reader(Protocol):
    """One kind of data set; all functions may import what they like."""

    DOWNLOAD: str | None  # what `fetch` would load, from where, how large

    def locate(self, places: Sequence[Path], facts: DataSet) -> Path | None:
        """The files in the first of these files or folders that holds them, or where they usually are."""
        ...

    def identify(self, path: Path, facts: DataSet, *, cache: Path) -> DataSet:
        """The facts of what is at `path`; another name than the official one for other content.

        With a parameter `progress` it is told how to say how far it is.
        """
        ...

    def decode(self, path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
        """Write all parts into the draft; the facts again, with what was learnt on the way."""
        ...

    def fetch(self, facts: DataSet, folder: Path) -> Path:
        """Load the official files into `folder`, digest checked; OSError or RuntimeError otherwise."""
        ...

    def lacks(self, given: Path) -> str:
        """What a folder lacks in which nothing was located, in words."""
        ...


def reader_of(facts: DataSet) -> Reader:
    """The reader of a data set, with defaults for what its module leaves out."""
    if not facts.module:
        raise RequestError(f"the data set {facts.name} names no module that reads it.")
    return cast(Reader, SimpleNamespace(**(_DEFAULTS | vars(importlib.import_module(facts.module)))))


def _no_download(facts: DataSet, folder: Path) -> Path:
    raise RequestError(
        f"{facts.label} cannot be downloaded.",
        expected=f"{facts.source}.",
        hint=f"`tfkd data {facts.name} --from PATH` takes files that you have.",
    )


_DEFAULTS = {
    "DOWNLOAD": None,
    "locate": lambda places, facts: EMBEDDED,
    "identify": lambda path, facts, *, cache: facts,
    "fetch": _no_download,
    "lacks": lambda given: "",
}


def silent(what: str, share: float) -> None:
    """Progress that nobody watches."""


def not_official(path: Path | str, what: str, *, expected: str = "", name: str = "") -> RequestError:
    """A file that was given as official is not: the request was wrong."""
    return RequestError(
        f"{path}: {what}.",
        expected=expected or "the official files, unchanged.",
        hint=f"`tfkd data {name}` loads them anew." if name else "",
    )
