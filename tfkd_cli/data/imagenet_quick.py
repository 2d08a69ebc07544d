"""`imagenet-quick`: 100 classes of ImageNet at 64 pixels, for trying out; never compared with the paper.

From ImageNet's archives, or a folder with train/WNID/* and val/WNID/*: every tenth of the 1,000 classes in
the order of their WNIDs (all where there are at most 100), of each the first 50 training and the first 10
validation images by name. They are decoded into the cache, as all sets that fit into memory. As with
ImageNet, the validation images are the test part. The name is always `imagenet-quick@<12 hex>`, sha256 over
the names and bytes of these files.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tfkd_cli.data import cache as caches
from tfkd_cli.data import imagenet
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.images import SUFFIXES, Look, decode_all, naming_all, parallel
from tfkd_cli.data.images import decode as decode_image
from tfkd_cli.data.inspection import inspect, notes_of, of_counts, of_labels
from tfkd_cli.data.layout import Layout
from tfkd_cli.data.reader import Progress, silent
from tfkd_cli.data.trees import read_file
from tfkd_cli.errors import RequestError
from tfkd_cli.regular_files import open_regular

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

DOWNLOAD: str | None = None
CLASSES = 100  # every tenth of ImageNet's 1,000
IMAGES = {"train": 50, "test": 10}  # of each class
FOLDERS = {"train": "train", "test": "val"}
FORMAT = "imagenet-quick 1"  # raised when the same files would become other arrays


class _Source(Protocol):
    """Where the image files are: their names are `train/WNID/NAME` and `val/WNID/NAME`."""

    def classes(self) -> list[str]:
        """All WNIDs, sorted."""
        ...

    def images(self, folder: str) -> list[str]:
        """The files of `train/WNID` or `val/WNID`, sorted."""
        ...

    def read(self, file: str) -> bytes:
        """The bytes of one file; called from many threads."""
        ...


def locate(places: Sequence[Path], facts: DataSet) -> Path | None:
    """The folder of ImageNet's archives, or the one with train/ and val/."""
    return imagenet.locate(places, facts)


def identify(path: Path, facts: DataSet, *, cache: Path, progress: Progress = silent) -> DataSet:
    """The facts of the chosen files; they are read unless their names, sizes and times are as remembered."""
    archives = imagenet.has_archives(path)
    stamp = imagenet.stamp_of(path) if archives else survey(path, _Tree(path)).stamp()

    def found() -> dict[str, Any]:
        return _identify(path, _source(path, progress), facts).to_json()

    return DataSet.from_json(caches.remembered(cache, path / facts.name, f"{FORMAT}:{stamp}", found))


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """Both parts, without corrupt files; the facts with notes on near-identical and blank images."""
    source = _source(path, progress)
    layout = survey(path, source, without=facts.corrupt)

    def one(position: int) -> NDArray[uint8]:
        return _decoded(source, layout.files[position], facts)

    with naming_all(range(len(layout.files)), one):
        for part, positions in _parts(layout).items():
            images = decode_all(positions, one, what=f"decoding {part}", progress=progress)
            draft.write(part, images, [layout.labels[position] for position in positions])
    draft.class_names = layout.classes
    draft.report = inspect(draft, layout, _parts(layout))
    return replace(facts, notes=facts.notes + notes_of(draft.report))


def fetch(facts: DataSet, folder: Path) -> Path:
    """Nothing to load."""
    return imagenet.fetch(facts, folder)


def survey(root: Path, source: _Source, *, without: Collection[str] = ()) -> Layout:
    """The chosen classes and files; RequestError when there are none.

    `without`: of the chosen files those that are left out; none takes their place.
    """
    classes = chosen(source.classes())
    files: list[str] = []
    labels: list[int] = []
    parts: dict[str, range] = {}
    for part, folder in FOLDERS.items():
        start = len(files)
        for label, wnid in enumerate(classes):
            taken = source.images(f"{folder}/{wnid}")[: IMAGES[part]]
            kept = [file for file in taken if file not in without]
            files += kept
            labels += [label] * len(kept)
        parts[part] = range(start, len(files))
    return Layout(root, classes, files, labels, parts, _misplaced(files))


