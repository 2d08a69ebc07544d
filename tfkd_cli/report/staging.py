"""New files beside the old ones until all are made: an interrupted report leaves the old one."""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.regular_files import open_regular
from tfkd_cli.store import Cleanable

FOLDER, INDEX = "report", "index.html"
FILES = ".files.json"
TITLE, HEAD = b"<title>Tf-KD", 4096  # how a page of `tfkd report` begins, within so many bytes
OLD_SECONDS = 3600.0  # no report takes longer: what is older was left by a crash


class Noted(msgspec.Struct):
    """What reports wrote here: files and items (slugs) of the last one, and older files of earlier ones."""

    files: list[str] = []
    items: list[str] = []
    older: list[str] = []


class Staging:
    """A folder for new files; `publish` moves them to `out/report/` and `out/index.html`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / FOLDER
        self._new = self.folder / f".new-{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> Staging:
        if self.out.exists() and not self.out.is_dir():
            raise RequestError(f"{self.out} is not a folder.", hint="choose a folder with --out.")
        for path in (self.folder, self.out / INDEX):
            if path.is_symlink():
                raise RequestError(
                    f"{path} is a link.",
                    expected="a place of its own.",
                    hint="remove it, or choose --out DIR.",
                )
        with reported(self.out):
            self._refuse_other_page()
            self._new.mkdir(parents=True)
            self._remove_left_over()
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._new, ignore_errors=True)

    def _refuse_other_page(self) -> None:
        path = self.out / INDEX
        if path.is_file() and not (self.folder / FILES).exists():
            with open_regular(path) as stream:
                if TITLE not in stream.read(HEAD):
                    raise RequestError(
                        f"{path} is there, and no page that `tfkd report` wrote.",
                        expected="a folder without a page of its own.",
                        hint="choose another with --out DIR, or move the page away.",
                    )

    def _remove_left_over(self) -> None:
        for path in self.folder.glob(".new-*"):
            with contextlib.suppress(OSError):
                if path != self._new and time.time() - path.stat().st_mtime > OLD_SECONDS:
                    shutil.rmtree(path)

    @property
    def items(self) -> list[str]:
        """The slugs of the tables and figures that the last report here showed."""
        return _noted(self.folder).items

    def path(self, name: str) -> Path:
        """Where to write the new `name` ("table1.md", "curves/…"); its folder exists."""
        with reported(self.out):
            path = self._new / name
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, text: str) -> None:
        """Make a text file."""
        path = self.path(name)
        with reported(self.out):
            path.write_text(text, encoding="utf-8", errors="replace", newline="")

    def read(self, name: str) -> bytes:
        """The bytes of a file of the new report."""
        return (self._new / name).read_bytes()

    @property
    def names(self) -> list[str]:
        """All files of the new report."""
        made = (path for path in self._new.rglob("*") if path.is_file())
        return sorted(path.relative_to(self._new).as_posix() for path in made)

    def publish(self, index: str, *, items: Sequence[str], complete: bool = True) -> Path:
        """Put everything in place, the page last; gives the page's path. Nothing is removed.

        Unless it is `complete`, what the last report showed may still be asked for: it counts as shown.
        """
        names, before = self.names, _noted(self.folder)
        still = Noted() if complete else before
        noted = Noted(
            files=sorted({*names, *still.files}),
            items=[*dict.fromkeys((*items, *still.items))],
            older=sorted({*before.files, *before.older} - {*names, *still.files}),
        )
        self.write(FILES, msgspec.json.encode(noted).decode())
        self.write(INDEX, index)
        with reported(self.out):
            for name in [*names, FILES]:
                self._place(name)
            (self._new / INDEX).replace(self.out / INDEX)
        return self.out / INDEX

    def _place(self, name: str) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent.resolve() != (self.folder.resolve() / name).parent:
            raise RequestError(f"{target.parent} is a link.", expected="a folder.", hint="remove it.")
        (self._new / name).replace(target)


def outdated(out: Path) -> list[Cleanable]:
    """Files in `out/report/` that an earlier report wrote and the last one did not, for `tfkd clean`."""
    folder = out / FOLDER
    paths = [folder / name for name in _noted(folder).older if ".." not in Path(name).parts]
    inside = (path for path in paths if path.parent.resolve().is_relative_to(folder.resolve()))
    found = (path for path in inside if path.is_file() and not path.is_symlink())
    return [
        Cleanable(path, path.stat().st_size, "no table or figure of the report uses it") for path in found
    ]


def _noted(folder: Path) -> Noted:
    """What the last report in a folder noted; nothing where that cannot be read."""
    try:
        with open_regular(folder / FILES, follow_links=False) as stream:
            return msgspec.json.decode(stream.read(), type=Noted)
    except (OSError, ValueError, RecursionError):
        return Noted()


@contextlib.contextmanager
def reported(out: Path) -> Iterator[None]:
    """An OSError while the report is written becomes a RunError."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write the report into {out}: {error.strerror or error}.",
            expected="a folder you may write to, with room.",
            hint="choose another with --out DIR; the runs are not touched.",
        ) from error
