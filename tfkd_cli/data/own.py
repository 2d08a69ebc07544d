"""Data sets outside tfkd: the user's own `decode`, checked, and named by what it has written.

`python:module:NAME@<12 hex>` is sha256 over the decoded arrays, the names of the classes and the declared
facts that numbers depend on. A changed module, and another module of the same name, are other data sets.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfkd_cli import own_code
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.facts import AUGMENTATIONS, DataSet
from tfkd_cli.data.reader import Progress, reader_of
from tfkd_cli.errors import RequestError, TfkdError

log = logging.getLogger("tfkd")

DECIDING = ("classes", "channels", "size", "mean", "std", "augmentation", "full_size")
"""Declared facts that numbers depend on, besides what is decoded."""

PARTS = ("train", "test", "val")
SLOW = 2.0  # seconds
EXPECTED = (
    "`decode` gives the facts back and writes the parts train and test, perhaps val: images of shape "
    "(N, {channels}, {size}, {size}), uint8, and a label from 0 to {last} for each."
)


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """What the module of these facts decodes, under the name of its content, with its counts of images.

    RequestError, whatever that module does.
    """
    expected = EXPECTED.format(channels=facts.channels, size=facts.size, last=facts.classes - 1)
    started = time.monotonic()
    try:
        found = reader_of(facts).decode(path, facts, draft, progress=progress)
    except (KeyboardInterrupt, TfkdError):
        raise
    except BaseException as error:  # the user's own code may raise anything, or call sys.exit
        raise own_code.failed(facts.name, error, expected=expected) from error
    draft.class_names = tuple(map(str, draft.class_names)) or tuple(map(str, range(facts.classes)))
    if wrong := next(_misfits(found, draft), ""):
        raise RequestError(f'"{facts.name}" {wrong}.', expected=expected, hint="docs/library.md shows one.")
    counts: dict[str, Any] = {f"{part}_images": len(draft.labels(part)) for part in PARTS}
    identified = replace(found, name=f"{facts.name}@{_digest(found, draft)}", **counts)
    if (seconds := time.monotonic() - started) > SLOW:
        log.warning(
            "%s was decoded in %.0f s, as each command does that plans runs with it. Hint: --dataset %s "
            "takes these images from the cache.",
            facts.name,
            seconds,
            identified.name,
        )
    return identified


def _misfits(found: object, draft: Draft) -> Iterator[str]:
    """What is wrong with the decoded parts, in words."""
    if not isinstance(found, DataSet):
        yield f"gave {type(found).__name__} instead of its facts"
        return
    if {len(found.mean), len(found.std)} != {found.channels}:
        yield f"declares {len(found.mean)} means and {len(found.std)} deviations, {found.channels} channels"
    if not all(map(math.isfinite, found.mean + found.std)) or min(found.std, default=1.0) <= 0:
        yield f"declares the mean {found.mean} and the deviation {found.std}, which normalise nothing"
    if found.augmentation and found.augmentation not in AUGMENTATIONS:
        yield f"declares the augmentation {found.augmentation!r}; known are {', '.join(AUGMENTATIONS)}"
    yield from (f"writes a part {each}" for each in draft.parts if each not in PARTS)
    needed = dict.fromkeys(("train", "test", *draft.parts))
    yield from (f"has no images in its part {each}" for each in needed if not draft.labels(each).size)
    if len(draft.class_names) != found.classes:
        yield f"names {len(draft.class_names)} classes, and declares {found.classes}"
    for part in draft.parts:
        labels_N, shape = draft.labels(part), (found.channels, found.size, found.size)
        if not 0 <= labels_N.min() <= labels_N.max() < found.classes:
            yield f"has labels from {labels_N.min()} to {labels_N.max()} in its part {part}"
        if part not in draft.archives and draft.images(part).shape[1:] != shape:
            yield f"has images of shape {draft.images(part).shape[1:]} in its part {part}"


def _digest(facts: DataSet, draft: Draft) -> str:
    """12 hex digits over the content."""
    files = {name: each["sha256"] for name, each in draft.files.items()}
    declared = [getattr(facts, name) for name in DECIDING]
    content = json.dumps([files, draft.archives, draft.class_names, declared], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:12]
