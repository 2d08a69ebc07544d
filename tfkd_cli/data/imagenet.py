"""ImageNet (ILSVRC 2012), read in place: its official archives, or train/WNID/*.JPEG and val/WNID/*.JPEG.

Nothing is unpacked or copied. The cache holds an index: the name, size, label and, in an archive, the offset
of each image. Classes are the sorted WNIDs, as torchvision numbers them. Tested on the validation part.

The 150 GB are not hashed, which would take an hour or two. The name `imagenet` is given to what has the
official classes and counts and whose files add up to the size of the official archives; an image of another
size is found there, one with other bytes of the same size is not. All else is `imagenet@<12 hex>`, by the
names and sizes of the files. When an image is read later, its size must still be that of the index.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from tfkd_cli.data import cache as caches
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.facts import IMAGENET, DataSet
from tfkd_cli.data.image_files import A_FILE, entries
from tfkd_cli.data.images import SUFFIXES, workers
from tfkd_cli.data.reader import Progress, silent
from tfkd_cli.data.trees import stamp
from tfkd_cli.errors import RequestError
from tfkd_cli.regular_files import open_regular

DOWNLOAD: str | None = None
TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
TRUTH, SYNSETS = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"
ARCHIVE_BYTES = {"train": 147_897_477_120, "val": 6_744_924_160}  # the official archives
PER_CLASS = {"train": range(732, 1_301), "val": range(50, 51)}
BLOCK, RECORD = 512, 10_240  # a tar pads each file to a block, and itself to a record
TOLERANCE = 1_000 * RECORD  # of a size that is calculated from files: how archives of classes were padded
FOLDERS = ("", "imagenet", "ILSVRC2012")  # below a folder of official files
EXPECTED = f"{TRAIN}, {VAL} and {DEVKIT} in one folder, or train/WNID/*.JPEG and val/WNID/*.JPEG."


class Item(NamedTuple):
    """An image of one part."""

    wnid: str
    name: str
    size: int  # in bytes
    offset: int = A_FILE  # in the archive


@dataclass(frozen=True)
class Contents:
    """What was found, each part sorted by class and name."""

    classes: tuple[str, ...]  # sorted
    parts: dict[str, list[Item]]  # "train" and "val"
    words: dict[str, str] = field(default_factory=dict)  # of each class, where the development kit is there

    def digest(self) -> str:
        """sha256 over names and sizes: the same for the archives and for the tree they unpack to."""
        digest = hashlib.sha256()
        for part, items in self.parts.items():
            for item in items:
                digest.update(os.fsencode(f"{part}/{item.wnid}/{item.name}\0{item.size}\n"))
        return digest.hexdigest()


def locate(places: Sequence[Path], facts: DataSet) -> Path | None:
    """The folder of the archives, or the one with train/ and val/ that have a class in common."""
    for place in places:
        for candidate in (place / each for each in FOLDERS):
            if has_archives(candidate) or set(_classes(candidate, "train")) & set(_classes(candidate, "val")):
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
    archives = {"train": TRAIN, "val": VAL} if has_archives(path) else {"train": "", "val": ""}
    for part, items in contents.parts.items():
        names = [os.fsencode(f"{part}/{item.wnid}/{item.name}") for item in items]
        index_N = entries(names, [item.size for item in items], [item.offset for item in items])
        draft.write_index(
            "train" if part == "train" else "test",
            index_N,
            [labels[item.wnid] for item in items],
            archive=archives[part],
        )
    draft.class_names = tuple(f"{wnid} {contents.words.get(wnid, '')}".strip() for wnid in contents.classes)
    _last.clear()
    return facts


def fetch(facts: DataSet, folder: Path) -> Path:
    """Its terms of use forbid to load it without an account."""
    raise RequestError(
        "ImageNet cannot be downloaded without an account.",
        expected=EXPECTED,
        hint="load it from image-net.org, then `tfkd data imagenet --from DIR`.",
    )


_last: dict[tuple[Path, str], Contents] = {}
"""The last listing of this process: an index is written of what was identified a moment ago."""


def listed(path: Path, progress: Progress) -> Contents:
    """What is at `path`; RequestError when it is not ImageNet, or an archive is damaged."""
    key = (path, stamp_of(path))
    if key not in _last:
        _last.clear()
        _last[key] = _archives(path, progress) if has_archives(path) else _tree(path, progress)
        _check(_last[key], path)
    return _last[key]


def _identify(contents: Contents, facts: DataSet) -> DataSet:
    train, val = contents.parts["train"], contents.parts["val"]
    digest, counted = contents.digest(), _has_official_counts(contents)
    empty = sum(item.size == 0 for items in contents.parts.values() for item in items)
    notes = (f"WARNING: {empty:,} of its files are empty",) if empty else ()
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


def _check(contents: Contents, path: Path) -> None:
    trained, tested = ({item.wnid for item in items} for items in contents.parts.values())
    if len(trained) < 2 or not tested:
        raise _wrong(
            path, f"{len(trained)} classes with training images, {len(tested)} with validation images"
        )
    if unknown := sorted(tested - trained):
        raise _wrong(path, f"validation images of {unknown[0]!r}, a class without training images")


def stamp_of(path: Path) -> str:
    """Size and time of the archives, or of the folder of each class: a file that is added changes it."""
    if has_archives(path):
        if missing := [each for each in (VAL, DEVKIT) if not (path / each).is_file()]:
            raise _wrong(path, f"{TRAIN} without {missing[0]}")
        return "\n".join(stamp(path / each) for each in (TRAIN, VAL, DEVKIT))
    folders = (path / part / each for part in ("train", "val") for each in _classes(path, part))
    stamps = "\n".join(stamp(each) for each in folders)
    return hashlib.sha256(os.fsencode(stamps)).hexdigest()


def has_archives(path: Path) -> bool:
    """Whether the official archives are in this folder."""
    return (path / TRAIN).is_file()


def _classes(root: Path, part: str) -> list[str]:
    """The folders of classes of a part, sorted; none where there is no such part."""
    try:
        with os.scandir(root / part) as found:
            return sorted(each.name for each in found if each.is_dir() and each.name[0] != ".")
    except OSError:
        return []


def _tree(path: Path, progress: Progress) -> Contents:
    """Folders are listed by several threads, for network drives answer slowly."""
    parts: dict[str, list[Item]] = {}
    with ThreadPoolExecutor(workers()) as pool:
        for part in ("train", "val"):
            parts[part] = []
            classes = _classes(path, part)
            folders = [path / part / each for each in classes]
            for done, items in enumerate(pool.map(_images, folders), 1):
                parts[part] += items
                progress(f"listing {part}: {len(parts[part]):,} images", done / len(folders))
    classes = _classes(path, "train")
    words = _kit(path / DEVKIT)[1] if (path / DEVKIT).is_file() else {}
    return Contents(tuple(classes), parts, words)


def _images(folder: Path) -> list[Item]:
    """The images of one class, sorted by name."""
    try:
        with os.scandir(folder) as found:
            return sorted(
                Item(folder.name, each.name, each.stat().st_size)
                for each in found
                if _is_image(each.name) and each.is_file()
            )
    except OSError as error:
        raise RequestError(
            f"{error.filename or folder} cannot be read: {error.strerror}.",
            expected="folders and images that you may read.",
            hint="check its permissions, or a link that leads nowhere.",
        ) from error


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and name[0] != "."  # noqa: PTH122  ten times faster


def _archives(path: Path, progress: Progress) -> Contents:
    wnids, words = _kit(path / DEVKIT)
    train = sorted(_members(path / TRAIN, progress, inner=True))
    val = sorted(_members(path / VAL, progress, inner=False), key=lambda item: item.name)
    if len(val) != len(wnids):
        raise _wrong(path, f"{len(val):,} images in {VAL} and {len(wnids):,} labels in {DEVKIT}")
    labelled = sorted(item._replace(wnid=wnid) for item, wnid in zip(val, wnids, strict=True))
    classes = tuple(sorted({item.wnid for item in train}))
    return Contents(classes, {"train": train, "val": labelled}, words)


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


def _wrong(path: Path, what: str) -> RequestError:
    return RequestError(
        f"{path} is not ImageNet: {what}.", expected=EXPECTED, hint="give its folder: --from DIR."
    )
