"""Small data sets in the layouts of the real ones."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tfkd_cli.execution import Execution

ImageFile = Callable[..., bytes]
MakeFolder = Callable[..., Path]


@pytest.fixture
def execution(tmp_path: Path) -> Execution:
    """A cache of its own, nothing else on the machine."""
    return Execution(cache=str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def without_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set that is installed on the machine must not decide a test."""
    monkeypatch.setattr("tfkd_cli.data.fashion_mnist.DEBIAN", ())


@pytest.fixture
def image_file() -> ImageFile:
    """`image_file(seed, size=(64, 64), mode="RGB", kind="PNG")`: the bytes of an image of blocks."""

    def make(seed: int, *, size: tuple[int, int] = (32, 32), mode: str = "RGB", kind: str = "PNG") -> bytes:
        pixels = np.random.RandomState(seed).randint(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST).convert(mode)
        file = io.BytesIO()
        image.save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture
def make_folder(tmp_path: Path, image_file: ImageFile) -> MakeFolder:
    """`make_folder({"train/cat": 3, "test/cat": 1})`: that many different images in each."""

    def make(counts: dict[str, int], *, name: str = "photos", **look: object) -> Path:
        seed = 0
        for where, count in counts.items():
            (tmp_path / name / where).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                seed += 1
                (tmp_path / name / where / f"{number}.png").write_bytes(image_file(seed, **look))
        return tmp_path / name

    return make


@pytest.fixture
def tiny_zip(tmp_path: Path, image_file: ImageFile) -> Callable[..., Path]:
    """A zip in the layout of Tiny-ImageNet: two classes, 3 training and 2 validation images of each.

    The first image of each class is a grey-scale JPEG, as some of the real ones.
    """

    def make(*, first_seed: int = 0, annotations: str | None = None) -> Path:
        path, seed, lines = tmp_path / "sample.zip", first_seed, []
        with zipfile.ZipFile(path, "w") as file:
            top = "tiny-imagenet-200/"
            file.writestr(f"{top}wnids.txt", "n02\nn01\n")
            file.writestr(f"{top}words.txt", "n01\ta goldfish, Carassius auratus\nn02\ta boat\n")
            for wnid in ("n01", "n02"):
                for number in range(5):
                    seed += 1
                    grey = "L" if number == 0 else "RGB"
                    data = image_file(seed, size=(64, 64), mode=grey, kind="JPEG")
                    if number < 3:
                        file.writestr(f"{top}train/{wnid}/images/{wnid}_{number}.JPEG", data)
                    else:
                        file.writestr(f"{top}val/images/val_{seed}.JPEG", data)
                        lines.append(f"val_{seed}.JPEG\t{wnid}\t0\t0\t62\t62")
            file.writestr(f"{top}test/images/test_0.JPEG", image_file(99, size=(64, 64), kind="JPEG"))
            file.writestr(
                f"{top}val/val_annotations.txt", "\n".join(lines) if annotations is None else annotations
            )
        return path

    return make
