"""What lies where in a folder of images: classes, files, parts; nothing is opened yet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfkd_cli.data.images import SUFFIXES
from tfkd_cli.errors import RequestError

# the parts, and the folder names they go by
TRAIN, VAL, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
EXPECTED = "train/CLASS/* and test/CLASS/*, or CLASS/* alone, with images and at least two classes."


@dataclass(frozen=True)
class Layout:
    """The images of a folder, sorted by name; `parts` is None where they still have to be split."""

    root: Path
    classes: tuple[str, ...]  # sorted
    files: list[str]  # relative to root
    labels: list[int]
    parts: Mapping[str, Sequence[int]] | None  # positions in `files`
    notes: tuple[str, ...] = ()

    def stamp(self) -> str:
        """sha256 over names, sizes, times and notes: equal stamps, equal content."""
        digest = hashlib.sha256(repr(self.notes).encode())
        for file in self.files:
            try:
                found = os.stat(os.path.join(self.root, file))  # noqa: PTH116, PTH118  five times faster
            except OSError as error:
                raise _closed(self.root / file, error) from error
            digest.update(os.fsencode(file) + b"\0%d:%d;" % (found.st_size, found.st_mtime_ns))
        return digest.hexdigest()


def survey(root: Path) -> Layout:
    """The layout of `root`; RequestError when it is none, or a link leads out of it."""
    if not root.is_dir():
        raise RequestError(f"{str(root)!r} is not a folder.", expected=EXPECTED)
    folders = {folder.name.lower(): folder for folder in _folders(root, root)}
    named = {
        part: next((folders[name] for name in names if name in folders), None)
        for part, names in (("train", TRAIN), ("val", VAL), ("test", TEST))
    }
    train = named["train"]
    if train is None or not _folders(train, root):  # "train" may be a class, beside "bus" and "car"
        return _unsplit(root)
    return _with_parts(root, {part: folder for part, folder in named.items() if folder is not None})


def _unsplit(root: Path) -> Layout:
    images = _images(root, root)
    classes = tuple(sorted(images))
    if len(classes) < 2:
        raise _too_few(root, classes)
    files = [file for name in classes for file in images[name]]
    labels = [label for label, name in enumerate(classes) for _ in images[name]]
    return Layout(root, classes, files, labels, None, _aside(root, classes))


def _too_few(root: Path, classes: Sequence[str]) -> RequestError:
    loose = sum(_suffix(entry) in SUFFIXES for entry in _entries(root))
    return RequestError(
        f"{str(root)!r} holds {len(classes)} class folder{'s' * (len(classes) != 1)}"
        + (f", and {loose:,} images beside." if loose else "."),
        expected=EXPECTED,
        hint="give each class a folder of its own, named as the class, and move its images there.",
    )


def _aside(root: Path, folders: Sequence[str]) -> tuple[str, ...]:
    """A note on files in class folders that are no images by their ending, as .heic and .mp4."""
    files = [entry for name in folders for entry in _entries(root / name) if _suffix(entry) not in SUFFIXES]
    if not files:
        return ()
    endings = sorted({_suffix(entry) or "none" for entry in files})
    return (f"left aside, no known image ending: {len(files):,} ({', '.join(endings[:5])})",)


def _with_parts(root: Path, folders: Mapping[str, Path]) -> Layout:
    images = {part: _images(folder, root) for part, folder in folders.items()}
    notes: list[str] = []
    if "test" not in images:
        if "val" not in images:
            raise RequestError(
                f"{str(root)!r} has a train folder and no test folder.",
                expected=EXPECTED,
                hint=f"folder:{folders['train']} has it split 70/15/15.",
            )
        images["test"] = images.pop("val")
        notes.append(f"tested on {folders['val'].name}/, there is no test folder")
    classes = tuple(sorted(images["train"]))
    if len(classes) < 2:
        raise RequestError(f"{str(root)!r} has {len(classes)} class folders in train.", expected=EXPECTED)
    files: list[str] = []
    labels: list[int] = []
    parts = {}
    for part, of_class in images.items():
        _check_classes(part, of_class, classes)
        start = len(files)
        for name in sorted(of_class):
            files += of_class[name]
            labels += [classes.index(name)] * len(of_class[name])
        parts[part] = range(start, len(files))
        absent = sorted(set(classes) - set(of_class))
        if absent:
            notes.append(f"{part} has no images of {len(absent)} of {len(classes)} classes: {_some(absent)}")
        notes += _aside(folders.get(part, root), sorted(of_class)) if part in folders else ()
    return Layout(root, classes, files, labels, parts, tuple(notes))


def _check_classes(part: str, of_class: Mapping[str, list[str]], classes: Sequence[str]) -> None:
    unknown = sorted(set(of_class) - set(classes))
    if unknown:
        raise RequestError(
            f"{part} has a class that train lacks: {_some(unknown)}.",
            expected=f"the classes of train: {_some(classes)}.",
            hint="add training images of it, or take it out.",
        )
    if not of_class:
        raise RequestError(f"{part} has no class folders.", expected=EXPECTED)


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:5]) + (", …" if len(names) > 5 else "")


def _images(folder: Path, root: Path) -> dict[str, list[str]]:
    """Relative names of the images of each class folder, sorted; an empty class is an error."""
    images = {}
    for each in _folders(folder, root):
        prefix = str(each.relative_to(root))
        files = sorted(f"{prefix}/{entry.name}" for entry in _entries(each) if _is_image(entry, root))
        if not files:
            raise RequestError(
                f"class folder {prefix!r} holds no images.",
                expected=f"images ({', '.join(sorted(SUFFIXES))}) directly inside.",
                hint="remove the folder if it is no class.",
            )
        images[each.name] = files
    return images


def _is_image(entry: os.DirEntry[str], root: Path) -> bool:
    if entry.is_symlink():
        _refuse_outside(Path(entry.path), root)
    if entry.is_dir():
        raise RequestError(
            f"class folders hold images only: {str(Path(entry.path).relative_to(root))!r} is a folder.",
            expected="images directly inside class folders.",
            hint="move the images up, or the folder away.",
        )
    return _suffix(entry) in SUFFIXES


def _suffix(entry: os.DirEntry[str]) -> str:
    return os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  ten times faster


def _folders(folder: Path, root: Path) -> list[Path]:
    """The folders directly inside, hidden ones aside, sorted by name."""
    found = []
    for entry in _entries(folder):
        if entry.is_symlink():
            _refuse_outside(Path(entry.path), root)
        if entry.is_dir():
            found.append(Path(entry.path))
    return sorted(found)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies directly inside, hidden entries aside."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise _closed(folder, error) from error


def _closed(path: Path, error: OSError) -> RequestError:
    return RequestError(
        f"{str(path)!r} cannot be read: {error.strerror}.",
        expected="folders and images this user may read.",
        hint="check its permissions, or take it out of the folder.",
    )


def _refuse_outside(link: Path, root: Path) -> None:
    if not link.resolve().is_relative_to(root.resolve()):
        raise RequestError(
            f"{str(link)!r} is a link that leads out of the folder.",
            expected="files inside the folder, so that its content is its own.",
            hint="copy what it points to.",
        )
