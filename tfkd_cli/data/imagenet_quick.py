"""`imagenet-quick`: 100 classes of ImageNet at 64 pixels, for trying out; never compared with the paper.

From ImageNet's archives, or a folder with train/WNID/* and val/WNID/*: every tenth of the 1,000 classes in
the order of their WNIDs (all where there are at most 100), of each the first 50 training and the first 10
validation images by name. They are decoded into the cache, as all sets that fit into memory. As with
ImageNet, the validation images are the test part. The name is always `imagenet-quick@<12 hex>`, sha256 over
the names and bytes of these files.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from tfkd_cli.data import cache as caches
from tfkd_cli.data import imagenet_listing as listing
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.imagenet import lacks, locate
from tfkd_cli.data.images import Look, parallel
from tfkd_cli.data.inspection import of_counts, of_decoded, of_labels
from tfkd_cli.data.layout import Layout
from tfkd_cli.data.reader import Progress, silent
from tfkd_cli.errors import RequestError

__all__ = ["lacks", "locate"]  # besides what is defined here

FORMAT = "imagenet-quick 1"  # raised when the same files would become other arrays


def identify(path: Path, facts: DataSet, *, cache: Path, progress: Progress = silent) -> DataSet:
    """The facts of the chosen files; they are read unless their names, sizes and times are as remembered."""

    def layout() -> Layout:
        return listing.listed(path, progress, quick=True)

    stamp = listing.stamp_of(path) if listing.has_archives(path) else layout().stamp()
    known = caches.remembered(
        cache, path / facts.name, f"{FORMAT}:{stamp}", lambda: _identify(layout(), facts).to_json()
    )
    return DataSet.from_json(known)


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """Both parts, without corrupt files; the facts with notes on near-identical and blank images."""
    layout = listing.listed(path, progress, quick=True).without(facts.corrupt)
    layout.write(draft, layout.parts, _look(facts), progress)
    draft.class_names = layout.classes
    return replace(facts, notes=facts.notes + of_decoded(draft, layout, layout.parts))


def _identify(whole: Layout, facts: DataSet) -> DataSet:
    def examined(position: int) -> tuple[bytes, bool]:
        """The sha256 of a file, and whether it cannot be decoded."""
        content_hash = hashlib.sha256(whole.read(position)).digest()
        try:
            whole.decode(position, _look(facts))
        except RequestError:
            return content_hash, True
        return content_hash, False

    found = [each for block in parallel(examined, range(len(whole.files))) for each in block]
    corrupt = tuple(file for file, (_, broken) in zip(whole.files, found, strict=True) if broken)
    hashes = [content_hash for content_hash, broken in found if not broken]
    layout = whole.without(corrupt)
    if not all(layout.parts.values()):
        raise RequestError(
            f"{len(corrupt):,} of the images in {whole.root} cannot be read, as {corrupt[0]!r}.",
            expected=listing.EXPECTED,
            hint="copy or load them again.",
        )
    digest = layout.identity(f"{FORMAT}\0{_look(facts).text}", hashes)
    return replace(
        facts,
        name=f"{facts.name}@{digest}",
        classes=len(layout.classes),
        train_images=len(layout.parts["train"]),
        test_images=len(layout.parts["test"]),
        source=str(whole.root),
        corrupt=corrupt,
        notes=(
            of_counts(layout, layout.parts),
            *facts.notes,
            *layout.notes,
            *of_labels(layout, layout.parts, hashes),
            *(f"WARNING: {file!r} cannot be read; data.corrupt=skip leaves it out" for file in corrupt),
        ),
    )


def _look(facts: DataSet) -> Look:
    return Look(facts.size, facts.channels)
