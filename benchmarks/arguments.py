"""What the benchmarks' options may be; argparse says which was wrong and ends with code 2."""

from __future__ import annotations

from argparse import ArgumentTypeError
from pathlib import Path


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def image_folder(text: str) -> Path:
    """A folder with train/CLASS/* and test/CLASS/*."""
    folder = Path(text)
    for part in ("train", "test"):
        if not any(each.is_dir() for each in folder.glob(f"{part}/*")):
            raise ArgumentTypeError(
                f"{text!r} has no {part}/CLASS folders; expected train/CLASS/* and test/CLASS/*. "
                "Without --data, images are made."
            )
    return folder


def checkout(text: str) -> Path:
    """A folder that holds a checkout of tfkd."""
    folder = Path(text).absolute()
    if not (folder / "benchmarks" / "side.py").is_file():
        raise ArgumentTypeError(f"{text!r} holds no benchmarks/side.py; expected a checkout of tfkd")
    return folder


def file_to_write(text: str) -> Path:
    """A file in a folder that is there."""
    path = Path(text)
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ArgumentTypeError(f"cannot write {text!r}; expected a file in a folder that exists")
    return path
