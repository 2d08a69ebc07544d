"""The cache: whole or not there, one decoding for many processes, nothing left of the killed."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli import data
from tfkd_cli.data import cache
from tfkd_cli.data.cache import Draft
from tfkd_cli.data.facts import DATASETS, DataSet
from tfkd_cli.data.reader import silent
from tfkd_cli.errors import RunError
from tfkd_cli.execution import Execution

FACTS = dataclasses.replace(DATASETS["cifar10"], name="small", train_images=4, test_images=2)


def fill(draft: Draft) -> DataSet:
    for part, count in (("train", 4), ("test", 2)):
        draft.write(part, [np.full((count, 3, 32, 32), 7, np.uint8)], list(range(count)))
    draft.class_names = tuple("abcdefghij")
    return FACTS


def never(anything: object) -> DataSet:
    raise AssertionError("decoded again")


def test_what_was_decoded_is_loaded_and_not_decoded_again(tmp_path: Path) -> None:
    cache.build(tmp_path, "small", fill, progress=silent)
    cache.build(tmp_path, "small", never, progress=silent)
    arrays = cache.load(tmp_path, "small")
    assert arrays is not None
    assert arrays.facts == FACTS
    assert isinstance(arrays.train_images_NCHW, np.memmap)
    assert not arrays.train_images_NCHW.flags.writeable
    assert arrays.test_labels_N.tolist() == [0, 1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "train_images.npy").write_bytes(b"short"),
        lambda folder: (folder / "test_labels.npy").unlink(),
        lambda folder: (folder / "meta.json").write_text("{"),
        lambda folder: (folder / "meta.json").write_text('{"schema": 2, "files": {}, "facts": {"name": 3}}'),
        lambda folder: (folder / "meta.json").unlink(),
    ],
)
def test_a_damaged_data_set_is_decoded_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    cache.build(tmp_path, "small", fill, progress=silent)
    damage(cache.place(tmp_path, "small"))
    assert cache.load(tmp_path, "small") is None
    cache.build(tmp_path, "small", fill, progress=silent)
    assert cache.load(tmp_path, "small") is not None
    assert not list((tmp_path / "data").glob(".draft-*"))


@given(
    st.sampled_from(["train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 7),
)
def test_a_flipped_bit_anywhere_is_found_named_and_mended(file: str, place: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cache.build(root, "small", fill, progress=silent)
        assert cache.damaged(root, "small") is None
        path = cache.place(root, "small") / file
        content = bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1 << bit
        path.write_bytes(content)
        assert cache.damaged(root, "small") == path
        assert cache.read_meta(root, "small") is None
        cache.build(root, "small", fill, progress=silent)
        assert cache.damaged(root, "small") is None


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
def test_a_flipped_bit_in_the_description_is_never_believed(place: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        cache.build(root, "small", fill, progress=silent)
        path = cache.place(root, "small") / "meta.json"
        before, content = cache.described(root, "small"), bytearray(path.read_bytes())
        content[int(place * len(content))] ^= 1 << bit
        path.write_bytes(content)
        assert cache.described(root, "small") in (None, before)  # the same JSON may be written in two ways


def test_a_file_is_hashed_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.build(tmp_path, "small", fill, progress=silent)
    assert cache.damaged(tmp_path, "small") is None
    monkeypatch.setattr(cache, "_sha256", never)
    assert cache.damaged(tmp_path, "small") is None
    (cache.place(tmp_path, "small") / "test_labels.npy").touch()
    with pytest.raises(AssertionError):
        cache.damaged(tmp_path, "small")


def test_a_pipe_in_the_place_of_a_description_is_not_waited_for(tmp_path: Path) -> None:
    cache.build(tmp_path, "small", fill, progress=silent)
    path = cache.place(tmp_path, "small") / "meta.json"
    path.unlink()
    os.mkfifo(path)
    assert cache.damaged(tmp_path, "small") == path


def test_changed_labels_are_decoded_again_before_anything_is_calculated(tmp_path: Path) -> None:
    execution, said = Execution(cache=str(tmp_path)), list[str]()
    labels_N = data.load("digits", execution=execution).train_labels_N
    path = tmp_path / "data" / "digits" / "train_labels.npy"
    np.save(path, (labels_N + 1) % 10)
    again = data.load("digits", execution=execution, progress=lambda what, share: said.append(what))
    assert (again.train_labels_N == labels_N).all()
    assert f"{path} is damaged" in said[0]


def test_a_failed_decoding_leaves_nothing(tmp_path: Path) -> None:
    def fail(draft: Draft) -> DataSet:
        fill(draft)
        raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match=r"No space left on device(.|\n)*--cache-dir"):
        cache.build(tmp_path, "small", fail, progress=silent)
    assert [each.name for each in (tmp_path / "data").iterdir()] == [".lock-small"]


def test_images_and_labels_must_be_as_many(tmp_path: Path) -> None:
    def fail(draft: Draft) -> DataSet:
        draft.write("train", [np.zeros((3, 3, 32, 32), np.uint8)], [0])
        return FACTS

    with pytest.raises(RunError, match="3 images and 1 labels"):
        cache.build(tmp_path, "small", fail, progress=silent)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="could not be decoded into"):
        cache.build(tmp_path / "file", "small", fill, progress=silent)


WORKER = """
import sys, time, pathlib, dataclasses
import numpy as np
from tfkd_cli.data import cache
from tfkd_cli.data.facts import DATASETS
root = pathlib.Path(sys.argv[1])
def fill(draft):
    with (root / "decodings").open("a") as file:
        file.write("x")
    for part in ("train", "test"):
        draft.write(part, [np.full((4, 3, 32, 32), 7, np.uint8)], [0] * 4)
    (root / "busy").touch()
    time.sleep(float(sys.argv[2]))
    return dataclasses.replace(DATASETS["cifar10"], name="small", train_images=4, test_images=4)
