"""New files beside the old ones until all are made: an interrupted report leaves the old one."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tfkd_cli.errors import RequestError, RunError

FOLDER, INDEX = "report", "index.html"
FILES = ".files.json"  # what the last report wrote: files that are no longer made are removed
OLD_SECONDS = 3600.0  # no report takes longer: what is older was left by a crash


class Staging:
    """A folder for new files; `publish` moves them to `out/report/` and `out/index.html`, nowhere else."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / FOLDER
        self._new = self.folder / f".new-{uuid.uuid4().hex[:12]}"
        self._unchanged: list[str] = []

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
        with _reported(self.out):
            self._new.mkdir(parents=True)
            self._remove_left_over()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._new, ignore_errors=True)

    def _remove_left_over(self) -> None:
        for path in self.folder.glob(".new-*"):
            with contextlib.suppress(OSError):
                if path != self._new and time.time() - path.stat().st_mtime > OLD_SECONDS:
                    shutil.rmtree(path)

    def path(self, name: str) -> Path:
        """Where to write the new `name` ("table1.md", "curves/…"); its folder exists."""
        with _reported(self.out):
            path = self._new / name
            path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, name: str, text: str) -> None:
        """Make a text file."""
        path = self.path(name)
        with _reported(self.out):
            path.write_text(text, encoding="utf-8", errors="replace", newline="")

    def keep(self, name: str) -> bool:
        """Keep the file of the last report; False when there is none."""
        if (self.folder / name).is_file():
            self._unchanged.append(name)
            return True
        return False

    def read(self, name: str) -> bytes:
        """The bytes of a file of the new report, made now or kept."""
        made = self._new / name
        return (made if made.exists() else self.folder / name).read_bytes()

    def old(self, name: str) -> Path:
        """The file of the last report."""
        return self.folder / name

    @property
    def names(self) -> list[str]:
        """All files of the new report."""
        made = (path for path in self._new.rglob("*") if path.is_file())
        return sorted({*(path.relative_to(self._new).as_posix() for path in made), *self._unchanged})

    def publish(self, index: str) -> Path:
        """Put everything in place, the page last; gives the page's path."""
        names, before = self.names, self._before()
        self.write(FILES, json.dumps(names, indent=1) + "\n")
        self.write(INDEX, index)
        with _reported(self.out):
            for name in [*names, FILES]:
                if (self._new / name).exists():
                    self._place(name)
            (self._new / INDEX).replace(self.out / INDEX)
            for name in sorted(set(before) - set(names)):
                self._remove(name)
        return self.out / INDEX

    def _place(self, name: str) -> None:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.parent.resolve() != (self.folder.resolve() / name).parent:
            raise RequestError(f"{target.parent} is a link.", expected="a folder.", hint="remove it.")
        (self._new / name).replace(target)

    def _before(self) -> list[str]:
        """The files of the last report, those only that lie in the folder."""
        try:
            names = json.loads((self.folder / FILES).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []

    def _remove(self, name: str) -> None:
        path = self.folder / name
        inside = path.parent.resolve().is_relative_to(self.folder.resolve())
        if inside and ".." not in path.parts and not path.is_dir():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _reported(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"cannot write the report into {out}: {error.strerror or error}.",
            expected="a folder you may write to, with room.",
            hint="choose another with --out DIR; the runs are not touched.",
        ) from error
