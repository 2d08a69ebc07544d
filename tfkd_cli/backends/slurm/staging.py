"""The code a campaign runs: a copy in the store, named by its content, whatever is edited afterwards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tfkd_cli.store import files
from tfkd_cli.training import provenance
from tfkd_cli.training.provenance import PACKAGE

SUFFIXES = (".py", ".toml", ".typed")
NOT_FOR_JOBS = (
    "cli.py", "commands", "options.py", "report", "progress.py", "compare", "console.py", "reproduction",
    "results", "costs.py", "grid.py",
)  # fmt: skip
"""What no job imports."""
DIFF_BYTES = 200_000  # a longer diff is known by its digest only


def stage(code: Path) -> Path:
    """`<code>/<tree>`, complete: made now, or found; named by the sha256 of names and contents."""
    staged = contents()
    whole = hashlib.sha256()
    for name, data in sorted(staged.items()):  # with lengths, so that nothing can be shifted
        whole.update(f"{len(name)} {name} {len(data)} ".encode() + data)
    tree = code / whole.hexdigest()[:16]
    if not tree.is_dir():
        files.make_folder(code)
        files.make_filled_folder(tree, staged)
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
