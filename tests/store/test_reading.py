"""Broken and hostile files are refused with a message; nothing else comes out of a reader."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfkd_cli.errors import RunError
from tfkd_cli.store import reading
from tfkd_cli.store.reading import DamagedFile
from tfkd_cli.store.run_state import LINE, check_result

PATH = Path("results/runs/x/result.json")

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.binary() | st.text().map(str.encode) | json_values.map(lambda v: json.dumps(v).encode()))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"[" * 65 + b"]" * 65)
@example(b"9" * 10_000)
@example(b"NaN")
@example(b"\xff\xfe{\0}\0")
@example(b'"\\ud800"')
@example(b"")
def test_bytes_are_json_or_damage(data: bytes) -> None:
    try:
        reading.parse_json(data, path=PATH)
    except DamagedFile as error:
        assert str(error).startswith(str(PATH))  # noqa: PT017 - either is right


@given(st.binary())
@example(b'{"a": 1}\n{"a": 2')
@example(b"\n\n")
@example(b"[]\n{}\n")
def test_any_bytes_are_lines_and_what_was_left_out(data: bytes) -> None:
    found = reading.parse_lines(data, path=PATH)
    kept = len(found.lines)
    assert all(isinstance(line, dict) for line in found.lines)
    assert kept == len([line for line in data.split(b"\n") if line.strip()]) or found.damage


def test_a_last_line_cut_off_is_left_out_and_named() -> None:
    found = reading.parse_lines(b'{"epoch": 1}\n{"epoch": 2}\n{"epo', path=PATH)
    assert [line["epoch"] for line in found.lines] == [1, 2]
    assert found.damage == f"{PATH}: line 3 is cut off or damaged and is left out."


@pytest.mark.parametrize("bad", [b"nonsense", b'{"epoch": "2"}', b'{"lr": 1}', b'{"epoch": 2, "lr": 1e999}'])
def test_a_line_in_the_middle_that_holds_no_epoch_or_other_than_numbers_is_left_out(bad: bytes) -> None:
    found = reading.parse_lines(b'{"epoch": 1}\n%s\n{"epoch": 3, "lr": null}\n' % bad, *LINE, path=PATH)
    assert [line["epoch"] for line in found.lines] == [1, 3]
    assert "line 2 is" in found.damage


def test_a_key_that_stands_twice_is_damage() -> None:
    with pytest.raises(DamagedFile, match="'seed' stands there twice"):
        reading.parse_json(b'{"seed": 1, "seed": 2}', path=PATH)


def test_an_enormous_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as stream:
        stream.truncate(1 << 40)  # sparse
    with pytest.raises(DamagedFile, match="1,099,511,627,776 bytes"):
        reading.read_object(tmp_path / "x")


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "device"])
def test_what_is_no_file_is_refused_and_does_not_block(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "link":
        (tmp_path / "secret").write_text("{}")
        path.symlink_to(tmp_path / "secret")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = Path("/dev/zero")
    with pytest.raises(RunError, match="it is a"):
        reading.read_object(path)


@given(st.text())
@example("..")
@example("a/b")
@example("/etc")
@example("a\0b")
@example(".hidden")
@example("x" * 5000)
@example("-rf")
def test_a_safe_name_is_one_plain_component(name: str) -> None:
    if reading.is_safe_name(name):
        assert Path("runs", name).parent == Path("runs")
        assert not name.startswith((".", "-"))
        assert name.isprintable()
        assert len(name) <= 255


VALID = {
    "schema": 2,
    "digest": "0" * 64,
    "key": "8d4c1185ab12" + "0" * 52,
    "attempt": 1,
    "epochs": 2,
    "best": {"epoch": 1, "accuracy": 90.0},
    "last": {"epoch": 2, "accuracy": None, "loss": 1},
    "seconds": 1.5,
    "records": {"metrics.jsonl": "0" * 64},
    "weights": {"best.pt": "0" * 64},
}


def test_a_result_of_ours_is_accepted() -> None:
    assert check_result(VALID, path=PATH, key="8d4c1185ab12") == VALID


@given(st.sampled_from(sorted(VALID)), json_values)
@example("weights", {"../../etc/passwd": "0" * 64})
@example("weights", {"/etc/passwd": "0" * 64})
@example("weights", {"best.pt\0": "0" * 64})
@example("records", {"../spec.json": "0" * 64})
@example("records", {})
@example("best", {"epoch": 1})
@example("best", {"epoch": True, "accuracy": 1})
@example("schema", 1)
@example("digest", None)
@example("epochs", 10**400)
@example("key", "8D" * 32)
def test_a_result_with_any_field_changed_is_a_result_or_damage(name: str, value: object) -> None:
    changed = {**VALID, name: value}
    try:
        checked = check_result(changed, path=PATH, key="8d4c1185ab12")
    except DamagedFile as error:
        assert str(PATH) in str(error)  # noqa: PT017
    else:
        assert all(reading.is_safe_name(each) for each in checked["weights"])
        assert set(checked["records"]) == {"metrics.jsonl"}


@given(json_values)
def test_any_value_is_a_result_or_damage(value: object) -> None:
    with pytest.raises(DamagedFile):
        check_result(value, path=PATH, key="")


def test_a_result_of_another_run_is_refused() -> None:
    with pytest.raises(DamagedFile, match="belongs to run 8d4c1185ab12"):
        check_result(VALID, path=PATH, key="000000000000")


def test_a_result_of_a_newer_tfkd_is_left_alone() -> None:
    with pytest.raises(DamagedFile, match="a newer tfkd wrote it"):
        check_result({**VALID, "schema": 3}, path=PATH, key="8d4c1185ab12")