def chosen(wnids: Sequence[str]) -> tuple[str, ...]:
    """Of the sorted WNIDs every tenth of 1,000; all where there are at most CLASSES."""
    return tuple(wnids[:: max(1, len(wnids) // CLASSES)][:CLASSES])


def _source(root: Path, progress: Progress) -> _Source:
    return _Archives(root, progress) if imagenet.has_archives(root) else _Tree(root)


class _Tree:
    """Folders train/WNID and val/WNID."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def classes(self) -> list[str]:
        found = [each.name for each in self._entries("train") if each.is_dir() and each.name[0] != "."]
        if len(found) < 2:
            raise _wrong_layout(self._root, f"train/ has {len(found)} class folders")
        return found

    def images(self, folder: str) -> list[str]:
        entries = self._entries(folder)
        found = [f"{folder}/{each.name}" for each in entries if Path(each.name).suffix.lower() in SUFFIXES]
        if not found:
            raise _wrong_layout(self._root, f"{folder} holds no images")
        return found

    def read(self, file: str) -> bytes:
        return read_file(self._root / file)

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self._root / folder) as entries:
                return sorted(entries, key=lambda each: each.name)
        except OSError as error:
            raise _wrong_layout(self._root, f"{folder} cannot be read: {error.strerror}") from error


class _Archives:
    """The official archives, read in place."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self._files = {"train": root / imagenet.TRAIN, "val": root / imagenet.VAL}
        self._items = {
            f"{part}/{item.wnid}/{item.name}": item
            for part, items in imagenet.listed(root, progress).parts.items()
            for item in items
        }
        self._of_folder: dict[str, list[str]] = {}
        for file in sorted(self._items):
            self._of_folder.setdefault(file.rpartition("/")[0], []).append(file)

    def classes(self) -> list[str]:
        folders = (each.partition("/") for each in self._of_folder)
        return [wnid for part, _, wnid in folders if part == "train"]

    def images(self, folder: str) -> list[str]:
        return self._of_folder.get(folder, [])

    def read(self, file: str) -> bytes:
        item = self._items[file]
        with open_regular(self._files[file.partition("/")[0]]) as archive:
            archive.seek(item.offset)
            return archive.read(item.size)


def _misplaced(files: Sequence[str]) -> tuple[str, ...]:
    """A note on files that are named after another class than that of their folder, if there are any."""
    odd = [
        file
        for file in files
        if (named := re.match(r"n\d{8}(?=_)", Path(file).name)) and named[0] != Path(file).parent.name
    ]
    if not odd:
        return ()
    return (
        "WARNING: files named after another class than that of their folder, whose label they have here: "
        f"{len(odd):,} (the first: {odd[0]!r})",
    )


def _identify(root: Path, source: _Source, facts: DataSet) -> DataSet:
    def examined(file: str) -> tuple[bytes, bool]:
        """The sha256 of a file, and whether it cannot be decoded."""
        content_hash = hashlib.sha256(source.read(file)).digest()
        try:
            _decoded(source, file, facts)
        except RequestError:
            return content_hash, True
        return content_hash, False

    files = survey(root, source).files
    found = [each for block in parallel(examined, files) for each in block]
    corrupt = tuple(file for file, (_, broken) in zip(files, found, strict=True) if broken)
    hashes = [content_hash for content_hash, broken in found if not broken]
    layout = survey(root, source, without=corrupt)
    parts = _parts(layout)
    if not all(parts.values()):
        raise _wrong_layout(root, f"{len(corrupt):,} of its images cannot be read, as {corrupt[0]!r}")
    digest = layout.identity(f"{FORMAT}\0{_look(facts).text}", hashes)
    return replace(
        facts,
        name=f"{facts.name}@{digest}",
        classes=len(layout.classes),
        train_images=len(parts["train"]),
        test_images=len(parts["test"]),
        source=str(root),
        corrupt=corrupt,
        notes=(
            of_counts(layout, parts),
            *facts.notes,
            *layout.notes,
            *of_labels(layout, parts, hashes),
            *(f"WARNING: {file!r} cannot be read and is left out" for file in corrupt),
        ),
    )


def _parts(layout: Layout) -> Mapping[str, Sequence[int]]:
    assert layout.parts is not None
    return layout.parts


def _decoded(source: _Source, file: str, facts: DataSet) -> NDArray[uint8]:
    return decode_image(source.read(file), _look(facts), name=file)


def _look(facts: DataSet) -> Look:
    return Look(facts.size, facts.channels)


def _wrong_layout(root: Path, what: str) -> RequestError:
    return RequestError(
        f"{root} is not ImageNet: {what}.",
        expected=imagenet.EXPECTED,
        hint="tfkd data imagenet-quick --from DIR, where DIR holds its archives, or train/ and val/.",
    )
