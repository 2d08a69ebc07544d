"""What a folder holds of ImageNet (ILSVRC 2012), as official archives or as a tree; nothing is decoded.

Both give the same `Contents`: classes are the sorted WNIDs, as torchvision numbers them, and the images of
each part are sorted by class and name. What is hidden is left aside; all else that is odd is named.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

from tfkd_cli.data.image_files import A_FILE
from tfkd_cli.data.images import SUFFIXES, workers
from tfkd_cli.data.layout import SKIPPED
from tfkd_cli.data.reader import Progress
from tfkd_cli.data.trees import stamp
from tfkd_cli.errors import RequestError
from tfkd_cli.regular_files import open_regular

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
ARCHIVES = {"train": TRAIN, "val": VAL}
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH, SYNSETS = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
NUMBERED = re.compile(r"(\d+)\.[^.]*$")  # ILSVRC2012_val_00000001.JPEG has the first label of the kit
EXPECTED = f"{TRAIN}, {VAL} and {DEVKIT} in one folder, or train/WNID/*.JPEG and val/WNID/*.JPEG."


class Item(NamedTuple):
    """An image of one part."""

    wnid: str
    name: str
    size: int  # in bytes
    offset: int = A_FILE  # in the archive


@dataclass(frozen=True)
class Choice:
    """Which of the sorted classes are taken, and how many images of each, the first by name."""

    classes: Callable[[Sequence[str]], Sequence[str]] = tuple
    train: int | None = None
    val: int | None = None


ALL = Choice()


@dataclass(frozen=True)
class Contents:
    """What was found, each part sorted by class and name."""

    classes: tuple[str, ...]  # sorted
    parts: dict[str, list[Item]]  # "train" and "val"
    words: dict[str, str] = field(default_factory=dict)  # of each class, where the development kit is there
    aside: tuple[str, ...] = ()  # of a tree, what lies in the folders of classes and is no image

    @property
    def names(self) -> list[str]:
        """Of all images: train/WNID/NAME and val/WNID/NAME."""
        return [f"{part}/{item.wnid}/{item.name}" for part, items in self.parts.items() for item in items]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of odd files and classes, each named."""
        names, odd = self.names, re.compile(r"train/(?!(n\d{8})/\1_)[^/]+/n\d{8}_.*", re.DOTALL)
        sizes = [item.size for items in self.parts.values() for item in items]
        tested = {item.wnid for item in self.parts["val"]}
        found = {
            "WARNING: files named after another class than that of their folder, whose label they have "
            "here": [name for name in names if odd.fullmatch(name)],
            "WARNING: empty files": [name for name, size in zip(names, sizes, strict=True) if not size],
            "classes without validation images": [each for each in self.classes if each not in tested],
            "left aside in the folders of classes, no images": self.aside,
        }
        return tuple(f"{what}: {len(of):,} (the first: {of[0]!r})" for what, of in found.items() if of)

    def digest(self) -> str:
        """sha256 over names and sizes: the same for the archives and for the tree they unpack to."""
        digest = hashlib.sha256()
        for part, items in self.parts.items():
            for item in items:
                digest.update(os.fsencode(f"{part}/{item.wnid}/{item.name}\0{item.size}\n"))
        return digest.hexdigest()


_last: dict[object, Contents] = {}
"""The last listing of this process: an index is written of what was identified a moment ago."""


def forget() -> None:
    """Free the memory of the last listing, of up to 1.3 million images."""
    _last.clear()


def listed(path: Path, progress: Progress, choice: Choice = ALL) -> Contents:
    """What is at `path`; RequestError when it is not ImageNet, or an archive is damaged."""
    key = (path, stamp_of(path), choice)
    if key not in _last:
        _last.clear()
        _last[key] = (_archives if has_archives(path) else _tree)(path, progress, choice)
        _check(_last[key], path)
    return _last[key]


def _check(contents: Contents, path: Path) -> None:
    trained, tested = ({item.wnid for item in items} for items in contents.parts.values())
    if len(contents.classes) < 2 or not tested:
        raise wrong(
            path, f"{len(contents.classes)} classes of training images, {len(tested)} of validation images"
        )
    if empty := sorted({*contents.classes, *tested} - trained):
        raise wrong(path, f"the class {empty[0]!r} has no training images")


