"""`torchvision:NAME`: classification sets that torchvision loads, checks and reads.

Listed with their facts, so that planning needs neither torchvision nor the files. `torchvision224:NAME` asks
for another size than the usual one.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.data.cache import Draft
from tfkd_cli.data.download import one_at_a_time
from tfkd_cli.data.facts import DataSet
from tfkd_cli.data.folder import FINETUNE_SIZE, SHARES, SIZE, SMALLEST, SPLIT_NOTE, UPSCALED, template
from tfkd_cli.data.images import Look, decode_all, see
from tfkd_cli.data.reader import Progress
from tfkd_cli.data.split import split
from tfkd_cli.errors import RequestError, canonical

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

DOWNLOAD: str | None = "the official files, through torchvision"
Arguments = Mapping[str, Any]
BY_FLAG: Mapping[str, Arguments] = {"train": {"train": True}, "test": {"train": False}}


def _by_name(*names: str) -> Mapping[str, Arguments]:
    parts = ("train", "test") if len(names) == 2 else ("train", "val", "test")
    return {part: {"split": name} for part, name in zip(parts, names, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Known:
    """A class of torchvision.datasets: what it holds, and how its parts are asked for."""

    classes: int
    images: tuple[int, ...]  # of train, test or train, val, test; of all where `parts` is empty
    parts: Mapping[str, Arguments]  # constructor arguments of each part; empty: one body, split here
    marker: str  # a file or folder that is there when the files are
    size: int = 0  # the images' own; 0: of several sizes
    channels: int = 3


def _digits(marker: str, *images: int, classes: int = 10, size: int = 28) -> Known:
    return Known(
        classes=classes,
        images=images,
        parts=BY_FLAG,
        marker=marker,
        size=size,
        channels=1,
    )


THREE = ("train", "val", "test")
KNOWN: Mapping[str, Known] = {
    "MNIST": _digits("MNIST/raw/train-images-idx3-ubyte", 60_000, 10_000),
    "KMNIST": _digits("KMNIST/raw/train-images-idx3-ubyte", 60_000, 10_000),
    "USPS": _digits("usps.bz2", 7_291, 2_007, size=16),
    "SVHN": Known(
        classes=10,
        images=(73_257, 26_032),
        parts=_by_name("train", "test"),
        marker="train_32x32.mat",
        size=32,
    ),
    "STL10": Known(
        classes=10, images=(5_000, 8_000), parts=_by_name("train", "test"), marker="stl10_binary", size=96
    ),
    "GTSRB": Known(classes=43, images=(26_640, 12_630), parts=_by_name("train", "test"), marker="gtsrb"),
    "EuroSAT": Known(classes=10, images=(27_000,), parts={}, marker="eurosat/2750", size=64),
    "Flowers102": Known(
        classes=102, images=(1_020, 1_020, 6_149), parts=_by_name(*THREE), marker="flowers-102"
    ),
    "DTD": Known(classes=47, images=(1_880,) * 3, parts=_by_name(*THREE), marker="dtd"),
    "FGVCAircraft": Known(
        classes=100, images=(3_334, 3_333, 3_333), parts=_by_name(*THREE), marker="fgvc-aircraft-2013b"
    ),
    "OxfordIIITPet": Known(
        classes=37, images=(3_680, 3_669), parts=_by_name("trainval", "test"), marker="oxford-iiit-pet"
    ),
    "Food101": Known(
        classes=101, images=(75_750, 25_250), parts=_by_name("train", "test"), marker="food-101"
    ),
    "Imagenette": Known(
        classes=10, images=(9_469, 3_925), parts=_by_name("train", "val"), marker="imagenette2"
    ),
}


def named(name: str, *, size: int) -> DataSet:
    """The facts of `torchvision:NAME` (`torchvision224:NAME`); RequestError for a name that is not listed."""
    name = canonical(name, KNOWN, kind="data set of torchvision", hint="see `tfkd list datasets`.")
    known, base = KNOWN[name], template(size)
    pixels = size or _size(known)
    channels = 3 if pixels >= FINETUNE_SIZE else known.channels
    counts = known.images if known.parts else _share(known.images[0])
    notes = [f"through torchvision: {Look(pixels, channels).text}"] if pixels != known.size else []
    return replace(
        base,
        name=f"torchvision{size or ''}:{name}",
        label=name,
        classes=known.classes,
        channels=channels,
        size=pixels,
        train_images=counts[0],
        val_images=counts[1] if len(counts) == 3 else 0,
        test_images=counts[-1],
        mean=base.mean if channels == 3 else (0.5,),
        std=base.std if channels == 3 else (0.25,),
        module="tfkd_cli.data.torchvision_sets",
        source=f"torchvision.datasets.{name}, md5 checked",
        full=True,
        notes=(*notes, *(() if known.parts else (SPLIT_NOTE,))),
    )


def _size(known: Known) -> int:
    if known.size and known.size < SMALLEST:
        return UPSCALED
    return known.size if 0 < known.size <= SIZE else SIZE


def _share(count: int) -> tuple[int, ...]:
    """About how many images each part of a split gets; exact once it is decoded."""
    val, test = round(count * SHARES["val"]), round(count * SHARES["test"])
    return count - val - test, val, test


def locate(places: Sequence[Path], facts: DataSet) -> Path | None:
    """The first place with this set's files, as torchvision lays them out."""
    return next((place for place in places if (place / _known(facts).marker).exists()), None)


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """Image by image through torchvision; a set without parts is split here."""
    look, parts = Look(size=facts.size, channels=facts.channels), _known(facts).parts
    if parts:
        for part, arguments in parts.items():
            opened = _open(facts, path, arguments, download=False)
            _write(draft, part, opened, range(len(opened)), look, progress)
    else:
        opened = _open(facts, path, {}, download=False)
        hashes = [hashlib.sha256(opened[i][0].tobytes()).digest() for i in range(len(opened))]
        labels = [int(opened[i][1]) for i in range(len(opened))]
        for part, positions in split(hashes, labels, SHARES).items():
            _write(draft, part, opened, positions, look, progress)
    names = getattr(opened, "classes", None) or [str(label) for label in range(facts.classes)]
    draft.class_names = tuple(str(name) for name in names)
    return _counted(facts, draft)


