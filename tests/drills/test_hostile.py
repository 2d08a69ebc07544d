"""Broken and hostile input: the reading commands give a message, no traceback, and run no code of others."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfkd_cli.__main__ import main
from tfkd_cli.store import Store, reading, run_state

if TYPE_CHECKING:
    from tests.drills.conftest import Drill

NASTY = "<script>alert(1)</script><b>x&'../../x"
FILES = (
    "runs/{run}/spec.json",
    "runs/{run}/result.json",
    "runs/{run}/metrics.jsonl",
    "runs/{run}/attempts/winner.json",
    "runs/{run}/attempts/0001/env.json",
    "runs/{run}/attempts/0001/metrics.jsonl",
    "requests/{request}",
    "submissions/{submission}/submission.json",
    "submissions/{submission}/jobs/0000.json",
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -1, 0, 1e308, -0.0, 1 << 63]),
    st.floats(),
    st.sampled_from([NASTY, "../../../etc/passwd", "/etc/passwd", "a\0b", "\ud800", "x" * 100_000, ""]),
    st.text(max_size=20),
    st.just([]),
    st.just({}),
    st.recursive(st.none(), lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner)),
)
BYTES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"",
            b"null",
            b"[]",
            b"{}",
            b"[" * 100_000,
            b'{"a":' * 5000,
            b"NaN",
            b"\xff\xfe{}",
            b'"' + b"x" * 5_000_000,
        ]
    ),
)


def tell(*arguments: str) -> tuple[int, str]:
    """What `tfkd` says to these arguments, in this process: an exception that escapes fails the test."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(arguments)
    assert "Traceback" not in said.getvalue()
    assert code in (0, 1, 2), (arguments, said.getvalue())
    return code, said.getvalue()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, whole: Callable[..., Drill]) -> Path:
    """A copy of a finished store, to be broken and mended."""
    root = tmp_path_factory.mktemp("hostile") / "results"
    shutil.copytree(whole().root, root)
    return root


@contextlib.contextmanager
def broken(path: Path, damage: bytes | None) -> Iterator[None]:
    """The file with other bytes, or without any."""
    before = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(before)


def changed(data: st.DataObject, document: Any) -> Any:
    """The document with one value, anywhere in it, replaced or removed."""
    inner = document
    while True:
        places = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        place = data.draw(st.sampled_from(places))
        below = inner[place]
        if not isinstance(below, dict | list) or not below or data.draw(st.booleans()):
            break
        inner = below
    if data.draw(st.booleans()) and data.draw(st.booleans()):
        del inner[place]
    else:
        inner[place] = data.draw(VALUES)
    return document


def damaged(data: st.DataObject, path: Path) -> bytes | None:
    """What may have become of a file."""
    whole = path.read_bytes()
    kind = data.draw(st.sampled_from(["value", "value", "value", "cut", "bytes", "gone", "mixed"]))
    if kind == "value":
        lines = whole.splitlines() if path.suffix == ".jsonl" else [whole]
        made = [json.dumps(changed(data, json.loads(line)), allow_nan=True).encode() for line in lines[:1]]
        return b"\n".join([*made, *lines[1:]])
    if kind == "cut":
        return whole[: data.draw(st.integers(0, len(whole) - 1))]
    if kind == "mixed":
        at = data.draw(st.integers(0, len(whole) - 1))
        return whole[:at] + data.draw(st.binary(min_size=1, max_size=8)) + whole[at:]
    return None if kind == "gone" else data.draw(BYTES)


def some_file(data: st.DataObject, root: Path) -> Path:
    """A file of the store, most of them a run's."""
    names = {
        kind: sorted(p.name for p in (root / f"{kind}s").iterdir())
        for kind in ("run", "request", "submission")
    }
    chosen = {kind: data.draw(st.sampled_from(each)) for kind, each in names.items()}
    return root / data.draw(st.sampled_from(FILES)).format(**chosen)


@given(data=st.data())
def test_whatever_is_broken_the_reading_commands_give_a_message(finished: Path, data: st.DataObject) -> None:
    path = some_file(data, finished)
    store, run = ["--results", str(finished)], next(Store(finished).runs()).name
    with broken(path, damaged(data, path)):
        tell("status", "--json", *store)
        tell("show", "run", "--format", "json", *store)
        tell("show", run, *store)
        tell("clean", *store)


