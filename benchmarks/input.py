"""The input pipeline alone, from JPEG files to batches at 224 pixels: `python -m benchmarks.input`.

tfkd's pipeline (decoder torchvision, and pillow) beside torchvision's `ImageFolder` with PIL transforms and a
`DataLoader`, as the field writes it: same files, same number of workers, same size of batch, alternating. A
block is an epoch; its time begins with the second batch. The figure is the median over rounds of the ratio
within a round; the time of the cores per image, which other load disturbs less, is given beside it. It also
gives how far tfkd's pixels are from Pillow's, and, with an index of as many images as ImageNet has, the time
to the first batch and how much memory grows over many.
"""

from __future__ import annotations

import argparse
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.arguments import count, file_to_write
from benchmarks.load import own_seconds
from tfkd_cli.data.facts import IMAGENET
from tfkd_cli.data.image_files import Decoder, ImageFiles, Reading, entries
from tfkd_cli.data.images import SUFFIXES
from tfkd_cli.spec import Recipe
from tfkd_cli.training.epoch_data import EpochData
from tfkd_cli.training.parts import part_of
from tfkd_cli.training.worker import keep_freed_memory

Epoch = Callable[[], Iterable[Any]]
OURS: tuple[Decoder, ...] = ("torchvision", "pillow")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; argparse ends with code 2 where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.input", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder or a tar with photographs")
    parser.add_argument("--images", type=count, default=2_000, help="per epoch: files are taken again [2000]")
    parser.add_argument("--batch", type=count, default=128)
    parser.add_argument("--workers", type=count, default=len(os.sched_getaffinity(0)), help="[all cores]")
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--batches", type=count, default=200, help="over which memory is watched [200]")
    parser.add_argument("--json", type=file_to_write, metavar="FILE")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    options = parse(arguments)
    torch.set_num_threads(1)  # the workers have the cores; there is no network here
    with tempfile.TemporaryDirectory() as scratch:
        files = photographs(options.data, Path(scratch))
        tree = made_tree(files, Path(scratch) / "tree", images=options.images)
        sides: dict[str, Epoch] = {"conventional": conventional(tree, options.batch, options.workers)}
        for decoder in OURS:
            part = indexed(tree, Path(scratch), Reading(decoder=decoder, workers=options.workers))
            sides[decoder] = ours(part, options.batch)
        figures = alternated(sides, options.rounds)
        figures["whole_index"] = whole_index(files, Path(scratch), options)
        figures["pixels"] = differences(indexed(tree, Path(scratch), Reading()), len(files))
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps({**vars(options), **figures}, default=str))
    return 0


def photographs(source: Path, scratch: Path) -> list[Path]:
    """The image files of a folder, or of a tar, which is unpacked."""
    if source.is_file():
        with tarfile.open(source) as archive:
            archive.extractall(scratch / "photographs", filter="data")
        source = scratch / "photographs"
    return sorted(each.resolve() for each in source.rglob("*") if each.suffix.lower() in SUFFIXES)


def made_tree(files: Sequence[Path], root: Path, *, images: int) -> Path:
    """A tree of two classes with so many links to these files, each as often as the others."""
    for number in range(images):
        folder = root / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:06d}.JPEG").symlink_to(files[number % len(files)])
    return root


def conventional(tree: Path, batch: int, workers: int) -> Epoch:
    """ImageFolder and a DataLoader of PIL transforms."""
    seen = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET.mean, IMAGENET.std),
        ]
    )
    loader = torch.utils.data.DataLoader(
        ImageFolder(str(tree), seen), batch_size=batch, shuffle=True, num_workers=workers,
        pin_memory=torch.cuda.is_available(), persistent_workers=True,
    )  # fmt: skip
    return lambda: loader


def indexed(tree: Path, scratch: Path, reading: Reading) -> ImageFiles:
    """The files of the tree as tfkd reads them."""
    files = sorted(tree.glob("*/*"))
    index = scratch / "index.npy"
    names = [os.fsencode(each.relative_to(tree)) for each in files]
    np.save(index, entries(names, [each.stat().st_size for each in files]))
    return ImageFiles(index=index, place=tree, facts=IMAGENET, reading=reading)


