"""Official files from the network: torchvision's checked download, with a time limit."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from tfkd_cli.data.cache import locked
from tfkd_cli.data.reader import silent

TIMEOUT_SECONDS = 20


def load_file(url: str, folder: Path, *, md5: str) -> Path:
    """The file of `url` in `folder`, loaded unless it is there; OSError or RuntimeError when it fails."""
    from torchvision.datasets.utils import download_url

    name = url.rsplit("/", 1)[-1]
    with one_at_a_time(folder, name):
        download_url(url, str(folder), filename=name, md5=md5)
    return folder / name


@contextlib.contextmanager
def one_at_a_time(folder: Path, name: str) -> Iterator[None]:
    """One download of this name into `folder`, with a time limit: urllib waits for ever by default."""
    folder.mkdir(parents=True, exist_ok=True)
    before = socket.getdefaulttimeout()
    with locked(folder / f".lock-{name}", progress=silent):
        socket.setdefaulttimeout(TIMEOUT_SECONDS)
        try:
            yield
        finally:
            socket.setdefaulttimeout(before)