@settings(max_examples=settings().max_examples // 6)
@given(data=st.data())
def test_whatever_is_broken_the_report_is_written(finished: Path, data: st.DataObject) -> None:
    path = some_file(data, finished)
    out = finished.parent / "page"
    with broken(path, damaged(data, path)):
        tell("report", "--results", str(finished), "--out", str(out))
        for page in out.rglob("*.html"):
            assert not re.search("<script>alert|<img src=x|<b>x", page.read_text()), page
        tell("plan", "demo", "--results", str(finished))
    shutil.rmtree(out, ignore_errors=True)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "../../etc/passwd",
        "/etc/passwd",
        "a\0b",
        "-x",
        "",
        ".",
        "..",
        "%s%n",
        "*",
        "~",
        "\ud800",
        "x" * 5000,
    ],
)
def test_a_name_with_tricks_is_no_run(finished: Path, name: str) -> None:
    for command in ("show", "logs", "status"):
        assert tell(command, "--results", str(finished), "--", name)[0] == 2


@pytest.mark.parametrize(
    "place", ["runs", "runs/RUN", "runs/RUN/weights", "runs/RUN/attempts", "runs/RUN/result.json"]
)
def test_a_link_out_of_the_store_is_not_followed(finished: Path, tmp_path: Path, place: str) -> None:
    root = tmp_path / "results"
    shutil.copytree(finished, root)
    path = root / place.replace("RUN", next(Store(root).runs()).name)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    before = _bytes_of(tmp_path / "elsewhere")
    for command in (("status",), ("show", "run"), ("clean", "--yes")):
        tell(*command, "--results", str(root))
    assert _bytes_of(tmp_path / "elsewhere") == before


def _bytes_of(path: Path) -> dict[str, bytes]:
    found = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return {str(each): each.read_bytes() for each in found}


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.cache_prefix = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch '{self.cache_prefix}'",)


def test_a_training_state_that_would_run_code_is_passed_over(
    drill: Callable[..., Drill],
    recovers: Callable[[Drill], None],
    whole: Callable[..., Drill],
    tmp_path: Path,
) -> None:
    attacked, mark = drill(), tmp_path / "ran"
    for each in whole().store.runs():
        run = attacked.store.run(each.spec())
        run.declare(each.spec())
        attempt = run.start_attempt(owner={})
        attempt.save_state(pickle.dumps(Evil(mark)), step=3, epoch=1)
        attempt.release()
    recovers(attacked)
    assert not mark.exists()
    assert attacked.attempts() == 2 * len(whole().outcome())


@pytest.mark.drill
def test_weights_that_would_run_code_are_refused_with_a_message(
    drill: Callable[..., Drill], whole: Callable[..., Drill], tmp_path: Path
) -> None:
    attacked, mark = drill(), tmp_path / "ran"
    shutil.copytree(whole().root, attacked.root)
    for run in attacked.store.runs():
        result = json.loads((run.path / "result.json").read_bytes())
        (run.path / "weights/best.pt").write_bytes(pickle.dumps(Evil(mark)))
        result["weights"]["best.pt"] = reading.digest(run.path / "weights/best.pt")
        (run.path / "result.json").write_bytes(run_state.sealed(result))
        if "kd" in run.name:
            shutil.rmtree(run.path)
    ended = attacked()
    assert (ended.code, ended.clear, mark.exists()) == (1, True, False), ended.err
    assert "cannot read the weights" in ended.err


@pytest.mark.drill
@pytest.mark.timeout(0)
@pytest.mark.parametrize("bad", [b"", b"hello", b"PK\x03\x04" + b"x" * 100, None])
def test_a_teacher_of_others_that_cannot_be_read_is_named_and_runs_nothing(
    drill: Callable[..., Drill], tmp_path: Path, bad: bytes | None
) -> None:
    path, mark = tmp_path / "teacher.pt", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Evil(mark)) if bad is None else bad)
    ended = drill("foreign", *drill().command, "--teacher-checkpoint", str(path))()
    assert (ended.code, ended.clear, mark.exists()) == (2, True, False), ended.err
    assert f"cannot read the weights in {path}" in ended.err
