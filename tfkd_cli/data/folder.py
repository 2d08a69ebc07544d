"""Own images: `folder:PATH` with train/CLASS/* and test/CLASS/*, or one folder of class folders.

Named by content: `folder@<12 hex>` is sha256 over names, bytes, layout and the way images are looked at.
`folder224:PATH` asks for another size than the usual one, `folder.split1:PATH` for another split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tfkd_cli.data import cache as caches
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.facts import IMAGENET_MEAN, IMAGENET_STD, DataSet
from tfkd_cli.data.images import Header, Look, levels_of, naming_all, parallel, read_header
from tfkd_cli.data.inspection import of_counts, of_decoded, of_labels
from tfkd_cli.data.layout import Layout
from tfkd_cli.data.reader import Progress
from tfkd_cli.data.split import split
from tfkd_cli.data.survey import no_folder, survey
from tfkd_cli.errors import RequestError

SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
SIZE = 64  # for images that are larger, or of several sizes
SMALLEST, UPSCALED = 28, 32  # below the networks' smallest input, images are upscaled
FINETUNE_SIZE = 128  # from here on, networks are finetuned: resized crops, and colours always
SPLIT_NOTE = "split 70/15/15 by class and content, the same every time"
STREAMED_NOTE = "decoded while a network trains: near-identical and blank images were not looked for"
SPLIT_MARK = ".split"
FORMAT = "folder 2"  # raised when the same files would become other arrays


def template(size: int, *, split: int = 0) -> DataSet:
    """Facts before the folder was looked at; a size of 0 leaves it to the images, `split` is its seed."""
    return DataSet(
        name=f"folder{size or ''}" + (f"{SPLIT_MARK}{split}" if split else ""),
        label="folder",
        classes=2,
        channels=3,
        size=size,
        train_images=0,
        test_images=0,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        module="tfkd_cli.data.folder",
        full=False,
    )


def locate(places: Sequence[Path], facts: DataSet) -> Path | None:
    """The first place that is a folder; RequestError when there is something else at each of them."""
    if places and not any(place.is_dir() for place in places):
        raise no_folder(places[0])
    return next((place.resolve() for place in places if place.is_dir()), None)


def identify(path: Path, facts: DataSet, *, cache: Path) -> DataSet:
    """The facts of this folder; images are read unless names, sizes and times are as remembered."""
    layout = _survey(path, facts)
    stamp = f"{FORMAT}:{facts.name}:{layout.stamp()}"
    known = caches.remembered(cache, path / facts.name, stamp, lambda: _identify(layout, facts).to_json())
    return DataSet.from_json(known)


def decode(path: Path, facts: DataSet, draft: Draft, *, progress: Progress) -> DataSet:
    """All parts, decoded; the facts with notes on near-identical and nearly constant images.

    Of images that do not fit into memory, an index: they are decoded while a network trains. Their pixels are
    those of the decoded set, so the set has the same name.
    """
    layout = _survey(path, facts)
    parts = layout.parts or _split(layout, _examine(layout)[0], seed=_seed(facts))
    draft.class_names = layout.classes
    if len(layout.files) * facts.channels * facts.size**2 > draft.memory:
        layout.write_index(draft, parts)
        return replace(facts, notes=(*facts.notes, STREAMED_NOTE))
    layout.write(draft, parts, Look(facts.size, facts.channels, facts.levels), progress)
    if _survey(path, facts).stamp() != layout.stamp():
        raise RequestError(
            f"{path} was changed while it was read.",
            expected="a folder that stays as it is until its images are decoded.",
            hint="run the command again.",
        )
    return replace(facts, notes=facts.notes + of_decoded(draft, layout, parts))


def _survey(path: Path, facts: DataSet) -> Layout:
    return survey(path, follow_links=facts.follow_links, nested=facts.nested)


def _identify(layout: Layout, facts: DataSet) -> DataSet:
    hashes, headers = _examine(layout)
    look = _look(headers, asked=facts.size)
    seed = _seed(facts)
    if layout.parts and seed:
        raise RequestError(
            f"{str(layout.root)!r} has a train folder, and {facts.name} asks to split it anew.",
            expected="one folder per class, without a split.",
            hint="leave the split out: folder:PATH.",
        )
    parts = layout.parts or _split(layout, hashes, seed=seed)
    another = f"; split {seed}" if seed else "; folder.split1:PATH asks for another split"
    split_notes = [] if layout.parts else [SPLIT_NOTE + another]
    colours = look.channels == 3
    digest = layout.identity(f"{FORMAT}\0{look.text}\0{sorted(parts)}", hashes)
    return layout.facts(
        facts,
        digest,
        parts,
        label=f"folder {layout.root.name}",
        channels=look.channels,
        size=look.size,
        levels=look.levels,
        mean=facts.mean if colours else (0.5,),
        std=facts.std if colours else (0.25,),
        source=str(layout.root),
        notes=(
            of_counts(layout, parts),
            f"own images: {look.text}",
            *layout.notes,
            *split_notes,
            *of_labels(layout, parts, hashes),
        ),
    )


def _split(layout: Layout, hashes: Sequence[bytes], *, seed: int) -> dict[str, list[int]]:
    return split(hashes, layout.labels, SHARES, names=layout.classes, seed=seed)


def _seed(facts: DataSet) -> int:
    """The split's seed, which is in the name: `folder224.split3@<12 hex>` → 3; 0 where none is."""
    return int(facts.name.partition("@")[0].partition(SPLIT_MARK)[2] or 0)


def _examine(layout: Layout) -> tuple[list[bytes], list[Header]]:
    """The sha256 of each file, and what its header says; RequestError naming all that cannot be decoded."""

    def one(position: int) -> tuple[bytes, Header]:
        data = layout.read(position)
        return hashlib.sha256(data).digest(), read_header(data, name=layout.files[position])

    positions = range(len(layout.files))
    with naming_all(positions, lambda position: layout.decode(position, Look(SIZE, 3))):
        examined = [each for block in parallel(one, positions) for each in block]
    return [content_hash for content_hash, _ in examined], [header for _, header in examined]


def _look(headers: Sequence[Header], *, asked: int) -> Look:
    """The size all images share if networks take it, else the usual one; grey only when all are grey."""
    sizes = {(header.width, header.height) for header in headers}
    largest = max(max(size) for size in sizes)
    side = min(sizes)[0]
    if asked:
        size = asked
    elif largest < SMALLEST:
        size = UPSCALED
    else:
        size = side if sizes == {(side, side)} and side <= SIZE else SIZE
    grey = all(header.grey for header in headers) and size < FINETUNE_SIZE
    return Look(size, 1 if grey else 3, levels_of(headers))
