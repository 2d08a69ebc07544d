"""What lies where in a folder of images: classes, files, parts; what is no such folder is refused."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from tfkd_cli.data.images import SUFFIXES
from tfkd_cli.data.layout import Entries, Layout, closed, entries_of, suffix
from tfkd_cli.errors import RequestError

# the parts, and the folder names they go by
PARTS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
# What folders that are no classes are called: test1, training_set, x_train, trainA, fold3, images, masks.
LIKE_A_PART = re.compile(
    r"([xy][ _.-]*)?"
    r"(train|training|trn|val|valid|validation|dev|eval|evaluation|test|testing|tst|unlabell?ed|holdout|folds?|"
    r"splits?|query|gallery|(jpeg)?(images?|imgs?)|masks?|labels?|annotations?|segmentation(class|object)?)"
    r"([ _.-]*(set|data|images?|imgs?|pics|photos|part|split|\d+|[ab]))*"
)
EXPECTED = "train/CLASS/* and test/CLASS/*, or CLASS/* alone, with images and at least two classes."
ARCHIVES = frozenset(
    (
        *(".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".lzma"),
        *(".7z", ".rar", ".iso"),
    )
)


def survey(root: Path, *, follow_links: bool = False, nested: bool = False) -> Layout:
    """The layout of `root`; RequestError when it is none.

    A link that leads out of `root` is refused unless `follow_links`, a folder in a class unless `nested`.
    """
    if not root.is_dir():
        raise no_folder(root)
    return _Survey(root, follow_links=follow_links, nested=nested).layout()


def images_below(folder: Path) -> list[Path]:
    """All images in a folder and in the folders inside it, sorted; links are followed."""
    walk = _Survey(folder, follow_links=True, nested=True)
    return sorted(Path(name) for name in walk.files_below(folder, str(folder)))


def no_folder(path: Path) -> RequestError:
    """What was given as a folder of images is an archive, another file or no file at all."""
    archive = path.suffix.lower() in ARCHIVES
    kind = "an archive" if archive else "a file" if path.is_file() else "a device, a pipe or a socket"
    return RequestError(
        f"{str(path)!r} is {kind}, not a folder.",
        expected=EXPECTED,
        hint="unpack it, then name the folder it unpacks to."
        if archive
        else "name the folder of the images.",
    )


@dataclass
class _Survey:
    """One walk through a folder: every folder is entered once, whatever links lead to it."""

    root: Path
    follow_links: bool
    nested: bool
    aside: Counter[str] = field(default_factory=Counter)  # suffix → files that are no images
    entered: set[tuple[int, int]] = field(default_factory=set)  # device and inode

    def layout(self) -> Layout:
        """The parts where there is a train folder with classes in it, else one body of classes."""
        folders = self._folders(self.root)
        named = {
            part: [each for each in folders if each.name.lower() in names] for part, names in PARTS.items()
        }
        # "train" may be a class, beside "bus" and "car"
        if not any(self._folders(each) for each in named["train"]):
            return self._unsplit(folders)
        for part, found in named.items():
            if len(found) > 1:
                raise RequestError(
                    f"{str(self.root)!r} has {len(found)} folders for {part}: "
                    f"{_some(each.name for each in found)}.",
                    expected=EXPECTED,
                    hint="keep one of them, or put their images together.",
                )
        return self._with_parts({part: found[0] for part, found in named.items() if found})

    def _unsplit(self, folders: Sequence[Path]) -> Layout:
        names = [each.name for each in folders]
        if len(names) == 1 and self._folders(folders[0]):
            raise RequestError(
                f"{str(self.root)!r} holds one folder, and that holds folders.",
                expected=EXPECTED,
                hint=f"name the inner one: folder:{folders[0]}.",
            )
        parts = [name for name in names if any(name.lower() in known for known in PARTS.values())]
        if names and (len(parts) > 1 or all(LIKE_A_PART.fullmatch(name.lower()) for name in names)):
            raise RequestError(
                f"{str(self.root)!r} has no class folders: {_some(parts if len(parts) > 1 else names)} are "
                "names of parts of a data set.",
                expected=EXPECTED,
                hint="call the parts train, val and test, each with a folder per class."
                if any(self._folders(each) for each in folders)
                else "sort the images into one folder per class (train/cat/1.jpg); names that begin with "
                "the class, and tables of labels, are not read.",
            )
        _refuse_alike({"": names})
        images = self._images(self.root)
        classes = tuple(sorted(images))
        if len(classes) < 2:
            raise self._too_few(self.root, classes)
        return replace(self._layout({"all": images}, self._notes([self.root])), parts={})

    def _too_few(self, folder: Path, classes: Sequence[str]) -> RequestError:
        _, images, others = self._entries(folder)
        beside = {
            "images": len(images),
            "archives": sum(suffix(each.name) in ARCHIVES for each in others),
        }
        found = "".join(f", and {count:,} {kind} beside" for kind, count in beside.items() if count)
        unpack = "unpack the archives; " * (beside["archives"] > 0)
        return RequestError(
            f"{str(folder)!r} holds {len(classes)} class folder{'s' * (len(classes) != 1)}{found}.",
            expected=EXPECTED,
            hint=f"{unpack}give each class a folder of its own, named as the class, with its images in it.",
        )

    def _with_parts(self, folders: Mapping[str, Path]) -> Layout:
        _refuse_alike({part: [each.name for each in self._folders(at)] for part, at in folders.items()})
        images = {part: self._images(folder) for part, folder in folders.items()}
        notes: list[str] = []
        if not {"test", "val"} & images.keys():
            raise RequestError(
                f"{str(self.root)!r} has a train folder and no test folder.",
                expected=EXPECTED,
                hint=f"folder:{folders['train']} has it split 70/15/15.",
            )
        if "test" not in images:
            images["test"] = images.pop("val")
            notes.append(f"tested on {folders['val'].name}/, there is no test folder")
        classes = tuple(sorted(images["train"]))
        if len(classes) < 2:
            raise self._too_few(folders["train"], classes)
        for part, of_class in images.items():
            _check_classes(part, of_class, classes, folders["train"])
            absent = sorted(set(classes) - set(of_class))
            if absent:
                notes.append(
                    f"{part} has no images of {len(absent)} of {len(classes)} classes: {_some(absent)}"
                )
        beside = [each.name for each in self._folders(self.root) if each not in folders.values()]
        if beside:
            notes.append(f"left aside, folders beside the parts: {_some(beside)}")
        notes += self._notes([self.root, *folders.values()])
        return self._layout(images, notes)

    def _layout(self, images: Mapping[str, Mapping[str, list[str]]], notes: Sequence[str]) -> Layout:
        """The layout of the images of each part and class; the first part has all classes."""
        classes = sorted(next(iter(images.values())))
        files: list[str] = []
        labels: list[int] = []
        parts = {}
        for part, of_class in images.items():
            start = len(files)
            for name in sorted(of_class):
                files += of_class[name]
                labels += [classes.index(name)] * len(of_class[name])
            parts[part] = range(start, len(files))
        return Layout(
            root=self.root,
            classes=tuple(classes),
            files=files,
            labels=labels,
            parts=parts,
            notes=tuple(notes),
        )

    def _notes(self, above: Sequence[Path]) -> list[str]:
        """What was not read as an image of a class, and the ways in which more was read than usually."""
        notes = []
        if self.aside:
            endings = ", ".join(sorted(self.aside)[:5])
            notes.append(f"left aside, no known image ending: {self.aside.total():,} ({endings})")
        if loose := sum(len(self._entries(folder).images) for folder in above):
            notes.append(f"left aside, images beside the class folders: {loose:,}")
        notes += ["links were followed"] * self.follow_links
        notes += ["folders inside a class were read as part of it"] * self.nested
        return notes

    def _images(self, folder: Path) -> dict[str, list[str]]:
        """Relative names of the images of each class folder, sorted; an empty class is an error."""
        images = {}
        for each in self._folders(folder):
            name = str(each.relative_to(self.root))
            images[each.name] = sorted(self.files_below(each, name))
            if not images[each.name]:
                others = sorted({suffix(entry.name) or "none" for entry in self._entries(each).others})
                endings = f", only files with other endings ({', '.join(others[:5])})" if others else ""
                raise RequestError(
                    f"class folder {name!r} holds no images{endings}.",
                    expected=f"images ({', '.join(sorted(SUFFIXES))}) directly inside.",
                    hint="remove the folder if it is no class; convert files of other formats.",
                )
        return images

    def files_below(self, folder: Path, name: str) -> list[str]:
        """The images of one class, their names beginning with `name`; whatever else it holds is counted."""
        found, waiting = [], [(folder, name)]
        while waiting:
            folder, name = waiting.pop()
            entries = self._entries(folder)
            self._enter(folder)
            found += [f"{name}/{each.name}" for each in entries.images]
            self.aside.update(suffix(each.name) or "none" for each in entries.others)
            for each in entries.folders:
                part = any(each.name.lower() in names for names in PARTS.values())
                if part or not self.nested:
                    raise RequestError(
                        f"{f'{name}/{each.name}'!r} is a folder in a class folder"
                        f"{', named like a part' * part}.",
                        expected="images directly inside class folders, and parts above them.",
                        hint="put the classes into the parts: train/cat/1.jpg."
                        if part
                        else "--nested reads it as part of its class; else move the images up, or the "
                        "folder away.",
                    )
                waiting.append((Path(each.path), f"{name}/{each.name}"))
        return found

    def _enter(self, folder: Path) -> None:
        status = folder.stat()
        inode = status.st_dev, status.st_ino
        if inode in self.entered:
            raise RequestError(
                f"{str(folder)!r} is a link to a folder that is read already.",
                expected="links that lead to each folder once, and never back to where they lie.",
                hint="remove the link.",
            )
        self.entered.add(inode)

    def _folders(self, folder: Path) -> list[Path]:
        """The folders directly inside, sorted by name."""
        return [Path(each.path) for each in self._entries(folder).folders]

    def _entries(self, folder: Path) -> Entries:
        """What lies directly inside; its links are checked."""
        found = entries_of(folder)
        for each in chain(*found):
            if each.is_symlink():
                self._check_link(Path(each.path))
        return found

    def _check_link(self, link: Path) -> None:
        """RequestError for a link out of the folder, and for one to nowhere that may stand for a class."""
        try:
            if suffix(link.name) not in SUFFIXES:
                link.stat()
            inside = link.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError) as error:  # before Python 3.13, a circle is a RuntimeError
            raise closed(link, error) from error
        if not inside and not self.follow_links:
            raise RequestError(
                f"{str(link)!r} is a link that leads out of the folder.",
                expected="files inside the folder, so that its content is its own.",
                hint="--follow-links takes what it points to; else copy that.",
            )


def _as_read(name: str) -> str:
    """What a person, or another file system, takes for the same name: without what cannot be seen."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join("".join(each for each in folded if unicodedata.category(each) != "Cf").split())


def _refuse_alike(names: Mapping[str, Sequence[str]]) -> None:
    """Class names of all parts that read as one are refused."""
    first: dict[str, str] = {}
    for part, of_part in names.items():
        for name in of_part:
            other = first.setdefault(_as_read(name), name)
            if other != name:
                raise RequestError(
                    "two class folders have the same name but for letter case, spaces or Unicode form: "
                    f"{other!a} and {name!a}{f' in {part}' if part else ''}.",
                    expected="one spelling of each class, the same in all parts.",
                    hint="rename one of them (they are one class), or give it a name of its own.",
                )


def _check_classes(part: str, of_class: Mapping[str, list[str]], classes: Sequence[str], train: Path) -> None:
    unknown = sorted(set(of_class) - set(classes))
    if unknown:
        raise RequestError(
            f"{part} has a class that train lacks: {_some(unknown)}.",
            expected=f"the classes of train: {_some(classes)}.",
            hint="add training images of it, or take it out.",
        )
    if not of_class:
        raise RequestError(
            f"{part} has no class folders.",
            expected=EXPECTED,
            hint=f"images without labels test nothing; folder:{train} splits the training images 70/15/15.",
        )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(repr(name) for name in names[:5]) + (", …" if len(names) > 5 else "")
