"""ImageNet (ILSVRC 2012), read in place: its official archives, or train/WNID/*.JPEG and val/WNID/*.JPEG.

Nothing is unpacked or copied. The cache holds an index: the name, size, label and, in an archive, the offset
of each image. Classes are the sorted WNIDs, as torchvision numbers them. Tested on the validation part.

The 150 GB are not hashed, which would take an hour or two. The name `imagenet` is given to what has the
official classes and counts and whose files add up to the size of the official archives; an image of another
size is found there, one with other bytes of the same size is not. All else is `imagenet@<12 hex>`, by the
names and sizes of the files. When an image is read later, its size must still be that of the index.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tfkd_cli.data import cache as caches
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.facts import IMAGENET, DataSet
from tfkd_cli.data.image_files import entries
from tfkd_cli.data.imagenet_listing import (
    ARCHIVES,
    EXPECTED,
    Contents,
    classes_of,
    forget,
    has_archives,
    lacks,
    listed,
    stamp_of,
)
from tfkd_cli.data.reader import Progress, silent
from tfkd_cli.errors import RequestError

__all__ = ["lacks"]  # besides what a reader has

DOWNLOAD: str | None = None
ARCHIVE_BYTES = {"train": 147_897_477_120, "val": 6_744_924_160}  # the official archives
PER_CLASS = {"train": range(732, 1_301), "val": range(50, 51)}
BLOCK, RECORD = 512, 10_240  # a tar pads each file to a block, and itself to a record
TOLERANCE = 1_000 * RECORD  # of a size that is calculated from files: how archives of classes were padded
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
    """The official facts, or those of what is there; listed anew when an archive or a folder has changed."""
    known = caches.remembered(
        cache, path / facts.name, stamp_of(path), lambda: _identify(listed(path, progress), facts).to_json()
    )
    return DataSet.from_json(known)


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """Write the index of both parts; no image is decoded."""
    contents = listed(path, progress)
    labels = {wnid: label for label, wnid in enumerate(contents.classes)}
    for part, items in contents.parts.items():
        names = [os.fsencode(f"{part}/{item.wnid}/{item.name}") for item in items]
        index_N = entries(names, [item.size for item in items], [item.offset for item in items])
        draft.write_index(
            "train" if part == "train" else "test",
            index_N,
            [labels[item.wnid] for item in items],
            archive=ARCHIVES[part] if has_archives(path) else "",
        )
    draft.class_names = tuple(f"{wnid} {contents.words.get(wnid, '')}".strip() for wnid in contents.classes)
    forget()
    return facts


def fetch(facts: DataSet, folder: Path) -> Path:
    """Its terms of use forbid to load it without an account."""
    raise RequestError(
        "ImageNet cannot be downloaded without an account.",
        expected=EXPECTED,
        hint="load it from image-net.org, then `tfkd data imagenet --from DIR`.",
    )


def _identify(contents: Contents, facts: DataSet) -> DataSet:
    train, val = contents.parts["train"], contents.parts["val"]
    digest, counted, notes = contents.digest(), _has_official_counts(contents), contents.notes
    if counted and _has_official_sizes(contents):
        checked = "checked by classes, counts and the sizes of all files, whose bytes were not hashed"
        return replace(facts, notes=(f"index {digest[:12]}, {checked}", *notes))
    return replace(
        facts,
        name=f"{facts.name}@{digest[:12]}",
        label=f"{facts.label} ({'unchecked full copy' if counted else 'sample'})",
        classes=len(contents.classes),
        train_images=len(train),
        test_images=len(val),
        full=False,
        unchecked=counted,
        notes=(
            f"{len(train):,} training and {len(val):,} validation images of {len(contents.classes):,} "
            f"classes, not those of {IMAGENET.label}"
            + (": as many, but not with the sizes of the official archives" if counted else ""),
            *notes,
        ),
    )


def _has_official_counts(contents: Contents) -> bool:
    if len(contents.classes) != IMAGENET.classes or len(contents.parts["train"]) != IMAGENET.train_images:
        return False
    for part, items in contents.parts.items():
        counts = dict.fromkeys(contents.classes, 0)
        for item in items:
            counts[item.wnid] += 1
            if part == "train" and not item.name.startswith(f"{item.wnid}_"):
                return False  # an image in the folder of another class
        if not all(count in PER_CLASS[part] for count in counts.values()):
            return False
    return True


def _has_official_sizes(contents: Contents) -> bool:
    """Whether the files, packed as the official archives are, would give archives of their sizes."""
    of_class = dict.fromkeys(contents.classes, 0)
    for item in contents.parts["train"]:
        of_class[item.wnid] += _in_tar(item.size)
    packed = {
        "train": _tar_bytes(_in_tar(_tar_bytes(size)) for size in of_class.values()),
        "val": _tar_bytes(_in_tar(item.size) for item in contents.parts["val"]),
    }
    return all(abs(packed[part] - size) <= TOLERANCE for part, size in ARCHIVE_BYTES.items())


def _in_tar(size: int) -> int:
    """Bytes that a file takes in a tar: a header, and its content in whole blocks."""
    return BLOCK + -(-size // BLOCK) * BLOCK


def _tar_bytes(members: Iterator[int] | int) -> int:
    """The size of a tar of members that take so many bytes: two blocks of zeros, and whole records."""
    total = (members if isinstance(members, int) else sum(members)) + 2 * BLOCK
    return -(-total // RECORD) * RECORD
