"""`imagenet-quick`: 100 classes of ImageNet at 64 pixels, for trying out; never compared with the paper.

From ImageNet's archives, or a folder with train/WNID/* and val/WNID/*: every tenth of the 1,000 classes in
the order of their WNIDs (all where there are at most 100), of each the first 50 training and the first 10
validation images by name. They are decoded into the cache, as all sets that fit into memory. As with
ImageNet, the validation images are the test part. The name is always `imagenet-quick@<12 hex>`, sha256 over
the names and bytes of these files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli.data import cache as caches
from tfkd_cli.data import imagenet
from tfkd_cli.data import imagenet_listing as listing
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.images import Look, decode_all, naming_all, parallel
from tfkd_cli.data.images import decode as decode_image
from tfkd_cli.data.inspection import of_counts, of_decoded, of_labels
from tfkd_cli.data.layout import Layout
from tfkd_cli.data.reader import Progress, silent
from tfkd_cli.data.trees import read_file
from tfkd_cli.errors import RequestError
from tfkd_cli.regular_files import open_regular

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

DOWNLOAD: str | None = None
lacks = listing.lacks
CLASSES = 100  # every tenth of ImageNet's 1,000
FORMAT = "imagenet-quick 1"  # raised when the same files would become other arrays


def locate(places: Sequence[Path], facts: DataSet) -> Path | None:
    """The folder of ImageNet's archives, or the one with train/ and val/."""
    return imagenet.locate(places, facts)


def identify(path: Path, facts: DataSet, *, cache: Path, progress: Progress = silent) -> DataSet:
    """The facts of the chosen files; they are read unless their names, sizes and times are as remembered."""
    source = _Source(path, progress)
    stamp = listing.stamp_of(path) if source.archives else source.layout().stamp()
    known = caches.remembered(
        cache, path / facts.name, f"{FORMAT}:{stamp}", lambda: _identify(source, facts).to_json()
    )
    return DataSet.from_json(known)


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """Both parts, without corrupt files; the facts with notes on near-identical and blank images."""
    source = _Source(path, progress)
    layout = source.layout(without=facts.corrupt)

    def one(position: int) -> NDArray[uint8]:
        return source.decoded(layout.files[position], facts)

    with naming_all(range(len(layout.files)), one):
        for part, positions in _parts(layout).items():
            images = decode_all(positions, one, what=f"decoding {part}", progress=progress)
            draft.write(part, images, [layout.labels[position] for position in positions])
    draft.class_names = layout.classes
    return replace(facts, notes=facts.notes + of_decoded(draft, layout, _parts(layout)))


def fetch(facts: DataSet, folder: Path) -> Path:
    """Nothing to load."""
    return imagenet.fetch(facts, folder)


def chosen(wnids: Sequence[str]) -> tuple[str, ...]:
    """Of the sorted WNIDs every tenth of 1,000; all where there are at most CLASSES."""
    return tuple(wnids[:: max(1, len(wnids) // CLASSES)][:CLASSES])


CHOICE = listing.Choice(chosen, train=50, val=10)  # images of each class


class _Source:
    """The chosen files: in a tree, or in the official archives, read in place."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root, self.archives, self._progress = root, listing.has_archives(root), progress

    @cached_property
    def _contents(self) -> listing.Contents:
        return listing.listed(self.root, self._progress, CHOICE)

    @cached_property
    def _items(self) -> dict[str, listing.Item]:
        items = (item for items in self._contents.parts.values() for item in items)
        return dict(zip(self._contents.names, items, strict=True))

    def layout(self, *, without: Collection[str] = ()) -> Layout:
        """Their classes and parts; no other file takes the place of one that is left out."""
        classes = self._contents.classes
        files = [name for name in self._items if name not in without]
        labels = [classes.index(self._items[name].wnid) for name in files]
        trained = sum(name.startswith("train/") for name in files)
        parts = {"train": range(trained), "test": range(trained, len(files))}
        return Layout(self.root, classes, files, labels, parts, self._contents.notes)

    def read(self, name: str) -> bytes:
        """The bytes of one file; called from many threads."""
        item = self._items[name]
        if not self.archives:
            return read_file(self.root / name)
        with open_regular(self.root / listing.ARCHIVES[name.partition("/")[0]]) as archive:
            archive.seek(item.offset)
            return archive.read(item.size)

    def decoded(self, name: str, facts: DataSet) -> NDArray[uint8]:
        """One image, as it is seen; RequestError where it cannot be read."""
        return decode_image(self.read(name), _look(facts), name=name)


def _identify(source: _Source, facts: DataSet) -> DataSet:
    def examined(file: str) -> tuple[bytes, bool]:
        """The sha256 of a file, and whether it cannot be decoded."""
        content_hash = hashlib.sha256(source.read(file)).digest()
        try:
            source.decoded(file, facts)
        except RequestError:
            return content_hash, True
        return content_hash, False

    files = source.layout().files
    found = [each for block in parallel(examined, files) for each in block]
    corrupt = tuple(file for file, (_, broken) in zip(files, found, strict=True) if broken)
    hashes = [content_hash for content_hash, broken in found if not broken]
    layout = source.layout(without=corrupt)
    parts = _parts(layout)
    if not all(parts.values()):
        raise RequestError(
            f"{len(corrupt):,} of the images in {source.root} cannot be read, as {corrupt[0]!r}.",
            expected=listing.EXPECTED,
            hint="copy or load them again.",
        )
    digest = layout.identity(f"{FORMAT}\0{_look(facts).text}", hashes)
    return replace(
        facts,
        name=f"{facts.name}@{digest}",
        classes=len(layout.classes),
        train_images=len(parts["train"]),
        test_images=len(parts["test"]),
        source=str(source.root),
        corrupt=corrupt,
        notes=(
            of_counts(layout, parts),
            *facts.notes,
            *layout.notes,
            *of_labels(layout, parts, hashes),
            *(f"WARNING: {file!r} cannot be read; data.corrupt=skip leaves it out" for file in corrupt),
        ),
    )


def _parts(layout: Layout) -> Mapping[str, Sequence[int]]:
    assert layout.parts is not None
    return layout.parts


def _look(facts: DataSet) -> Look:
    return Look(facts.size, facts.channels)
