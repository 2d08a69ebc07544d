"""The code a campaign runs: a copy in the store, named by its content, whatever is edited afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tfkd_cli
from tfkd_cli.training import provenance

PACKAGE = Path(tfkd_cli.__file__).parent
SUFFIXES = (".py", ".toml", ".typed")
NOT_FOR_JOBS = (
    "cli.py", "commands", "options.py", "report", "progress.py", "compare", "console.py", "reproduction",
    "results", "costs.py", "grid.py",
)  # fmt: skip
"""What no job imports."""
DIFF_BYTES = 200_000  # a longer diff is known by its digest only


def stage(code: Path) -> Path:
    """`<code>/<tree>`, complete: made now, or found; named by the sha256 of names and contents."""
    files = contents()
    whole = hashlib.sha256()
    for name, data in sorted(files.items()):  # with lengths, so that nothing can be shifted
        whole.update(f"{len(name)} {name} {len(data)} ".encode() + data)
    tree = code / whole.hexdigest()[:16]
    if not tree.is_dir():
        _write(tree, files)
    return tree


def contents() -> dict[str, bytes]:
    """The files of the copy, by name; among them what it says of itself, as `provenance.code` reads it."""
    found = {}
    for path in PACKAGE.rglob("*"):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] not in NOT_FOR_JOBS and path.suffix in SUFFIXES and path.is_file():
            found[(Path(PACKAGE.name) / inside).as_posix()] = path.read_bytes()
    code = provenance.code()
    noted = json.dumps({"commit": code.commit, "diff": code.diff}).encode()
    found[f"{PACKAGE.name}/{provenance.STAGED}"] = noted
    if 0 < len(code.patch) <= DIFF_BYTES:
        found["code.diff"] = code.patch.encode()
    return found


def _write(tree: Path, files: dict[str, bytes]) -> None:
    """Renamed into place whole: a folder of that name is complete, and of two writers one wins."""
    temporary = tree.with_name(f".{tree.name}.{uuid.uuid4().hex[:12]}.tmp")

    def write(name: str) -> None:
        path = temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as stream:
            stream.write(files[name])
            stream.flush()
            os.fsync(stream.fileno())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, files))
    try:
        temporary.rename(tree)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not tree.is_dir():
            raise