def fetch(facts: DataSet, folder: Path) -> Path:
    """All parts, loaded and unpacked by torchvision."""
    with one_at_a_time(folder, _name(facts)):
        for arguments in list(_known(facts).parts.values()) or [{}]:
            _open(facts, folder, arguments, download=True)
    return folder


def _write(
    draft: Draft, part: str, opened: Any, positions: Sequence[int], look: Look, progress: Progress
) -> None:
    labels = [0] * len(positions)

    def one(place: int) -> NDArray[uint8]:
        image, label = opened[positions[place]]
        labels[place] = int(label)
        return see(image, look, name=f"{part} image {positions[place]}")

    images = decode_all(range(len(positions)), one, what=f"decoding {part}", progress=progress)
    draft.write(part, images, labels)


def _open(facts: DataSet, root: Path, arguments: Arguments, *, download: bool) -> Any:
    """torchvision's own object; RequestError when its files are not (or not all) there."""
    # By name: what decodes is imported when it decodes, and plans stay free of torchvision.
    make: Callable[..., Any] = getattr(importlib.import_module("torchvision.datasets"), _name(facts))
    try:
        return make(str(root), download=download, **arguments)
    except (RuntimeError, ValueError, ImportError, KeyError) as error:
        if download:
            raise
        raise RequestError(
            f"{facts.name} cannot be read from {root}: {error}.",
            expected=f"the files as torchvision.datasets.{_name(facts)} lays them out.",
            hint=f"`tfkd data {facts.name}` loads them.",
        ) from error


def _counted(facts: DataSet, draft: Draft) -> DataSet:
    """The facts with the number of images there really are."""
    counts = {part: len(draft.images(part)) for part in draft.parts}
    return replace(
        facts,
        train_images=counts["train"],
        val_images=counts.get("val", 0),
        test_images=counts["test"],
    )


def _name(facts: DataSet) -> str:
    return facts.name.split(":", 1)[1]


def _known(facts: DataSet) -> Known:
    return KNOWN[_name(facts)]
