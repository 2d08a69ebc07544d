"""Tiny-ImageNet-200: its official zip, or anything in its layout under a name of its own.

Trained on `train/`, tested on `val/` (the labels of `test/` were never published). Labels of the validation
images come from val_annotations.txt only. The official content is the zip with the published md5; all else,
a sample or an unpacked folder that nobody can check, is `tiny-imagenet@<12 hex>` and never mixed with it.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli.data import cache as caches
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.download import load_file
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.images import SUFFIXES, Look, decode_all, naming_all, parallel
from tfkd_cli.data.images import decode as decode_image
from tfkd_cli.data.reader import Progress
from tfkd_cli.data.trees import FolderTree, Tree, ZipTree, has_md5, stamp
from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5, BYTES = "90528d7ca1a48142e341f4ef8d21d0de", 248_100_043
ZIP, FOLDER = "tiny-imagenet-200.zip", "tiny-imagenet-200"
OFFICIAL_COUNTS = (200, 500, 50)  # classes, training and validation images of each
LOOK = Look(size=64, channels=3)  # grey-scale JPEGs become RGB

DOWNLOAD: str | None = "tiny-imagenet-200.zip from cs231n.stanford.edu, 248 MB"

Item = tuple[str, int]  # file name, label


@dataclass(frozen=True)
class Contents:
    """What a tree in the official layout holds."""

    tree: Tree
    wnids: tuple[str, ...]  # sorted, as ImageFolder of the released loader numbers them
    train: list[Item]
    val: list[Item]


def locate(places: Sequence[Path], facts: DataSet) -> Path | None:
    """The zip, or the unpacked folder."""
    for place in places:
        if place.is_file():
            return place
        for candidate in (place / ZIP, place / FOLDER, place):
            if candidate.is_file() or (candidate / "wnids.txt").is_file():
                return candidate
    return None


def identify(path: Path, facts: DataSet, *, cache: Path) -> DataSet:
    """The official facts for the official zip, else those of what is there, named by its content."""
    known = caches.remembered(cache, path, _stamp(path), lambda: _identify(path, facts).to_json())
    return DataSet.from_json(known)


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """Training and validation part; the validation part is what is tested on."""
    contents = read_contents(path)

    def one(item: Item) -> NDArray[uint8]:
        return decode_image(contents.tree.read(item[0]), LOOK, name=item[0])

    with naming_all([*contents.train, *contents.val], one):
        for part, items in (("train", contents.train), ("test", contents.val)):
            images = decode_all(items, one, what=f"decoding {part}", progress=progress)
            draft.write(part, images, [label for _, label in items])
    draft.class_names = _class_names(contents)
    return facts


def fetch(facts: DataSet, folder: Path) -> Path:
    """The official zip, md5 checked."""
    return load_file(URL, folder, md5=MD5)


def read_contents(path: Path) -> Contents:
    """The images and labels of a zip or folder; RequestError when it is not in the official layout."""
    tree = _tree(path)
    names = tree.names()
    if "wnids.txt" not in names or "val/val_annotations.txt" not in names:
        raise _wrong_layout(path, "no wnids.txt or val/val_annotations.txt in it")
    wnids = tuple(sorted(set(_lines(tree, "wnids.txt"))))
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    train = [
        (name, labels[parts[1]])
        for name in names
        if len(parts := name.split("/")) == 4 and parts[0] == "train" and parts[2] == "images"
        if parts[1] in labels and _is_image(name)
    ]
    val = _validation(tree, [name for name in names if name.startswith("val/images/")], labels)
    missing = set(range(len(wnids))) - {label for _, label in train}
    if missing or not val:
        what = f"no training image of {wnids[min(missing)]}" if missing else "no validation image"
        raise _wrong_layout(path, what)
    return Contents(tree, wnids, train, val)


def _validation(tree: Tree, names: Sequence[str], labels: Mapping[str, int]) -> list[Item]:
    """The validation images with the labels of val_annotations.txt: each image exactly one."""
    wnid_of = {}
    for line in _lines(tree, "val/val_annotations.txt"):
        image, wnid, *_ = [*line.split("\t"), ""]
        if wnid not in labels:
            raise RequestError(f"val_annotations.txt: {image!r} has the unknown class {wnid[:40]!r}.")
        wnid_of[f"val/images/{image}"] = wnid
    images = [name for name in names if _is_image(name)]
    odd = sorted(set(images) ^ set(wnid_of))
    if odd:
        raise RequestError(
            f"val_annotations.txt and val/images differ in {len(odd)} names, the first is {odd[0]!r}.",
            expected="a label for each validation image, and an image for each label.",
            hint="labels are never guessed from folders; use the official zip.",
        )
    return [(name, labels[wnid_of[name]]) for name in images]


def _identify(path: Path, facts: DataSet) -> DataSet:
    contents = read_contents(path)
    counts = _counts(contents)
    if path.is_file() and has_md5(path, MD5, size=BYTES):
        if counts != OFFICIAL_COUNTS:
            raise _wrong_layout(path, f"the official md5, but {counts} classes and images of each")
        return facts
    unchecked = counts == OFFICIAL_COUNTS
    return replace(
        facts,
        name=f"{facts.name}@{_fingerprint(contents)[:12]}",
        label=f"{facts.label} ({'unchecked full copy' if unchecked else 'sample'})",
        classes=len(contents.wnids),
        train_images=len(contents.train),
        test_images=len(contents.val),
        source=f"{path.name}, in the layout of {ZIP}",
        full=False,
        unchecked=unchecked,
        notes=(_origin_note(contents, unchecked=unchecked),),
    )


def _origin_note(contents: Contents, *, unchecked: bool) -> str:
    counts = (
        f"{len(contents.train):,} training and {len(contents.val):,} validation images of "
        f"{len(contents.wnids)} classes"
    )
    if unchecked:
        return f"an unchecked full copy: {counts} as in {ZIP}, but only that file's md5 is known to us"
    return f"not the official {ZIP} (md5): {counts}"


def _counts(contents: Contents) -> tuple[int, int, int]:
    """Classes, training and validation images of each; 0 where classes differ."""
    per_class = []
    for items in (contents.train, contents.val):
        counts = Counter(label for _, label in items)
        alike = len(counts) == len(contents.wnids) and len(set(counts.values())) == 1
        per_class.append(counts[0] if alike else 0)
    return len(contents.wnids), per_class[0], per_class[1]


def _fingerprint(contents: Contents) -> str:
    """sha256 over classes, labels and bytes: the same for a zip and for the folder it unpacks to."""
    items = [*contents.train, *contents.val]
    digest = hashlib.sha256(" ".join(contents.wnids).encode())
    position = 0
    for hashes in parallel(lambda item: hashlib.sha256(contents.tree.read(item[0])).digest(), items):
        for each in hashes:
            name, label = items[position]
            digest.update(f"{name}\0{label}\0".encode(errors="surrogateescape") + each)
            position += 1
    return digest.hexdigest()


def _stamp(path: Path) -> str:
    """Size and time of the zip, or of every file of the folder."""
    if path.is_file():
        return stamp(path)
    stamps = "\n".join(stamp(path / name) for name in FolderTree(path).names())
    return hashlib.sha256(os.fsencode(stamps)).hexdigest()


def _tree(path: Path) -> Tree:
    if path.is_dir():
        return FolderTree(path)
    tree = ZipTree(path)
    tops = [name for name in tree.names() if name.endswith("wnids.txt")]
    if not tops:
        raise _wrong_layout(path, "no wnids.txt in it")
    return tree.below(min(tops, key=len).removesuffix("wnids.txt"))


def _class_names(contents: Contents) -> tuple[str, ...]:
    """`n02124075 Egyptian cat`; the number alone where words.txt has no word."""
    if "words.txt" not in contents.tree.names():
        return contents.wnids
    lines = (line.split("\t") for line in _lines(contents.tree, "words.txt"))
    words = {parts[0]: parts[1].split(",")[0] for parts in lines if len(parts) > 1}
    return tuple(f"{wnid} {words.get(wnid, '')}".strip() for wnid in contents.wnids)


def _lines(tree: Tree, name: str) -> list[str]:
    return [line for line in tree.read(name).decode(errors="replace").splitlines() if line.strip()]


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _wrong_layout(path: Path, what: str) -> RequestError:
    return RequestError(
        f"{path} is not Tiny-ImageNet: {what}.",
        expected=f"{ZIP}, or its layout: wnids.txt, train/WNID/images/, val/images/ and val_annotations.txt.",
        hint="`tfkd data tiny-imagenet --from ZIP` with the file of cs231n.stanford.edu.",
    )
