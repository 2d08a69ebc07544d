"""`imagenet-quick`: 100 classes of ImageNet at 64 pixels, for trying out; never compared with the paper.

From a folder with train/WNID/* and val/WNID/*: every tenth of the 1,000 classes in the order of their WNIDs
(all where there are at most 100), of each the first 50 training and the first 10 validation images by name.
They are decoded into the cache, as all sets that fit into memory. As with ImageNet, the validation images are
the test part. The name is always `imagenet-quick@<12 hex>`, sha256 over the names and bytes of these files.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli.data import cache as caches
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.images import SUFFIXES, Look, decode_all, naming_all, parallel
from tfkd_cli.data.images import decode as decode_image
from tfkd_cli.data.inspection import inspect, notes_of, of_counts, of_labels
from tfkd_cli.data.layout import Layout
from tfkd_cli.data.reader import Progress
from tfkd_cli.data.trees import read_file
from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

DOWNLOAD: str | None = None
CLASSES = 100  # every tenth of ImageNet's 1,000
IMAGES = {"train": 50, "test": 10}  # of each class
FOLDERS = {"train": "train", "test": "val"}
FORMAT = "imagenet-quick 1"  # raised when the same files would become other arrays
EXPECTED = "train/WNID/*.JPEG and val/WNID/*.JPEG, with at least two classes."


def locate(places: Sequence[Path], facts: DataSet) -> Path | None:
    """The first folder with train/ and val/ in it, or with such a folder called `imagenet`."""
    candidates = (folder for place in places for folder in (place, place / "imagenet"))
    return next(
        (each for each in candidates if all((each / part).is_dir() for part in FOLDERS.values())), None
    )


def identify(path: Path, facts: DataSet, *, cache: Path) -> DataSet:
    """The facts of the chosen files; they are read unless their names, sizes and times are as remembered."""
    layout = survey(path)
    stamp = f"{FORMAT}:{layout.stamp()}"
    known = caches.remembered(cache, path / facts.name, stamp, lambda: _identify(layout, facts).to_json())
    return DataSet.from_json(known)


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """Both parts, without corrupt files; the facts with notes on near-identical and blank images."""
    layout = survey(path, without=facts.corrupt)

    def one(position: int) -> NDArray[uint8]:
        return _decoded(layout, layout.files[position], facts)

    with naming_all(range(len(layout.files)), one):
        for part, positions in _parts(layout).items():
            images = decode_all(positions, one, what=f"decoding {part}", progress=progress)
            draft.write(part, images, [layout.labels[position] for position in positions])
    draft.class_names = layout.classes
    draft.report = inspect(draft, layout, _parts(layout))
    return replace(facts, notes=facts.notes + notes_of(draft.report))


def fetch(facts: DataSet, folder: Path) -> Path:
    """Nothing to load."""
    raise RequestError(
        "ImageNet cannot be downloaded without an account.",
        expected=f"a folder with {EXPECTED}",
        hint="image-net.org has the files; tfkd data imagenet-quick --from DIR",
    )


def survey(root: Path, *, without: Collection[str] = ()) -> Layout:
    """The chosen classes and files of a folder; RequestError when it is not in ImageNet's layout.

    `without`: of the chosen files those that are left out; none takes their place.
    """
    classes = _classes(root)
    files: list[str] = []
    labels: list[int] = []
    parts: dict[str, range] = {}
    for part, folder in FOLDERS.items():
        start = len(files)
        for label, wnid in enumerate(classes):
            taken = _images(root, f"{folder}/{wnid}")[: IMAGES[part]]
            kept = [file for file in taken if file not in without]
            files += kept
            labels += [label] * len(kept)
        parts[part] = range(start, len(files))
    return Layout(root, classes, files, labels, parts, _misplaced(files))


def chosen(wnids: Sequence[str]) -> tuple[str, ...]:
    """Of the sorted WNIDs every tenth of 1,000; all where there are at most CLASSES."""
    return tuple(wnids[:: max(1, len(wnids) // CLASSES)][:CLASSES])


def _classes(root: Path) -> tuple[str, ...]:
    """The chosen ones of the classes below train/."""
    try:
        with os.scandir(root / FOLDERS["train"]) as entries:
            found = sorted(each.name for each in entries if each.is_dir() and each.name[0] != ".")
    except OSError as error:
        raise _wrong_layout(root, f"train/ cannot be read: {error.strerror}") from error
    if len(found) < 2:
        raise _wrong_layout(root, f"train/ has {len(found)} class folders")
    return chosen(found)


def _images(root: Path, folder: str) -> list[str]:
    """The images of one class by name, relative to the root."""
    try:
        with os.scandir(root / folder) as entries:
            found = sorted(each.name for each in entries if Path(each.name).suffix.lower() in SUFFIXES)
    except OSError as error:
        raise _wrong_layout(root, f"{folder} cannot be read: {error.strerror}") from error
    if not found:
        raise _wrong_layout(root, f"{folder} holds no images")
    return [f"{folder}/{name}" for name in found]


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
        f"WARNING: {len(odd):,} images are named after another class than that of their folder, whose "
        f"label they have here (the first: {odd[0]!r})",
    )


def _identify(layout: Layout, facts: DataSet) -> DataSet:
    def examined(file: str) -> tuple[bytes, bool]:
        """The sha256 of a file, and whether it cannot be decoded."""
        mark = hashlib.sha256(read_file(layout.root / file)).digest()
        try:
            _decoded(layout, file, facts)
        except RequestError:
            return mark, True
        return mark, False

    found = [each for block in parallel(examined, layout.files) for each in block]
    corrupt = tuple(file for file, (_, broken) in zip(layout.files, found, strict=True) if broken)
    marks = [mark for mark, broken in found if not broken]
    layout = survey(layout.root, without=corrupt)
    parts = _parts(layout)
    if not all(parts.values()):
        raise _wrong_layout(layout.root, f"{len(corrupt):,} of its images cannot be read, as {corrupt[0]!r}")
    digest = hashlib.sha256(f"{FORMAT}\0{_look(facts).text}\0".encode())
    for file, mark in zip(layout.files, marks, strict=True):
        digest.update(os.fsencode(file) + b"\0" + mark)
    return replace(
        facts,
        name=f"{facts.name}@{digest.hexdigest()[:12]}",
        classes=len(layout.classes),
        train_images=len(parts["train"]),
        test_images=len(parts["test"]),
        source=str(layout.root),
        corrupt=corrupt,
        notes=(
            of_counts(layout, parts),
            *facts.notes,
            *layout.notes,
            *of_labels(layout, parts, marks),
            *(f"WARNING: {file!r} cannot be read and is left out" for file in corrupt),
        ),
    )


def _parts(layout: Layout) -> Mapping[str, Sequence[int]]:
    assert layout.parts is not None
    return layout.parts


def _decoded(layout: Layout, file: str, facts: DataSet) -> NDArray[uint8]:
    return decode_image(read_file(layout.root / file), _look(facts), name=file)


def _look(facts: DataSet) -> Look:
    return Look(facts.size, facts.channels)


def _wrong_layout(root: Path, what: str) -> RequestError:
    return RequestError(
        f"{root} is not ImageNet: {what}.",
        expected=EXPECTED,
        hint="tfkd data imagenet-quick --from DIR, where DIR holds train/ and val/.",
    )
