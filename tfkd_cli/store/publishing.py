"""How an attempt's records become the run's: one decision, then steps that any process can complete.

1. The attempt stages a complete set in its own folder: `attempts/0003/publish/{metrics.jsonl, weights/}`.
2. It creates `attempts/winner.json`, once: the whole result, with the digest of every file. This decides.
3. The winner's files move to the run's folder, and `result.json` is created, once, with the same bytes.

A crash or a stop before 2 leaves nothing but an attempt; after 2 any later process does the rest, without
training. Losers never touch what the winner staged, so files of two attempts cannot mix.

A finished run whose weights were freed may be trained again to teach: `attempts/retrained-1.json` vouches for
the new weights, and the result stays as it is.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tfkd_cli.schema import Count, Digest, FileName, Positive, Record
from tfkd_cli.store import files, reading
from tfkd_cli.store.reading import LINES_LIMIT, DamagedFile
from tfkd_cli.store.run_state import METRICS, SCHEMA, check_result, check_seal, sealed, unsealed

RESULT = "result.json"
WEIGHTS = "weights"
WINNER = "winner.json"
ATTEMPTS = "attempts"
STAGED = "publish"
SAME = 1e-9  # percent: a result and its metrics hold the same number, written twice

log = logging.getLogger("tfkd")


class _Retrained(Record):
    """`attempts/retrained-1.json`; without a digest where an earlier tfkd wrote it."""

    schema: Count
    key: Digest
    attempt: Positive
    weights: dict[FileName, Digest]
    digest: Digest | None = None


def attempt_path(run: Path, number: int) -> Path:
    """`attempts/0003`."""
    return run / ATTEMPTS / f"{number:04d}"


def encode_lines(lines: Iterable[Mapping[str, Any]]) -> bytes:
    """The bytes of a `.jsonl` file."""
    return b"".join(files.encode_json(line, indent=None) for line in lines)


def stage(
    attempt: Path, *, metrics: list[dict[str, Any]], weights: Mapping[str, Path]
) -> tuple[dict[str, str], dict[str, str]]:
    """Put a complete set into the attempt's own folder; the digests of its records and of its weights."""
    staged = attempt / STAGED
    files.remove(staged)
    files.make_folder(staged / WEIGHTS)
    lines = encode_lines(metrics)
    files.write_atomic(staged / METRICS, lines)
    digests = {}
    for name, source in weights.items():
        files.link_or_copy(source, staged / WEIGHTS / name)
        digests[name] = reading.digest(staged / WEIGHTS / name)
    files.sync_folder(staged / WEIGHTS)
    return {METRICS: hashlib.sha256(lines).hexdigest()}, digests


def decide(run: Path, result: Mapping[str, Any]) -> None:
    """Make this the run's result, unless there is one; then finish whichever it is."""
    data = sealed(result)
    parse_result(data, run / RESULT, key=result["key"])
    files.create_once(run / ATTEMPTS / WINNER, data)
    finish(run)


def parse_result(data: bytes, path: Path, *, key: str) -> dict[str, Any]:
    """The result in these bytes, of the run whose key begins with `key`; DamagedFile for any other bytes."""
    result = check_result(reading.parse_json(data, path=path), path=path, key=key)
    check_seal(data, result["digest"], path=path)
    return result


def read_result(run: Path) -> dict[str, Any] | None:
    """The run's result, its digest and its metrics checked; None while there is none.

    What is damaged is repaired from the copy of the attempt; DamagedFile where that is damaged too, and where
    the metrics contradict the result.
    """
    path, copy = run / RESULT, run / ATTEMPTS / WINNER
    if not os.path.lexists(path):
        return None
    parse = partial(parse_result, key=run.name[-12:])
    result: dict[str, Any] = files.read_or_repair(path, [copy], parse, hint=moving_away(run))
    if wrong := next(_contradictions(read_metrics(run, result).splitlines(), result), None):
        raise DamagedFile(
            run / METRICS,
            f"and the result.json beside it contradict each other: {wrong}.",
            expected="the numbers of one training.",
            hint=moving_away(run),
        )
    return result


def _contradictions(lines: Sequence[bytes], result: Mapping[str, Any]) -> Iterator[str]:
    """In what the epochs (a line each) differ from what the result says of the best and the last one."""
    last = result["last"]["epoch"]
    if len(lines) != last:
        yield f"{len(lines)} epochs, and {last} in the result"
    for name in ("best", "last"):
        epoch, theirs = result[name]["epoch"], result[name]["accuracy"]
        line = json.loads(lines[epoch - 1]) if 0 < epoch <= len(lines) else {}
        ours = line.get("test_accuracy") if line.get("epoch") == epoch else None
        if ours is None or theirs is None or abs(ours - theirs) > SAME:
            yield f"{ours} % as its {name} accuracy, and {theirs} % in the result"


