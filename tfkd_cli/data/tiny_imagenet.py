"""Tiny-ImageNet-200: its official zip, or anything in its layout under a name of its own.

Trained on `train/`, tested on `val/` (the labels of `test/` were never published). Labels of the validation
images come from val_annotations.txt only. The official content is the zip with the published md5; all else,
a sample or an unpacked folder that nobody can check, is `tiny-imagenet@<12 hex>` and never mixed with it.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfkd_cli.data import cache as caches
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.download import load_file
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.files import read_file, stamp
from tfkd_cli.data.images import MAX_BYTES, Look, parallel
from tfkd_cli.data.layout import Layout, is_image
from tfkd_cli.data.reader import Progress
from tfkd_cli.errors import RequestError

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5, BYTES = "90528d7ca1a48142e341f4ef8d21d0de", 248_100_043
ZIP, FOLDER = "tiny-imagenet-200.zip", "tiny-imagenet-200"
OFFICIAL_COUNTS = (200, 500, 50)  # classes, training and validation images of each
TRAINED = re.compile(r"train/([^/]+)/images/[^/]+")
LOOK = Look(size=64, channels=3)  # grey-scale JPEGs become RGB

DOWNLOAD: str | None = "tiny-imagenet-200.zip from cs231n.stanford.edu, 248 MB"


@dataclass(frozen=True, kw_only=True)
class _Contents(Layout):
    """What a folder or a zip in the official layout holds; classes are sorted as released."""

    words: Mapping[str, str]  # of each class
    read_name: Callable[[str], bytes]

    def read(self, position: int) -> bytes:
        return self.read_name(self.files[position])


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
    contents = _contents(path)
    contents.write(draft, contents.parts, LOOK, progress)
    draft.class_names = tuple(f"{wnid} {contents.words.get(wnid, '')}".strip() for wnid in contents.classes)
    return facts


def fetch(facts: DataSet, folder: Path) -> Path:
    """The official zip, md5 checked."""
    return load_file(URL, folder, md5=MD5)


def _contents(path: Path) -> _Contents:
    """The images and labels of a zip or folder; RequestError when it is not in the official layout."""
    names, read = _opened(path)
    if "wnids.txt" not in names or "val/val_annotations.txt" not in names:
        raise _wrong_layout(path, "no wnids.txt or val/val_annotations.txt in it")

    def lines(name: str) -> list[str]:
        return [line for line in read(name).decode(errors="replace").splitlines() if line.strip()]

    wnids = tuple(sorted(set(lines("wnids.txt"))))
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    images = [name for name in names if is_image(name)]
    matches = ((name, TRAINED.fullmatch(name)) for name in images)
    wnid_of = {name: found[1] for name, found in matches if found and found[1] in label_of}
    trained = [*wnid_of]
    val = [name for name in images if name.startswith("val/images/")]
    wnid_of |= _validation(lines("val/val_annotations.txt"), val, label_of)
    missing = sorted(set(wnids) - {wnid_of[name] for name in trained})
    if missing or not val:
        raise _wrong_layout(path, f"no training image of {missing[0]}" if missing else "no validation image")
    fields = [line.split("\t") for line in (lines("words.txt") if "words.txt" in names else [])]
    files = trained + val
    return _Contents(
        root=path,
        classes=wnids,
        files=files,
        labels=[label_of[wnid_of[file]] for file in files],
        parts={"train": range(len(trained)), "test": range(len(trained), len(files))},
        words={wnid: words[0].split(",")[0] for wnid, *words in fields if words},
        read_name=read,
    )


def _validation(lines: Sequence[str], images: Sequence[str], wnids: Collection[str]) -> dict[str, str]:
    """The class of each validation image, of which val_annotations.txt names exactly one."""
    wnid_of = {}
    for line in lines:
        image, wnid, *_ = [*line.split("\t"), ""]
        if wnid not in wnids:
            raise RequestError(f"val_annotations.txt: {image!r} has the unknown class {wnid[:40]!r}.")
        wnid_of[f"val/images/{image}"] = wnid
    odd = sorted(set(images) ^ set(wnid_of))
    if odd:
        raise RequestError(
            f"val_annotations.txt and val/images differ in {len(odd)} names, the first is {odd[0]!r}.",
            expected="a label for each validation image, and an image for each label.",
            hint="labels are never guessed from folders; use the official zip.",
        )
    return wnid_of


def _identify(path: Path, facts: DataSet) -> DataSet:
    contents = _contents(path)
    counts = _counts(contents)
    if _official(path):
        if counts != OFFICIAL_COUNTS:
            raise _wrong_layout(path, f"the official md5, but {counts} classes and images of each")
        return facts
    unchecked = counts == OFFICIAL_COUNTS
    train, test = (len(contents.parts[part]) for part in ("train", "test"))
    found = f"{train:,} training and {test:,} validation images of {len(contents.classes)} classes"
    note = (
        f"an unchecked full copy: {found} as in {ZIP}, but only that file's md5 is known to us"
        if unchecked
        else f"not the official {ZIP} (md5): {found}"
    )
    return contents.facts(
        facts,
        _fingerprint(contents)[:12],
        contents.parts,
        label=f"{facts.label} ({'unchecked full copy' if unchecked else 'sample'})",
        source=f"{path.name}, in the layout of {ZIP}",
        full=False,
        unchecked=unchecked,
        notes=(note,),
    )


def _official(path: Path) -> bool:
    """Whether this is the zip of the md5 that its publisher names; hashed only at the right size."""
    if not path.is_file() or path.stat().st_size != BYTES:
        return False
    from torchvision.datasets.utils import check_integrity

    return bool(check_integrity(str(path), MD5))


def _counts(contents: _Contents) -> tuple[int, int, int]:
    """Classes, training and validation images of each; 0 where classes differ."""
    per_class = []
    for part in ("train", "test"):
        counts = Counter(contents.labels[position] for position in contents.parts[part])
        alike = len(counts) == len(contents.classes) and len(set(counts.values())) == 1
        per_class.append(counts[0] if alike else 0)
    return len(contents.classes), per_class[0], per_class[1]


def _fingerprint(contents: _Contents) -> str:
    """sha256 over classes, labels and bytes: the same for a zip and for the folder it unpacks to."""
    digest = hashlib.sha256(" ".join(contents.classes).encode())
    positions = range(len(contents.files))
    hashed = parallel(lambda position: hashlib.sha256(contents.read(position)).digest(), positions)
    hashes = (each for block in hashed for each in block)
    for name, label, each in zip(contents.files, contents.labels, hashes, strict=True):
        digest.update(f"{name}\0{label}\0".encode(errors="surrogateescape") + each)
    return digest.hexdigest()


def _stamp(path: Path) -> str:
    """Size and time of the zip, or of every file of the folder."""
    if path.is_file():
        return stamp(path)
    stamps = "\n".join(stamp(path / name) for name in _opened(path)[0])
    return hashlib.sha256(os.fsencode(stamps)).hexdigest()


def _opened(path: Path) -> tuple[list[str], Callable[[str], bytes]]:
    """The names of the files of a folder or zip, sorted, and what reads one of them; nothing is unpacked."""
    if path.is_dir():
        files = (each for each in path.rglob("*") if each.is_file())
        return sorted(each.relative_to(path).as_posix() for each in files), lambda name: read_file(
            path / name
        )
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise RequestError(
            f"{path} cannot be read as a zip: {error}.",
            expected="a zip file that is whole.",
            hint="load or copy it again.",
        ) from error
    inside = [name for name in archive.namelist() if not name.endswith("/")]
    tops = [name.removesuffix("wnids.txt") for name in inside if name.endswith("wnids.txt")]
    if not tops:
        raise _wrong_layout(path, "no wnids.txt in it")
    top = min(tops, key=len)

    def read(name: str) -> bytes:
        """Called from many threads: `ZipFile.read` locks."""
        try:
            info = archive.getinfo(top + name)
            if info.file_size > MAX_BYTES:
                raise ValueError(f"it unpacks to {info.file_size:,} bytes")
            return archive.read(info)
        except Exception as error:  # zipfile and zlib raise a dozen kinds on damaged input
            raise RequestError(
                f"{path}: {name!r} cannot be read: {error}.", hint="load or copy it again."
            ) from error

    return sorted(name.removeprefix(top) for name in inside if name.startswith(top)), read


def _wrong_layout(path: Path, what: str) -> RequestError:
    return RequestError(
        f"{path} is not Tiny-ImageNet: {what}.",
        expected=f"{ZIP}, or its layout: wnids.txt, train/WNID/images/, val/images/ and val_annotations.txt.",
        hint="`tfkd data tiny-imagenet --from ZIP` with the file of cs231n.stanford.edu.",
    )
