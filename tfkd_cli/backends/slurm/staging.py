"""The code a campaign runs: a copy in the store, named by its content, whatever is edited afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tfkd_cli
from tfkd_cli.training import provenance

PACKAGES = (Path(tfkd_cli.__file__).parent,)  # a job knows runs, not tables
SUFFIXES = (".py", ".toml", ".typed")
NOT_FOR_JOBS = ("report", "commands", "reproduction")  # layers above the worker: a job imports none of them
DIFF_BYTES = 200_000  # a longer diff is known by its digest only


def stage(code: Path) -> Path:
    """`<code>/<tree>`, complete: made now, or found; named by the sha256 of names and contents."""
    contents = _contents()
    tree = code / tree_digest(contents)
    if not tree.is_dir():
        _write(tree, contents)
    return tree


def name() -> str:
    """The name the code would have, staged now."""
    return tree_digest(_contents())


def tree_digest(contents: dict[str, bytes]) -> str:
    """The name of a tree: over names and contents, in order, with lengths, so nothing can be shifted."""
    whole = hashlib.sha256()
    for name, data in sorted(contents.items()):
        whole.update(f"{len(name)} {name} {len(data)} ".encode())
        whole.update(data)
    return whole.hexdigest()[:16]


def _contents() -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in _sources()} | _provenance()


def _provenance() -> dict[str, bytes]:
    """What the copy says of itself, as `provenance.code` reads it, and the changes on top of the commit."""
    code = provenance.code()
    noted = json.dumps({"commit": code.commit, "diff": code.diff}).encode()
    patch = code.patch.encode()
    kept = {"code.diff": patch} if 0 < len(patch) <= DIFF_BYTES else {}
    return {f"{PACKAGES[0].name}/{provenance.STAGED}": noted, **kept}


def _sources() -> Iterator[tuple[str, Path]]:
    for package in PACKAGES:
        for path in sorted(package.rglob("*")):
            inside = path.relative_to(package)
            if inside.parts[0] in NOT_FOR_JOBS or "__pycache__" in inside.parts:
                continue
            if path.suffix in SUFFIXES and path.is_file():
                yield (Path(package.name) / inside).as_posix(), path


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _write(tree: Path, contents: dict[str, bytes]) -> None:
    """Renamed into place whole: a folder of that name is complete, and of two writers one wins."""
    temporary = tree.with_name(f".{tree.name}.{uuid.uuid4().hex[:12]}.tmp")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda item: _write_file(temporary / item[0], item[1]), contents.items()))
    try:
        temporary.rename(tree)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not tree.is_dir():
            raise
