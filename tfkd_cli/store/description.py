"""spec.json, which says what a run is: written once, copied into each attempt, repaired from these copies."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tfkd_cli import own_code
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.methods import describe
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import files, reading
from tfkd_cli.store.reading import DamagedFile

SPEC = "spec.json"
_HINT = "the command that asked for this run writes it again; `tfkd status` and reports go on without it."

log = logging.getLogger("tfkd")


def encode(spec: RunSpec) -> bytes:
    """The bytes of spec.json: the full key, every resolved value, and what a loss outside tfkd is."""
    own = {"described": describe(type(spec.loss))} if own_code.is_own(spec.loss.kind) else {}
    return files.encode_json({"key": spec.key, **spec.to_json(), **own})


def write(run: Path, spec: RunSpec) -> None:
    """Write spec.json, unless it is there; a damaged one is replaced. RunError where keys have collided."""
    if files.create_once(run / SPEC, encode(spec)):
        return
    try:
        found = read(run)
    except DamagedFile as damage:
        log.warning("%s It is written again.", damage.what)
        files.put_back(run / SPEC, encode(spec))
        return
    if found.key != spec.key:
        raise RunError(
            f"{run} belongs to another run (key {found.key[:12]}).",
            expected=f"key {spec.key[:12]}.",
            hint="keep the two in separate stores (--results), and please report it: keys have collided.",
        )


def read(run: Path) -> RunSpec:
    """The run that a folder is for, its key checked against the folder's name.

    A damaged or missing spec.json is repaired from the copy of an attempt; DamagedFile where there is no
    sound copy either.
    """
    return files.read_or_repair(run / SPEC, _copies(run), partial(_parse, run), hint=_HINT)


def _copies(run: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        for name in sorted(os.listdir(run / "attempts"), reverse=True):  # noqa: PTH208 - as in a scan
            yield run / "attempts" / name / SPEC


def _parse(run: Path, data: bytes, path: Path) -> RunSpec:
    try:
        spec = RunSpec.from_json(reading.parse_json(data, path=path))
    except RequestError as error:
        raise DamagedFile(path, error.what, expected=error.expected, hint=_HINT) from error
    if not spec.key.startswith(run.name[-12:]):
        raise DamagedFile(
            path, f"describes run {spec.key[:12]}.", expected=f"run {run.name[-12:]}.", hint=_HINT
        )
    return spec
