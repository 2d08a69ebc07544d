"""The image files of a data set, by part and class, and what is done with all of them.

Folders, ImageNet and Tiny-ImageNet list their files in ways of their own; what they find is a `Layout`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tfkd_cli.data.files import read_file
from tfkd_cli.data.image_files import entries, opened
from tfkd_cli.data.images import SUFFIXES, Look, decode, decode_all, naming_all
from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

    from tfkd_cli.data.cache import Draft
    from tfkd_cli.data.facts import DataSet
    from tfkd_cli.data.reader import Progress

IN_WORDS = {"train": "training", "val": "validation", "test": "test"}
SKIPPED = frozenset(  # what file managers, network drives and archivers leave behind, beside hidden entries
    (
        *("@eadir", "@synoeastream", "@synoresource", "@tmp", "#recycle", "#snapshot", "@sharebin"),
        *("@recycle", "@recently-snapshot", "@__thumb", "@__qini", "lost+found", "__pycache__"),
        *("__macosx", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder"),
        *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("$recycle.bin", "system volume information", "picasa.ini"),
    )
)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Image files, sorted by part, class and name; `parts` is empty where they still have to be split."""

    root: Path
    classes: tuple[str, ...]  # sorted
    files: Sequence[str]  # relative to root
    labels: Sequence[int]
    parts: Mapping[str, Sequence[int]]  # positions in `files`
    notes: tuple[str, ...] = ()
    sizes: Sequence[int] = ()  # in bytes, where they were listed
    archives: Mapping[str, str] = field(
        default_factory=dict
    )  # first folder of a name → the tar that holds it
    offsets: Sequence[int] = ()  # in these

    def read(self, position: int) -> bytes:
        """The bytes of one file; RequestError when they cannot be had. Called from many threads."""
        name = self.files[position]
        if not self.archives:
            return read_file(self.root / name)
        archive = self.root / self.archives[name.partition("/")[0]]
        return os.pread(opened(archive), self.sizes[position], self.offsets[position])

    def decode(self, position: int, look: Look) -> NDArray[uint8]:
        """One image (C, size, size), as it is seen; RequestError where it cannot be read."""
        return decode(self.read(position), look, name=self.files[position])

    def write(self, draft: Draft, parts: Mapping[str, Sequence[int]], look: Look, progress: Progress) -> None:
        """Decode the images of all parts into the draft; one RequestError names all that cannot be read."""

        def one(position: int) -> NDArray[uint8]:
            return self.decode(position, look)

        with naming_all(range(len(self.files)), one):
            for part, positions in parts.items():
                images = decode_all(positions, one, f"decoding {IN_WORDS[part]} images", progress)
                draft.write(part, images, [self.labels[each] for each in positions])

    def write_index(self, draft: Draft, parts: Mapping[str, Sequence[int]]) -> None:
        """Write an index of the files of all parts, which are then decoded while a network trains."""
        for part, positions in parts.items():
            files = [self.files[each] for each in positions]
            sizes = (
                [self.sizes[each] for each in positions]
                if self.sizes
                else [os.stat(self.root / file).st_size for file in files]  # noqa: PTH116
            )
            offsets = [self.offsets[each] for each in positions] if self.archives else None
            archive = self.archives[files[0].partition("/")[0]] if self.archives else ""
            index_N = entries([os.fsencode(file) for file in files], sizes, offsets)
            draft.write_index(part, index_N, [self.labels[each] for each in positions], archive=archive)

    def without(self, left_out: Collection[str]) -> Layout:
        """The layout without these files; no other file takes their place."""
        kept = [position for position, file in enumerate(self.files) if file not in left_out]
        now = {position: place for place, position in enumerate(kept)}
        return replace(
            self,
            files=[self.files[each] for each in kept],
            labels=[self.labels[each] for each in kept],
            parts={part: [now[each] for each in of if each in now] for part, of in self.parts.items()},
            sizes=[self.sizes[each] for each in kept],
            offsets=[self.offsets[each] for each in kept],
        )

    def facts(self, base: DataSet, digest: str, parts: Mapping[str, Sequence[int]], **more: Any) -> DataSet:
        """The facts of this content: `base` with the name of its digest, its counts and `more`."""
        return replace(
            base,
            name=f"{base.name}@{digest}",
            classes=len(self.classes),
            train_images=len(parts["train"]),
            val_images=len(parts.get("val", ())),
            test_images=len(parts["test"]),
            **more,
        )

    def stamp(self) -> str:
        """sha256 over names, sizes, times and notes: equal stamps, equal content."""
        digest = hashlib.sha256(repr(self.notes).encode())
        for file in self.files:
            try:
                found = os.stat(os.path.join(self.root, file))  # noqa: PTH116, PTH118  five times faster
                stamp = b"%d:%d" % (found.st_size, found.st_mtime_ns)
            except OSError:  # named with all others that cannot be read, when it is opened
                stamp = b"unreadable"
            digest.update(os.fsencode(file) + b"\0" + stamp + b";")
        return digest.hexdigest()

    def identity(self, look: str, content_hashes: Sequence[bytes]) -> str:
        """12 hex digits over `look` (format and appearance of the images), names and contents."""
        digest = hashlib.sha256(f"{look}\0".encode())
        for file, content_hash in zip(self.files, content_hashes, strict=True):
            digest.update(os.fsencode(file) + b"\0" + content_hash)
        return digest.hexdigest()[:12]


class Entries(NamedTuple):
    """What is in a folder, each sorted by name."""

    folders: list[os.DirEntry[str]]
    images: list[os.DirEntry[str]]  # by their names
    others: list[os.DirEntry[str]]


def entries_of(folder: Path) -> Entries:
    """What is in a folder, without what is hidden or skipped; RequestError where it cannot be read."""
    sorted_out = Entries([], [], [])
    try:
        with os.scandir(folder) as found:
            for each in sorted(found, key=lambda each: each.name):
                if each.name[0] == "." or each.name.lower() in SKIPPED:
                    continue
                files = sorted_out.images if is_image(each.name) else sorted_out.others
                (sorted_out.folders if each.is_dir() else files).append(each)
    except OSError as error:
        raise closed(error.filename or folder, error) from error
    return sorted_out


def suffix(name: str) -> str:
    """The ending of a file's name in lower case: `.jpg`."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122  ten times faster


def is_image(name: str) -> bool:
    """Whether the name of a file, with or without its folders, is that of an image."""
    return suffix(name) in SUFFIXES and os.path.basename(name)[0] != "."  # noqa: PTH119


def closed(path: Path | str, error: Exception) -> RequestError:
    """A folder or link that cannot be read."""
    reason = error.strerror if isinstance(error, OSError) else "it is a link that leads in a circle"
    return RequestError(
        f"{str(path)!r} cannot be read: {reason}.",
        expected="folders and images this user may read.",
        hint="check its permissions and where it leads, or take it out of the folder.",
    )
