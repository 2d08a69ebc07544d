"""The images of a part that are decoded when they are needed: an index of files, or of places in an archive.

`ImageFiles` stands where other data sets have an array of decoded images. It is the index only;
`streaming` decodes. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.files import read_file
from tfkd_cli.data.images import parallel
from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

Decoder = Literal["torchvision", "pillow"]
Corrupt = Literal["fail", "skip"]

A_FILE = -1  # in place of the offset in an archive


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How image files are read. `workers`: processes that decode, 0 for none (no number depends on it)."""

    decoder: Decoder = "torchvision"
    corrupt: Corrupt = "fail"  # or skip: the next file of the part takes the place of one that is corrupt
    workers: int = 0


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """The image files of one part. Indexed with a slice, it gives decoded images, as they are evaluated."""

    index: Path  # .npy, as `entries` makes it
    place: Path  # the folder that names are relative to, or the archive that offsets are in
    facts: DataSet
    reading: Reading = field(default_factory=Reading)
    positions_N: NDArray[np.int64] | None = None  # in the index; None: all

    def __len__(self) -> int:
        return len(self._index if self.positions_N is None else self.positions_N)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the decoded images: (N, C, H, W)."""
        return len(self), self.facts.channels, self.facts.size, self.facts.size

    @overload
    def __getitem__(self, wanted: slice) -> NDArray[np.uint8]: ...
    @overload
    def __getitem__(self, wanted: Sequence[int]) -> ImageFiles: ...
    def __getitem__(self, wanted: slice | Sequence[int]) -> NDArray[np.uint8] | ImageFiles:
        """Decoded images of a slice; the files at these positions, for a list."""
        import numpy as np

        if isinstance(wanted, slice):
            streaming = importlib.import_module("tfkd_cli.data.streaming")  # with torch
            images_NCHW: NDArray[np.uint8] = streaming.decoded(self, range(len(self))[wanted])
            return images_NCHW
        chosen_N = np.asarray(wanted, dtype=np.int64)
        return replace(self, positions_N=chosen_N if self.positions_N is None else self.positions_N[chosen_N])

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped index: a process that is given this maps it itself."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def hashes(self) -> list[bytes]:
        """What stands for the content of each image: sha256 of its name and size.

        Where the decoded image does not depend on how it is read, sha256 of that, as of a decoded data set.
        """

        def content_hash(position: int) -> bytes:
            if self.facts.full_size:
                entry = self._entry(position)
                return hashlib.sha256(b"%s\0%d" % (entry["name"], entry["size"])).digest()
            return hashlib.sha256(self[position : position + 1].tobytes()).digest()

        return [each for block in parallel(content_hash, range(len(self))) for each in block]

    def name(self, position: int) -> str:
        """The file's name in the data set."""
        return os.fsdecode(bytes(self._entry(position)["name"]))

    def read(self, position: int) -> bytes:
        """The bytes of a file; RequestError when it is not the one of the index."""
        entry, name = self._entry(position), self.name(position)
        size, offset = int(entry["size"]), int(entry["offset"])
        if offset == A_FILE:
            data = read_file(self.place / name)
        else:
            data = os.pread(opened(self.place), size, offset)
        if len(data) != size:
            raise RequestError(
                f"{name!r} in {self.place} has {len(data):,} bytes.",
                expected=f"{size:,} bytes, as when the data set was indexed.",
                hint="bring it back as it was; or `touch` its folder and index it anew (`tfkd data`).",
            )
        return data

    def found_at(self, place: Path) -> bool:
        """Whether its files seem to be at this place: the first of them, or an archive as long as needed."""
        first, all_N = self._index[0], self._index
        try:
            if first["offset"] == A_FILE:
                return bool((place / os.fsdecode(bytes(first["name"]))).stat().st_size == first["size"])
            return bool(place.stat().st_size >= (all_N["offset"] + all_N["size"]).max())
        except OSError:
            return False

    @cached_property
    def _index(self) -> NDArray[np.void]:
        import numpy as np

        mapped_N: NDArray[np.void] = np.load(self.index, mmap_mode="r", allow_pickle=False)
        return mapped_N

    def _entry(self, position: int) -> np.void:
        at = position if self.positions_N is None else int(self.positions_N[position])
        entry: np.void = self._index[at]
        return entry


def entries(
    names: Sequence[bytes], sizes: Sequence[int], offsets: Sequence[int] | None = None
) -> NDArray[np.void]:
    """An index: the name, the size in bytes and the offset in the archive of each file."""
    import numpy as np

    longest = max(map(len, names), default=1)
    made_N = np.empty(len(names), dtype=[("name", f"S{longest}"), ("size", "<i8"), ("offset", "<i8")])
    made_N["name"], made_N["size"] = names, sizes
    made_N["offset"] = A_FILE if offsets is None else offsets
    return made_N


@cache
def opened(archive: Path) -> int:
    """An open archive, once per process: `pread` needs no position, so a forked process may share it."""
    try:
        return os.open(archive, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise RequestError(
            f"{archive} cannot be read: {error.strerror}.",
            expected="the archive that was indexed.",
            hint="`tfkd data NAME --from DIR` indexes it anew.",
        ) from error
