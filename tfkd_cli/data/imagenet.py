"""ImageNet (ILSVRC 2012), read in place: its official archives, or train/WNID/*.JPEG and val/WNID/*.JPEG.

Nothing is unpacked or copied. The cache holds an index: the name, size, label and, in an archive, the offset
of each image. Classes are the sorted WNIDs, as torchvision numbers them. Tested on the validation part.

The 150 GB are not hashed, which would take an hour or two. The name `imagenet` is given to what has the
official classes and counts and whose files add up to the size of the official archives; an image of another
size is found there, one with other bytes of the same size is not. All else is `imagenet@<12 hex>`, by the
names and sizes of the files. When an image is read later, its size must still be that of the index.

`imagenet-quick` is 100 classes at 64 pixels, for trying out; never compared with the paper. It is decoded, as
all sets that fit into memory, and called `imagenet-quick@<12 hex>` by the names and bytes of its files.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tfkd_cli.data import cache as caches
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.facts import IMAGENET, DataSet
from tfkd_cli.data.imagenet_listing import (
    EXPECTED,
    classes_of,
    forget,
    has_archives,
    lacks,
    listed,
    stamp_of,
    words_of,
)
from tfkd_cli.data.images import Look, parallel
from tfkd_cli.data.inspection import of_counts, of_decoded, of_labels
from tfkd_cli.data.layout import Layout
from tfkd_cli.data.reader import Progress, silent
from tfkd_cli.errors import RequestError

__all__ = ["lacks"]  # besides what is defined here

QUICK_FORMAT = "imagenet-quick 1"  # raised when the same files would become other arrays

ARCHIVE_BYTES = {"train": 147_897_477_120, "val": 6_744_924_160}  # the official archives
PER_CLASS = {"train": range(732, 1_301), "val": range(50, 51)}
BLOCK = 512  # a tar has a header before each file and pads it to a block
PADDING = 1_000 * 12_288  # at most, of the archives of the classes in the archive of the training images
FOLDERS = ("", "imagenet", "ILSVRC2012", "ILSVRC/Data/CLS-LOC")  # below a folder of official files


def locate(places: Sequence[Path], facts: DataSet) -> Path | None:
    """The folder of the archives, or the one with train/ and val/ that have a class in common."""
    for place in places:
        for candidate in (place / each for each in FOLDERS):
            if has_archives(candidate) or set(classes_of(candidate, "train")) & set(
                classes_of(candidate, "val")
            ):
                return candidate
    return None


def identify(path: Path, facts: DataSet, *, cache: Path, progress: Progress = silent) -> DataSet:
    """The official facts, or those of what is there; listed anew when an archive or a folder has changed.

    Of the quick set, when one of its files has changed.
    """
    quick = not facts.full_size

    def layout() -> Layout:
        return listed(path, progress, quick=quick)

    stamp = layout().stamp() if quick and not has_archives(path) else stamp_of(path)
    identified = _identify_quick if quick else _identify
    known = caches.remembered(
        cache, path / facts.name, f"{QUICK_FORMAT}:{stamp}", lambda: identified(layout(), facts).to_json()
    )
    return DataSet.from_json(known)


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """Write the index of both parts; of the quick set, decode them without corrupt files."""
    if facts.full_size:
        layout, words = listed(path, progress), words_of(path)
        layout.write_index(draft, layout.parts)
        draft.class_names = tuple(f"{wnid} {words.get(wnid, '')}".strip() for wnid in layout.classes)
        forget()
        return facts
    layout = listed(path, progress, quick=True).without(facts.corrupt)
    layout.write(draft, layout.parts, _look(facts), progress)
    draft.class_names = layout.classes
    return replace(facts, notes=facts.notes + of_decoded(draft, layout, layout.parts))


def _identify(layout: Layout, facts: DataSet) -> DataSet:
    digest = hashlib.sha256()  # the same for the archives and for the tree they unpack to
    for file, size in zip(layout.files, layout.sizes, strict=True):
        digest.update(os.fsencode(f"{file}\0{size}\n"))
    name, counted = digest.hexdigest()[:12], _has_official_counts(layout)
    if counted and _has_official_sizes(layout):
        checked = "checked by classes, counts and the sizes of all files, whose bytes were not hashed"
        return replace(facts, notes=(f"index {name}, {checked}", *layout.notes))
    train, test = (len(layout.parts[part]) for part in ("train", "test"))
    return layout.facts(
        facts,
        name,
        layout.parts,
        label=f"{facts.label} ({'unchecked full copy' if counted else 'sample'})",
        full=False,
        unchecked=counted,
        notes=(
            f"{train:,} training and {test:,} validation images of {len(layout.classes):,} "
            f"classes, not those of {IMAGENET.label}"
            + (": as many, but not with the sizes of the official archives" if counted else ""),
            *layout.notes,
        ),
    )


def _has_official_counts(layout: Layout) -> bool:
    """Whether each class has as many images as it may, and none is in the folder of another class."""
    counts, named_alike = Counter[tuple[str, str]](), True
    for file in layout.files:
        part, wnid, name = file.split("/", 2)
        counts[part, wnid] += 1
        named_alike &= part == "val" or name.startswith(f"{wnid}_")
    return (
        named_alike
        and len(layout.classes) == IMAGENET.classes
        and len(layout.parts["train"]) == IMAGENET.train_images
        and all(counts[part, wnid] in PER_CLASS[part] for part in PER_CLASS for wnid in layout.classes)
    )


def _has_official_sizes(layout: Layout) -> bool:
    """Whether the files, packed as the official archives are, would give archives of their sizes."""
    packed = Counter[str]()
    for file, size in zip(layout.files, layout.sizes, strict=True):
        packed[file.partition("/")[0]] += BLOCK + -(-size // BLOCK) * BLOCK
    return all(0 <= official - packed[part] <= PADDING for part, official in ARCHIVE_BYTES.items())


def _identify_quick(whole: Layout, facts: DataSet) -> DataSet:
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
            expected=EXPECTED,
            hint="copy or load them again.",
        )
    digest = layout.identity(f"{QUICK_FORMAT}\0{_look(facts).text}", hashes)
    return layout.facts(
        facts,
        digest,
        layout.parts,
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
