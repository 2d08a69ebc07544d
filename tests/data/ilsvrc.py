"""A small ImageNet: the tree train/WNID/*.JPEG, val/WNID/*.JPEG, and the same images as official archives."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tfkd_cli.data import imagenet_listing as imagenet

WNIDS = ("n01440764", "n02124075", "n03991062")
TRAINED, TESTED = 5, 2  # images of each class
SIZES = ((48, 80), (96, 40), (64, 64), (30, 200), (120, 90))  # width, height


def jpeg(seed: int, *, mode: str = "RGB", kind: str = "JPEG", **saved: Any) -> bytes:
    """Smooth noise, as photographs are; its size depends on the seed."""
    width, height = SIZES[seed % len(SIZES)]
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    file = io.BytesIO()
    image.save(file, kind, **saved)
    return file.getvalue()


def make_tree(root: Path) -> Path:
    """The tree; the first training image of each class is grey, CMYK, and a PNG, whatever its name says."""
    seed = 0
    odd = (jpeg(100, mode="L"), jpeg(101, mode="CMYK"), jpeg(102, kind="PNG"))
    for label, wnid in enumerate(WNIDS):
        for part, count in (("train", TRAINED), ("val", TESTED)):
            folder = root / part / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                seed += 1
                tested = label * TESTED + number + 1
                name = f"{wnid}_{number}.JPEG" if part == "train" else f"ILSVRC2012_val_{tested:08d}.JPEG"
                first = part == "train" and number == 0
                (folder / name).write_bytes(odd[label] if first else jpeg(seed))
    return root


def make_archives(tree: Path, root: Path) -> Path:
    """The images of `tree` as ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and a development kit."""
    from scipy.io import savemat

    root.mkdir()
    with tarfile.open(root / imagenet.TRAIN, "w", format=tarfile.GNU_FORMAT) as outer:
        for wnid in reversed(WNIDS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w", format=tarfile.GNU_FORMAT) as of_class:
                for file in sorted((tree / "train" / wnid).iterdir(), reverse=True):
                    of_class.add(file, file.name)
            _add(outer, f"{wnid}.tar", inner.getvalue())
    tested = sorted((tree / "val").glob("*/*"), key=lambda file: file.name)
    with tarfile.open(root / imagenet.VAL, "w", format=tarfile.GNU_FORMAT) as outer:
        for file in tested:
            outer.add(file, file.name)
    ids = {wnid: 3 - label for label, wnid in enumerate(WNIDS)}  # in another order than the sorted one
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(number, wnid, f"word of {wnid}, another", "", 0) for wnid, number in ids.items()]
    synsets = np.array([*rows, (4, "n00001740", "entity", "", 3)], dtype=fields)
    matlab = io.BytesIO()
    savemat(matlab, {"synsets": synsets.reshape(-1, 1)})  # type: ignore[arg-type]
    truth = "".join(f"{ids[file.parent.name]}\n" for file in tested)
    with tarfile.open(root / imagenet.DEVKIT, "w:gz") as kit:
        _add(kit, f"ILSVRC2012_devkit_t12/{imagenet.SYNSETS}", matlab.getvalue())
        _add(kit, f"ILSVRC2012_devkit_t12/{imagenet.TRUTH}", truth.encode())
    return root


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
