"""`torchvision:NAME`: the sets of `torchvision_names.py`, loaded, checked and read by torchvision."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.data.cache import Draft, locked
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.folder import SHARES
from tfkd_cli.data.images import Look, decode_all, see
from tfkd_cli.data.reader import Progress, silent
from tfkd_cli.data.split import split
from tfkd_cli.data.torchvision_names import KNOWN, Arguments, Known
from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

DOWNLOAD: str | None = "the official files, through torchvision"


def locate(places: Sequence[Path], facts: DataSet) -> Path | None:
    """The first place with this set's files, as torchvision lays them out."""
    return next((place for place in places if (place / _known(facts).marker).exists()), None)


def identify(path: Path, facts: DataSet, *, cache: Path) -> DataSet:
    """The listed facts: torchvision checks what it loads."""
    return facts


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """Image by image through torchvision; a set without parts is split here."""
    look, parts = Look(size=facts.size, channels=facts.channels), _known(facts).parts
    if parts:
        for part, arguments in parts.items():
            opened = _open(facts, path, arguments, download=False)
            _write(draft, part, opened, range(len(opened)), look, progress)
    else:
        opened = _open(facts, path, {}, download=False)
        hashes = [hashlib.sha256(opened[i][0].tobytes()).digest() for i in range(len(opened))]
        labels = [int(opened[i][1]) for i in range(len(opened))]
        for part, positions in split(hashes, labels, SHARES).items():
            _write(draft, part, opened, positions, look, progress)
    names = getattr(opened, "classes", None) or [str(label) for label in range(facts.classes)]
    draft.class_names = tuple(str(name) for name in names)
    return _counted(facts, draft)


def fetch(facts: DataSet, folder: Path) -> Path:
    """All parts, loaded and unpacked by torchvision."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f".lock-{_name(facts)}", progress=silent):
        for arguments in list(_known(facts).parts.values()) or [{}]:
            _open(facts, folder, arguments, download=True)
    return folder


def _write(
    draft: Draft, part: str, opened: Any, positions: Sequence[int], look: Look, progress: Progress
) -> None:
    labels = [0] * len(positions)

    def one(place: int) -> NDArray[uint8]:
        image, label = opened[positions[place]]
        labels[place] = int(label)
        return see(image, look, name=f"{part} image {positions[place]}")

    images = decode_all(range(len(positions)), one, what=f"decoding {part}", progress=progress)
    draft.write(part, images, labels)


def _open(facts: DataSet, root: Path, arguments: Arguments, *, download: bool) -> Any:
    """torchvision's own object; RequestError when its files are not (or not all) there."""
    # By name: what decodes is imported when it decodes, and plans stay free of torchvision.
    make: Callable[..., Any] = getattr(importlib.import_module("torchvision.datasets"), _name(facts))
    try:
        return make(str(root), download=download, **arguments)
    except (RuntimeError, ValueError, ImportError, KeyError) as error:
        if download:
            raise
        raise RequestError(
            f"{facts.name} cannot be read from {root}: {error}.",
            expected=f"the files as torchvision.datasets.{_name(facts)} lays them out.",
            hint=f"`tfkd data {facts.name}` loads them.",
        ) from error


def _counted(facts: DataSet, draft: Draft) -> DataSet:
    """The facts with the number of images there really are."""
    counts = {part: len(draft.images(part)) for part in draft.parts}
    return replace(
        facts,
        train_images=counts["train"],
        val_images=counts.get("val", 0),
        test_images=counts["test"],
    )


def _name(facts: DataSet) -> str:
    return facts.name.split(":", 1)[1]


def _known(facts: DataSet) -> Known:
    return KNOWN[_name(facts)]
