"""The results folder: runs, requests, submissions."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import cleaning, files, packing, reading, teacher_logits
from tfkd_cli.store.cleaning import Cleanable
from tfkd_cli.store.reading import DamagedFile
from tfkd_cli.store.run_folder import RUN_NAME, RunFolder
from tfkd_cli.store.run_state import RunState


class Store:
    """A results folder. Opening one checks that it can be used; nothing is written before it must be."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = root  # what the user named: the folder, or the pack it was read from

    @classmethod
    def open(cls, root: Path, *, create: bool, writable: bool = True) -> Store:
        """The store at `root`, a folder or (to read) a file made by `tfkd pack`.

        `create` makes the folder; without it, one that does not exist is an empty store. RequestError when
        it is neither folder nor pack, or `writable` and it is not.
        """
        root = Path(root)
        if "\0" in str(root):
            raise RequestError("the results folder's name holds a NUL character.")
        if root.is_file():
            return cls._open_file(root, writable=writable)
        if os.path.lexists(root) and not root.is_dir():
            what = "a link that leads nowhere" if root.is_symlink() else "not a folder"
            raise RequestError(f"{root} is {what}.", hint="choose a folder with --results.")
        try:
            if create:
                root.mkdir(parents=True, exist_ok=True)
            if writable and root.exists():
                tempfile.TemporaryFile(dir=root).close()
        except OSError as error:
            raise RequestError(
                f"cannot write the results folder {root}: {error.strerror}.",
                expected="a folder you may write to.",
                hint="choose another with --results DIR (or TFKD_RESULTS).",
            ) from error
        return cls(root)

    @classmethod
    def existing(cls, root: Path, *, writable: bool = False) -> Store:
        """The store at `root`, which must be there; RequestError where it is not, or as `open` raises it."""
        if not os.path.lexists(root):
            raise RequestError(
                f"there is no results folder {root}.",
                expected="a folder that tfkd has trained into, or a file made by `tfkd pack`.",
                hint="name it with --results DIR (or TFKD_RESULTS); `tfkd reproduce demo` makes a first one.",
            )
        return cls.open(root, create=False, writable=writable)

    @classmethod
    def _open_file(cls, root: Path, *, writable: bool) -> Store:
        """The records of a pack, in a temporary folder that goes when the store does."""
        if writable:
            raise RequestError(
                f"{root} is a file of records, made to be read.",
                expected="a folder to train into.",
                hint="choose one with --results DIR.",
            )
        folder = Path(tempfile.mkdtemp(prefix="tfkd-records-"))
        store = cls(folder)
        store.source = reading.packs[folder] = root
        weakref.finalize(store, shutil.rmtree, folder, ignore_errors=True)
        packing.unpack(root, folder)
        return store

    @cached_property
    def runs_path(self) -> Path:
        """`runs/`."""
        return self.root / "runs"

    @property
    def teacher_logits_path(self) -> Path:
        """`teacher-logits/`: the cache of teacher logits."""
        return self.root / teacher_logits.TEACHER_LOGITS

    def cached_epochs(self) -> dict[tuple[str, str], int]:
        """(Teacher's cache prefix, 8 digits of its weights' digest) → epochs that are cached."""
        return teacher_logits.cached_epochs(self.teacher_logits_path)

    @property
    def code_path(self) -> Path:
        """`code/`: the package as staged for SLURM."""
        return self.root / "code"

    def run(self, spec: RunSpec) -> RunFolder:
        """The folder of this run, which need not exist."""
        return self.folder(spec.folder)

    def folder(self, name: str) -> RunFolder:
        """The folder of this name; RequestError for a name that could not be a run's, or a link."""
        if RUN_NAME.fullmatch(name) is None:
            raise RequestError(
                f"{name[:80]!r} is no run's name.", expected="one like cifar100-resnet18-kd-s0-8d4c1185ab12."
            )
        path = self.runs_path / name
        if path.is_symlink() or self.runs_path.is_symlink():
            raise RequestError(f"{path} is a link.", expected="a folder inside the store.")
        return RunFolder(path)

    def runs(self) -> Iterator[RunFolder]:
        """The runs that have a folder, by name; whatever else lies there is left alone."""
        for name in self._names():
            yield RunFolder(self.runs_path / name)

    def _names(self) -> list[str]:
        if self.runs_path.is_symlink():
            raise RequestError(f"{self.runs_path} is a link.", expected="a folder inside the store.")
        try:
            with os.scandir(self.runs_path) as entries:
                found = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunError(f"cannot read {self.runs_path}: {error.strerror}.") from error
        return sorted(name for name in found if RUN_NAME.fullmatch(name))

    def find(self, prefix_or_name: str) -> RunFolder:
        """The one run whose key or folder name begins like this; RequestError when there is none, or many."""
        text = prefix_or_name.strip().lower()
        names = self._names()
        found = [name for name in names if name == text]
        if not found and len(text) >= 4:  # the first 12 of the key's 64 digits end the name
            found = [name for name in names if name.startswith(text) or name[-12:].startswith(text[:12])]
        if len(found) == 1:
            return self.folder(found[0])
        if found:
            shown = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
            raise RequestError(f'"{prefix_or_name[:80]}" means {len(found)} runs.', expected=shown)
        raise RequestError(
            f'no run "{prefix_or_name[:80]}" in {self.root}.', hint="`tfkd runs` lists the runs."
        )

    def scan(self, keys: Iterable[str] | None = None) -> dict[str, RunState]:
        """Key (64 hex digits) → state, of all runs or of these; a run without a folder is `todo`."""
        if keys is None:
            return {state.key: state for state in (run.state() for run in self.runs())}
        by_key = {run.short_key: run for run in self.runs()}
        unknown = {key: RunState(key=key, name="", status="todo") for key in keys}
        return {
            key: by_key[key[:12]].state() if key[:12] in by_key else state for key, state in unknown.items()
        }

    def pack(self, keys: Iterable[str] | None, out: Path, *, force: bool = False) -> int:
        """Write the records of these runs (None: of all) and the requests to `out`, a .tar.gz: its size.

        RequestError where it may not be written (see `packing.check_out`).
        """
        packing.check_out(out, store=self.root, force=force)
        wanted = None if keys is None else {key[:12] for key in keys}
        runs = (run for run in self.runs() if wanted is None or run.short_key in wanted)
        return packing.pack(runs, out, requests=self.root / "requests")

    def cleanable(
        self, *, needed: Mapping[str, Collection[str]] | None, teachers: Collection[str] = ()
    ) -> list[Cleanable]:
        """What `tfkd clean` may free; `needed`: key → its snapshots ("epoch-001.pt") that some plan needs.

        `teachers`: cache prefixes of those whose logits unfinished runs may use. Where `needed` is None
        it is not known what plans need: snapshots and cached logits are kept.
        """
        found = cleaning.cleanable(self.runs(), needed=needed)
        if needed is None:
            return found
        unused = cleaning.unused_logits(self.teacher_logits_path, teachers=teachers)
        return [*found, *unused]

    def add_request(self, data: Mapping[str, Any]) -> str:
        """Keep what was asked, as `requests/<id>.json`; an equal request keeps its id."""
        encoded = files.encode_json(dict(data))
        digest = files.short_digest(encoded)
        folder = self.root / "requests"
        files.make_folder(folder)
        for path in folder.glob(f"*-{digest}.json"):
            with contextlib.suppress(OSError):
                os.utime(path)  # asked again: the newest wish
            return path.stem
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{digest}"
        files.create_once(folder / f"{name}.json", encoded)
        return name

    def requests(self) -> list[dict[str, Any]]:
        """What was asked, the newest last, each with its `id`; unreadable ones are left out."""
        return [each for each in self._read_requests() if isinstance(each, dict)]

    def unreadable_requests(self) -> list[str]:
        """Which requests are damaged, and what to do: what they asked for is not known."""
        return [str(each) for each in self._read_requests() if isinstance(each, RunError)]

    def _read_requests(self) -> Iterator[dict[str, Any] | RunError]:
        folder, dated = self.root / "requests", []
        try:
            with os.scandir(folder) as entries:
                named = [e for e in entries if e.name.endswith(".json") and reading.is_safe_name(e.name)]
                dated = [(each.stat(follow_symlinks=False).st_mtime, each.name) for each in named]
        except FileNotFoundError:
            return
        except OSError as error:
            yield DamagedFile(folder, f"cannot be read: {error.strerror}.", expected="a folder.")
        for _, name in sorted(dated):
            try:
                yield _read_request(folder / name)
            except RunError as error:
                yield error

    def submission_path(self, name: str) -> Path:
        """`submissions/<id>`; RequestError for an id that could not be one."""
        if not reading.is_safe_name(name):
            raise RequestError(f"{name[:80]!r} is no submission's id.")
        return self.root / "submissions" / name


def _read_request(path: Path) -> dict[str, Any]:
    """A request, checked against the digest in its name; DamagedFile for anything else."""
    hint = f"move it away (mv '{path}' '{path}.bad') and give the command again; its runs are not touched."
    data = reading.read_bytes(path) or b""
    if path.stem.rpartition("-")[2] != files.short_digest(data):
        raise DamagedFile(
            path, "does not hold what was asked.", expected="the bytes whose digest ends its name.", hint=hint
        )
    asked: dict[str, Any] = reading.as_kind(reading.parse_json(data, path=path), dict[str, Any], path=path)
    return {**asked, "id": path.stem}