def whole_index(files: Sequence[Path], scratch: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds to the first batch of as many images as ImageNet has; megabytes halfway and at the last."""
    found = imagenet_sized(files, scratch, Reading(workers=options.workers))
    started, first, megabytes = time.perf_counter(), 0.0, list[float]()
    for _, _ in zip(range(options.batches), ours(found, options.batch)(), strict=False):
        first = first or time.perf_counter() - started
        megabytes.append(memory())
    return {
        "first_batch_seconds": round(first, 2),
        "memory_mb_halfway": round(megabytes[len(megabytes) // 2]),
        "memory_mb_last": round(megabytes[-1]),
    }


def imagenet_sized(files: Sequence[Path], scratch: Path, reading: Reading) -> ImageFiles:
    """An index of 1,281,167 names that leads into an archive of these files: each stands for many."""
    images, archive, index = IMAGENET.train_images, scratch / "archive", scratch / "whole.npy"
    archive.write_bytes(b"".join(each.read_bytes() for each in files))
    sizes = np.array([each.stat().st_size for each in files])
    offsets, which = np.cumsum(sizes) - sizes, np.arange(images) % len(files)
    names = [b"train/n%08d/n%08d_%d.JPEG" % (n // 1_300, n // 1_300, n) for n in range(images)]
    np.save(index, entries(names, sizes[which].tolist(), offsets[which].tolist()))
    return ImageFiles(index=index, place=archive, facts=IMAGENET, reading=reading)


def ours(files: ImageFiles, batch: int) -> Epoch:
    """tfkd's batches, normalised on the device as in training."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    part = part_of(files, np.zeros(len(files), dtype=np.int64), device)
    epoch_data = EpochData(part, IMAGENET, Recipe(batch_size=batch, augment="rrc-flip"), seed=0)
    epochs = iter(range(1, 1_000_000))
    return lambda: epoch_data.batches(next(epochs))


def alternated(sides: dict[str, Epoch], rounds: int) -> dict[str, Any]:
    """Images per second of each side in each round, and ratios to the conventional side."""
    for name, epoch in sides.items():  # starts the workers, fills the page cache
        if name in OURS:
            keep_freed_memory()  # as tfkd's worker does
        rates(epoch)
    blocks = [{name: rates(epoch) for name, epoch in sides.items()} for _ in range(rounds)]

    def ratios(measure: int) -> dict[str, float]:
        theirs = [each["conventional"][measure] for each in blocks]
        return {
            name: round(
                median(each[name][measure] / other for each, other in zip(blocks, theirs, strict=True)), 3
            )
            for name in OURS
        }

    seconds = {name: median(1 / each[name][1] for each in blocks) for name in sides}
    return {
        "ratio": ratios(0),
        "images_per_second": {name: round(median(each[name][0] for each in blocks), 1) for name in sides},
        "ratio_of_core_time": ratios(1),
        "core_milliseconds_per_image": {name: round(1e3 * each, 2) for name, each in seconds.items()},
    }


def rates(epoch: Epoch) -> tuple[float, float]:
    """Images per second of an epoch, and per second of a core, from its second batch on."""
    images, started, used = 0, 0.0, 0.0
    for batch in epoch():
        if started:
            images += len(batch[0])
        else:
            started, used = time.perf_counter(), own_seconds()
    return images / (time.perf_counter() - started), images / (own_seconds() - used)


def memory() -> float:
    """Megabytes of this process and its children that are theirs alone."""
    found = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            if os.getpid() in (int(lines["Pid"]), int(lines["PPid"])):
                found += int(lines["RssAnon"].split()[0])
        except (OSError, KeyError):
            continue
    return found / 1024


def differences(files: ImageFiles, images: int) -> dict[str, float]:
    """Levels (of 255) by which pixels of torchvision's decoder differ from Pillow's, in all views."""
    gaps = []
    for number in range(images):
        seen = []
        for decoder in OURS:
            chosen = replace(files, reading=Reading(decoder=decoder))
            part = part_of(chosen, np.zeros(len(files), dtype=np.int64), torch.device("cpu"))
            epoch_data = EpochData(part, IMAGENET, Recipe(augment="rrc-flip"), seed=0)
            index = [torch.tensor([number])]
            view = next(epoch_data._part.views(index, epoch_data._augment, stream=0, epoch=1)).images_NCHW
            seen.append(torch.cat([view, next(part.images(index)).images_NCHW]).int())
        gaps.append((seen[0] - seen[1]).flatten())
    gap = torch.cat(gaps).double()
    return {
        "largest": float(gap.abs().max()),
        "mean": float(gap.mean()),
        "rms": float(gap.square().mean().sqrt()),
        "share_equal": float((gap == 0).double().mean()),
    }


if __name__ == "__main__":
    raise SystemExit(main())