def stamp_of(path: Path) -> str:
    """Size and time of the archives, or of the folder of each class: a file that is added changes it."""
    if has_archives(path):
        if missing := [each for each in (VAL, DEVKIT) if not (path / each).is_file()]:
            raise wrong(path, f"{TRAIN} without {missing[0]}")
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
        found = _entries(path / part)
        if not found.folders:
            images = f", but {len(found.images):,} images" if found.images else ""
            return f"{part}/ has no folders of classes{images}"
    return "train/ and val/ have no class in common"


def classes_of(root: Path, part: str) -> list[str]:
    """The folders of classes of a part, sorted; none where there is no such part."""
    with contextlib.suppress(OSError):
        return [each.name for each in _entries(root / part).folders]
    return []


class _Entries(NamedTuple):
    """What is in a folder, by name; what is hidden or of a file manager is not."""

    folders: list[os.DirEntry[str]]
    images: list[os.DirEntry[str]]  # by their names
    others: list[os.DirEntry[str]]


def _entries(folder: Path) -> _Entries:
    sorted_out = _Entries([], [], [])
    with os.scandir(folder) as found:
        for each in sorted(found, key=lambda each: each.name):
            if each.is_dir():
                kind = sorted_out.folders
            else:
                kind = sorted_out.images if _is_image(each.name) and each.is_file() else sorted_out.others
            if each.name[0] != "." and each.name.lower() not in SKIPPED:
                kind.append(each)
    return sorted_out


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and name[0] != "."  # noqa: PTH122  ten times faster


def _tree(path: Path, progress: Progress, choice: Choice) -> Contents:
    """Folders are listed by several threads, for network drives answer slowly."""
    trained = classes_of(path, "train")
    classes = tuple(choice.classes(trained))
    tested = [each for each in classes_of(path, "val") if each in classes or each not in trained]
    parts: dict[str, list[Item]] = {}
    aside: list[str] = []
    with ThreadPoolExecutor(workers()) as pool:
        for part, folders in (("train", classes), ("val", tested)):
            parts[part], images = [], partial(_images, most=getattr(choice, part))
            listing = pool.map(images, [path / part / each for each in folders])
            for done, (items, others) in enumerate(listing, 1):
                parts[part] += items
                aside += [f"{part}/{each}" for each in others]
                progress(f"listing {part}: {len(parts[part]):,} images", done / len(folders))
    words = _kit(path / DEVKIT)[1] if (path / DEVKIT).is_file() else {}
    return Contents(classes, parts, words, tuple(aside))


def _images(folder: Path, most: int | None) -> tuple[list[Item], list[str]]:
    """The first images of one class by name, and what else is there."""
    try:
        found = _entries(folder)
        items = [Item(folder.name, each.name, each.stat().st_size) for each in found.images[:most]]
    except OSError as error:
        raise RequestError(
            f"{error.filename or folder} cannot be read: {error.strerror}.",
            expected="folders and images that you may read.",
            hint="check its permissions, or a link that leads nowhere.",
        ) from error
    return items, [f"{folder.name}/{each.name}" for each in (*found.folders, *found.others)]


def _archives(path: Path, progress: Progress, choice: Choice) -> Contents:
    wnids, words = _kit(path / DEVKIT)
    train = sorted(_members(path / TRAIN, progress, inner=True))
    val = list(_members(path / VAL, progress, inner=False))
    numbers = [int(found[1]) if (found := NUMBERED.search(item.name)) else 0 for item in val]
    if sorted(numbers) != [*range(1, len(wnids) + 1)]:
        raise wrong(
            path, f"{VAL} holds {len(val):,} images, not those numbered 1 to {len(wnids):,} of {DEVKIT}"
        )
    labelled = [item._replace(wnid=wnids[number - 1]) for item, number in zip(val, numbers, strict=True)]
    trained = sorted({item.wnid for item in train})
    classes = tuple(choice.classes(trained))
    left_out = set(trained) - set(classes)
    train, val = (
        [
            item
            for wnid, of_class in groupby(items, key=lambda item: item.wnid)
            if wnid not in left_out
            for item in islice(of_class, most)
        ]
        for items, most in ((train, choice.train), (sorted(labelled), choice.val))
    )
    return Contents(classes, {"train": train, "val": val}, words)


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
    if member.isfile() and _is_image(name):
        yield Item(wnid, name, member.size, member.offset_data)


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


def wrong(path: Path, what: str) -> RequestError:
    return RequestError(
        f"{path} is not ImageNet: {what}.", expected=EXPECTED, hint="give its folder: --from DIR."
    )