def finish(run: Path) -> None:
    """Do what is left to do after a decision; nothing where there is none, or where all is done."""
    decided = not os.path.lexists(run / RESULT) and reading.read_bytes(run / ATTEMPTS / WINNER)
    if decided:
        winner = parse_result(decided, run / ATTEMPTS / WINNER, key=run.name[-12:])
        _move_staged(run, attempt=winner["attempt"], names=[METRICS])
        _move_weights(run, winner)
        _check_moved(run, winner)
        files.create_once(run / RESULT, decided)
    for again in retrained(run):
        _move_weights(run, again)


def _move_weights(run: Path, record: Mapping[str, Any]) -> None:
    """The weights that a result, or a note on weights trained again, vouches for."""
    _refuse_link(run / WEIGHTS)
    files.make_folder(run / WEIGHTS)
    names = [f"{WEIGHTS}/{name}" for name in record[WEIGHTS]]
    _move_staged(run, attempt=record["attempt"], names=names)
    files.sync_folder(run / WEIGHTS)


def _move_staged(run: Path, *, attempt: int, names: list[str]) -> None:
    """What is no longer staged has been moved before, by this process or by another."""
    for name in names:
        files.move(attempt_path(run, attempt) / STAGED / name, run / name)
    files.sync_folder(run)


def _check_moved(run: Path, result: Mapping[str, Any]) -> None:
    """Refuse to vouch for other bytes. Weights may be absent (freed since), the metrics may not."""
    read_metrics(run, result)
    for name, expected in result[WEIGHTS].items():
        path = run / WEIGHTS / name
        if path.exists() and reading.digest(path) != expected:
            raise DamagedFile(
                path,
                "does not hold the weights that were saved.",
                hint=f"remove it (rm '{path}'), then give the same command again.",
            )


def read_metrics(run: Path, result: Mapping[str, Any]) -> bytes:
    """The bytes of metrics.jsonl that the result vouches for; DamagedFile where there are none.

    They are repaired from the copy of the attempt.
    """

    def check(data: bytes, path: Path) -> bytes:
        if hashlib.sha256(data).hexdigest() != result["records"][METRICS]:
            raise DamagedFile(
                path,
                "is not what its result.json vouches for (wrong digest).",
                expected="the file whose digest stands in its result.json.",
            )
        return data

    copy = attempt_path(run, result.get("attempt") or 1) / METRICS
    return files.read_or_repair(run / METRICS, [copy], check, hint=moving_away(run), limit=LINES_LIMIT)


def moving_away(run: Path) -> str:
    """What to do about a damaged run; under its new name it counts for nothing."""
    return f"move the run away (mv '{run}' '{run}.damaged'), then give the command that trains it again."


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise DamagedFile(folder, "is a link.", expected="a folder of the store.")


def retrained(run: Path) -> list[dict[str, Any]]:
    """The notes on later trainings that gave this finished run its weights back, in order.

    A damaged note vouches for nothing and is left aside, which is logged.
    """
    found = []
    for path in _retrained_paths(run):
        try:
            again = unsealed(reading.read_bytes(path) or b"", _Retrained, path=path)
            if not again["key"].startswith(run.name[-12:]):
                raise DamagedFile(path, "belongs to another run.", expected=f"key {run.name[-12:]}.")
            found.append(again)
        except DamagedFile as damage:
            log.warning("%s It is left aside; the weights that it vouched for are not used.", damage.what)
    return found


def _retrained_paths(run: Path) -> list[Path]:
    """The notes there are, in order, whatever they hold."""
    paths = (_retrained_path(run, number) for number in range(1, 1000))
    return list(itertools.takewhile(os.path.lexists, paths))


def _retrained_path(run: Path, number: int) -> Path:
    return run / ATTEMPTS / f"retrained-{number}.json"


def missing_weights(run: Path, result: Mapping[str, Any]) -> tuple[str, ...]:
    """The weights the result names that are not there (freed by `clean`, or left out of a pack)."""
    _refuse_link(run / WEIGHTS)
    try:
        present = set(os.listdir(run / WEIGHTS))  # noqa: PTH208 - half the time of iterdir, in a scan
    except OSError:
        present = set()
    return tuple(name for name in result[WEIGHTS] if name not in present)


def give_back(run: Path, result: Mapping[str, Any], *, attempt: int, staged: Mapping[str, str]) -> bool:
    """Weights of a finished run that were freed return from an attempt that trained it again."""
    number = len(_retrained_paths(run)) + 1  # before looking: whoever decides meanwhile takes this number
    finish(run)
    missing = [name for name in missing_weights(run, result) if name in staged]
    if missing:
        digests = {name: staged[name] for name in missing}
        note = {"schema": SCHEMA, "key": result["key"], "attempt": attempt, "weights": digests}
        files.create_once(_retrained_path(run, number), sealed(note))
        finish(run)
    return bool(missing) and not missing_weights(run, result)
