"""What a folder holds of ImageNet (ILSVRC 2012), as official archives or as a tree; nothing is decoded.

Both give the same `Layout`: classes are the sorted WNIDs, as torchvision numbers them, and the images of each
part are sorted by class and name. What is hidden is left aside; all else that is odd is named. The quick set
is every tenth of the 1,000 classes (all where there are at most 100), of each the first images by name.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from tfkd_cli.data.files import stamp
from tfkd_cli.data.image_files import A_FILE
from tfkd_cli.data.images import workers
from tfkd_cli.data.layout import Layout, closed, entries_of, is_image
from tfkd_cli.data.reader import Progress
from tfkd_cli.errors import RequestError
from tfkd_cli.regular_files import open_regular

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
ARCHIVES = {"train": TRAIN, "val": VAL}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH, SYNSETS = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
NUMBERED = re.compile(r"(\d+)\.[^.]*$")  # ILSVRC2012_val_00000001.JPEG has the first label of the kit
OTHER_CLASS = re.compile(r"train/(?!(n\d{8})/\1_)[^/]+/n\d{8}_.*", re.DOTALL)
EXPECTED = f"{TRAIN}, {VAL} and {DEVKIT} in one folder, or train/WNID/*.JPEG and val/WNID/*.JPEG."
QUICK_CLASSES = 100
QUICK_IMAGES = {"train": 50, "val": 10}  # of each class


class Item(NamedTuple):
    """An image of one part."""

    wnid: str
    name: str
    size: int  # in bytes
    offset: int = A_FILE  # in the archive


_last: dict[object, Layout] = {}
"""The last listing of this process: an index is written of what was identified a moment ago."""


def forget() -> None:
    """Free the memory of the last listing, of up to 1.3 million images."""
    _last.clear()


def listed(path: Path, progress: Progress, *, quick: bool = False) -> Layout:
    """What is at `path`; RequestError when it is not ImageNet, or an archive is damaged."""
    key = (path, stamp_of(path), quick)
    if key not in _last:
        _last.clear()
        _last[key] = (_archives if has_archives(path) else _tree)(path, progress, quick=quick)
    return _last[key]


def chosen(wnids: Sequence[str]) -> list[str]:
    """Of the sorted WNIDs those of the quick set."""
    return list(wnids[:: max(1, len(wnids) // QUICK_CLASSES)][:QUICK_CLASSES])


def stamp_of(path: Path) -> str:
    """Size and time of the archives, or of the folder of each class: a file that is added changes it."""
    if has_archives(path):
        if missing := [each for each in (VAL, DEVKIT) if not (path / each).is_file()]:
            raise _wrong(path, f"{TRAIN} without {missing[0]}")
        return "\n".join(stamp(path / each) for each in (TRAIN, VAL, DEVKIT))
    folders = (path / part / each for part in ("train", "val") for each in classes_of(path, part))
    stamps = "\n".join(stamp(each) for each in folders)
    return hashlib.sha256(os.fsencode(stamps)).hexdigest()


def has_archives(path: Path) -> bool:
    """Whether the official archives are in this folder."""
    return (path / TRAIN).is_file()


def lacks(path: Path) -> str:
    """What a folder lacks in which there is nothing of ImageNet, in words."""
    for part in ARCHIVES:
        if not (path / part).is_dir():
            return f"there is no {part}/ in it"
        found = entries_of(path / part)
        if not found.folders:
            images = f", but {len(found.images):,} images" if found.images else ""
            return f"{part}/ has no folders of classes{images}"
    return "train/ and val/ have no class in common"


def classes_of(root: Path, part: str) -> list[str]:
    """The folders of classes of a part, sorted; none where there is no such part."""
    folder = root / part
    return [each.name for each in entries_of(folder).folders] if folder.is_dir() else []


def _tree(path: Path, progress: Progress, *, quick: bool) -> Layout:
    """Folders are listed by several threads, for network drives answer slowly."""
    trained = classes_of(path, "train")
    classes = chosen(trained) if quick else trained
    tested = [each for each in classes_of(path, "val") if each in classes or each not in trained]
    parts: dict[str, list[Item]] = {}
    aside: list[str] = []
    with ThreadPoolExecutor(workers()) as pool:
        for part, folders in (("train", classes), ("val", tested)):
            parts[part], images = [], partial(_images, most=QUICK_IMAGES[part] if quick else None)
            listing = pool.map(images, [path / part / each for each in folders])
            for done, (items, others) in enumerate(listing, 1):
                parts[part] += items
                aside += [f"{part}/{each}" for each in others]
                progress(f"listing {part}: {len(parts[part]):,} images", done / len(folders))
    return _layout(path, classes, parts, aside=aside)


def _images(folder: Path, most: int | None) -> tuple[list[Item], list[str]]:
    """The first images of one class by name, and what else is there."""
    found = entries_of(folder)
    try:
        images = [each for each in found.images if each.is_file()]
        items = [Item(folder.name, each.name, each.stat().st_size) for each in images[:most]]
    except OSError as error:
        raise closed(error.filename or folder, error) from error
    others = [*found.folders, *found.others, *(each for each in found.images if not each.is_file())]
    return items, [f"{folder.name}/{each.name}" for each in others]


def _archives(path: Path, progress: Progress, *, quick: bool) -> Layout:
    wnids, _ = _kit(path / DEVKIT)
    train = sorted(_members(path / TRAIN, progress, inner=True))
    val = list(_members(path / VAL, progress, inner=False))
    numbers = [int(found[1]) if (found := NUMBERED.search(item.name)) else 0 for item in val]
    if sorted(numbers) != [*range(1, len(wnids) + 1)]:
        raise _wrong(
            path, f"{VAL} holds {len(val):,} images, not those numbered 1 to {len(wnids):,} of {DEVKIT}"
        )
    val = sorted(item._replace(wnid=wnids[number - 1]) for item, number in zip(val, numbers, strict=True))
    trained = sorted({item.wnid for item in train})
    classes = chosen(trained) if quick else trained
    left_out = set(trained) - set(classes)
    parts = {
        part: [
            item
            for wnid, of_class in groupby(items, key=lambda item: item.wnid)
            if wnid not in left_out
            for item in islice(of_class, QUICK_IMAGES[part] if quick else None)
        ]
        for part, items in (("train", train), ("val", val))
    }
    return _layout(path, classes, parts, archives=ARCHIVES)


def _layout(
    path: Path,
    classes: Sequence[str],
    parts: Mapping[str, Sequence[Item]],
    *,
    aside: Sequence[str] = (),
    archives: Mapping[str, str] | None = None,
) -> Layout:
    """The layout of these images, with notes on odd files and classes, each named.

    `aside`: what lies in the folders of classes and is no image.
    """
    trained, tested = ({item.wnid for item in parts[part]} for part in ("train", "val"))
    if len(classes) < 2 or not tested:
        what = f"{len(classes)} classes of training images, {len(tested)} of validation images"
        raise _wrong(path, what)
    if empty := sorted({*classes, *tested} - trained):
        raise _wrong(path, f"the class {empty[0]!r} has no training images")
    items = [item for part in ("train", "val") for item in parts[part]]
    files = [f"{part}/{item.wnid}/{item.name}" for part in ("train", "val") for item in parts[part]]
    label_of = {wnid: label for label, wnid in enumerate(classes)}
    found = {
        "WARNING: files named after another class than that of their folder, whose label they have here": [
            file for file in files if OTHER_CLASS.fullmatch(file)
        ],
        "WARNING: empty files": [file for file, item in zip(files, items, strict=True) if not item.size],
        "classes without validation images": [each for each in classes if each not in tested],
        "left aside in the folders of classes, no images": aside,
    }
    return Layout(
        root=path,
        classes=tuple(classes),
        files=files,
        labels=[label_of[item.wnid] for item in items],
        parts={"train": range(len(parts["train"])), "test": range(len(parts["train"]), len(files))},
        notes=tuple(f"{what}: {len(of):,} (the first: {of[0]!r})" for what, of in found.items() if of),
        sizes=[item.size for item in items],
        archives=archives or {},
        offsets=[item.offset for item in items],
    )


def _members(archive: Path, progress: Progress, *, inner: bool) -> Iterator[Item]:
    """The images of a tar, or of the tars of classes in it; only headers are read."""
    whole = archive.stat().st_size
    try:
        with open_regular(archive) as file, tarfile.open(fileobj=file, mode="r:") as outer:
            for member in outer:
                progress(f"listing {archive.name}", member.offset_data / whole)
                if member.offset_data + member.size > whole:
                    raise tarfile.ReadError(f"it ends within {member.name}")
                if not inner:
                    yield from _image(member, "")
                elif member.name.endswith(".tar"):
                    file.seek(member.offset_data)
                    with tarfile.open(fileobj=file, mode="r:") as of_class:
                        for each in of_class:
                            yield from _image(each, Path(member.name).stem)
    except (tarfile.TarError, OSError) as error:
        raise RequestError(
            f"{archive} cannot be read as a tar: {error}.",
            expected="the official archive, whole.",
            hint="copy or load it again.",
        ) from error


def _image(member: tarfile.TarInfo, wnid: str) -> Iterator[Item]:
    name = Path(member.name).name
    if member.isfile() and is_image(name):
        yield Item(wnid, name, member.size, member.offset_data)


def words_of(path: Path) -> dict[str, str]:
    """The words of each WNID, where the development kit is at hand."""
    return _kit(path / DEVKIT)[1] if (path / DEVKIT).is_file() else {}


def _kit(path: Path) -> tuple[list[str], dict[str, str]]:
    """From the development kit: the WNID of each validation image, in order, and the words of each WNID."""
    from scipy.io import loadmat

    try:
        with tarfile.open(path, "r:gz") as kit:
            found = {
                wanted: kit.extractfile(member).read()  # type: ignore[union-attr]
                for member in kit
                for wanted in (TRUTH, SYNSETS)
                if member.name.endswith(wanted)
            }
        rows = loadmat(io.BytesIO(found[SYNSETS]), squeeze_me=True)["synsets"]  # type: ignore[arg-type]
        leaves = [row for row in rows if int(row[4]) == 0]  # row[4]: how many children; inner nodes have some
        wnid_of = {int(row[0]): str(row[1]) for row in leaves}
        words = {str(row[1]): str(row[2]).split(",")[0] for row in leaves}
        return [wnid_of[int(line)] for line in found[TRUTH].split()], words
    except Exception as error:  # tarfile, zlib and scipy raise a dozen kinds on damaged input
        raise RequestError(
            f"{path} cannot be read: {type(error).__name__}: {error}.",
            expected=f"the official development kit, with {TRUTH} and {SYNSETS}.",
            hint="copy or load it again.",
        ) from error


def _wrong(path: Path, what: str) -> RequestError:
    return RequestError(
        f"{path} is not ImageNet: {what}.", expected=EXPECTED, hint="give its folder: --from DIR."
    )