cache.build(root, "small", fill, progress=lambda *_: None)
assert cache.load(root, "small").train_images_NCHW.min() == 7
"""


def worker(root: Path, *, seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WORKER, str(root), str(seconds)])


def test_processes_that_start_at_once_decode_it_once(tmp_path: Path) -> None:
    workers = [worker(tmp_path, seconds=0.2) for _ in range(4)]
    assert [each.wait(60) for each in workers] == [0] * 4
    assert (tmp_path / "decodings").read_text() == "x"
    assert sorted(each.name for each in (tmp_path / "data").iterdir()) == [".lock-small", "small"]


def test_without_locks_the_first_to_finish_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    def overtaken(draft: Draft) -> DataSet:
        cache.build(tmp_path, "small", fill, progress=silent)
        return fill(draft)

    monkeypatch.setattr("fcntl.flock", no_locks)
    cache.build(tmp_path, "small", overtaken, progress=silent)
    assert cache.load(tmp_path, "small") is not None
    assert sorted(each.name for each in (tmp_path / "data").iterdir()) == [".lock-small", "small"]


def test_a_killed_process_holds_nobody_up_and_its_draft_is_swept(tmp_path: Path) -> None:
    killed = worker(tmp_path, seconds=60)
    deadline = time.monotonic() + 60
    while not (tmp_path / "busy").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait(60)
    assert len(list((tmp_path / "data").glob(".draft-small-*"))) == 1
    cache.build(tmp_path, "small", fill, progress=silent)
    assert not list((tmp_path / "data").glob(".draft-*"))


def test_what_is_remembered_holds_until_the_stamp_changes(tmp_path: Path) -> None:
    def remember(stamp: str, value: int) -> dict[str, object]:
        return cache.remembered(tmp_path, Path("/photos"), stamp, lambda: {"value": value})

    assert remember("a", 1) == {"value": 1}
    assert remember("a", 2) == {"value": 1}
    assert remember("b", 3) == {"value": 3}
