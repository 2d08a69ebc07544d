"""Records in one file: complete for tables, small, and refused when anything else is in them."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tfkd_cli.errors import RequestError
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store
from tfkd_cli.store.attempts import environment


@pytest.fixture
def packed(store: Store, tiny_spec: RunSpec, play: Any, tmp_path: Path) -> Path:
    """A pack of one finished and one failed run."""
    play.train(store.root, tiny_spec)
    other = replace(tiny_spec, seed=1)
    store.run(other).declare(other)
    store.run(other).start_attempt(owner={}).fail({"message": "no"})
    store.add_request({"names": ["demo"]})
    store.pack(None, tmp_path / "records.tar.gz")
    return tmp_path / "records.tar.gz"


def test_a_pack_is_read_like_the_store_it_came_from(store: Store, packed: Path, tiny_spec: RunSpec) -> None:
    reader = Store.open(packed, create=False, writable=False)
    assert reader.source == packed
    assert reader.run(tiny_spec).metrics() == store.run(tiny_spec).metrics()
    assert reader.run(tiny_spec).result() == store.run(tiny_spec).result()
    assert reader.requests()[0]["names"] == ["demo"]
    states = reader.scan()
    assert {state.status for state in states.values()} == {"done", "failed"}
    assert states[tiny_spec.key].missing
    assert not list(reader.root.rglob("*.pt"))


def test_a_pack_does_not_say_host_process_and_where_folders_are(
    store: Store, tiny_spec: RunSpec, tmp_path: Path
) -> None:
    folder = store.run(tiny_spec)
    folder.declare(tiny_spec)
    attempt = folder.start_attempt(owner={})
    attempt.write_env({"host": "my-host", "pid": 1, "argv": ["/home/me/tfkd"], "cores": 2})
    photos = "folder:/home/me/photos"
    store.add_request(
        {"command": f"tfkd run --dataset {photos} --results=/home/me/it", "data": {photos: "x"}}
    )
    store.run(replace(tiny_spec, seed=1)).declare(replace(tiny_spec, seed=1))
    failed = store.run(replace(tiny_spec, seed=1)).start_attempt(owner={})
    failed.fail({"message": "no /home/me/x.png", "traceback": 'File "/home/me/tfkd/a.py", line 1\n'})
    packs = [tmp_path / "one.tar.gz", tmp_path / "two.tar.gz"]
    store.pack(None, packs[0])
    reader = Store.open(packs[0], create=False, writable=False)
    reader.pack(None, packs[1])
    assert packs[0].read_bytes() == packs[1].read_bytes()
    assert not [each for each in reader.root.rglob("*.json") if b"home" in each.read_bytes()]
    assert environment(reader.run(tiny_spec).path, 1) == {"cores": 2}
    (request,) = reader.requests()
    assert request["command"] == "tfkd run --dataset folder:photos --results=it"
    assert request["data"] == {"folder:photos": "x"}
    state = reader.run(replace(tiny_spec, seed=1)).state()
    assert (state.failure or {})["message"] == "no x.png"
    assert environment(folder.path, 1)["host"] == "my-host"


def test_a_packs_temporary_folder_goes_with_its_store(packed: Path) -> None:
    reader = Store.open(packed, create=False, writable=False)
    root = reader.root
    assert root.is_dir()
    del reader
    assert not root.exists()


def test_the_same_records_give_the_same_bytes(store: Store, packed: Path, tmp_path: Path) -> None:
    store.pack(None, tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == packed.read_bytes()


def test_only_the_runs_asked_for_are_packed(store: Store, packed: Path, tiny_spec: RunSpec) -> None:
    store.pack([tiny_spec.key], packed)
    assert list(Store.open(packed, create=False, writable=False).scan()) == [tiny_spec.key]


def test_an_archive_of_nothing_is_no_pack(tmp_path: Path) -> None:
    (tmp_path / "zeros.tar.gz").write_bytes(gzip.compress(bytes(1 << 20)))
    with pytest.raises(RequestError, match="it holds no record"):
        Store.open(tmp_path / "zeros.tar.gz", create=False, writable=False)


def test_a_pack_is_not_trained_into(packed: Path) -> None:
    with pytest.raises(RequestError, match="a file of records"):
        Store.open(packed, create=True)


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("records.json", "is no .tar.gz"),
        ("runs/x.tar.gz", "lies among the records"),
        ("requests/x.tar.gz", "lies among the records"),
        ("runs/{run}/result.json", "is no .tar.gz"),
        ("../nowhere/x.tar.gz", "lies in a folder that is not there"),
        ("../folder.tar.gz", "is a link, a folder or a device"),
        ("../link.tar.gz", "is a link, a folder or a device"),
        ("../circle.tar.gz", "is a link, a folder or a device"),
        ("../pipe.tar.gz", "is a link, a folder or a device"),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_pack_is_written_neither_over_a_record_nor_through_a_link(
    store: Store, packed: Path, tmp_path: Path, out: str, said: str, force: bool
) -> None:
    (tmp_path / "folder.tar.gz").mkdir()
    (tmp_path / "link.tar.gz").symlink_to(packed)
    (tmp_path / "circle.tar.gz").symlink_to(tmp_path / "circle.tar.gz")
    os.mkfifo(tmp_path / "pipe.tar.gz")
    before = packed.read_bytes()
    path = store.root / out.format(run=next(store.runs()).name)
    with pytest.raises(RequestError, match=said):
        store.pack(None, path, force=force)
    assert packed.read_bytes() == before
    assert {state.status for state in store.scan().values()} == {"done", "failed"}


@pytest.mark.parametrize("content", [b"my thesis", gzip.compress(b"my thesis", mtime=0), b""])
def test_a_file_that_is_no_pack_is_replaced_only_by_force(
    store: Store, tiny_spec: RunSpec, play: Any, tmp_path: Path, content: bytes
) -> None:
    play.train(store.root, tiny_spec)
    path = tmp_path / "mine.tar.gz"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="no file that `tfkd pack` made") as caught:
        store.pack(None, path)
    assert "--force" in caught.value.hint
    assert path.read_bytes() == content
    store.pack(None, path, force=True)
    assert list(Store.open(path, create=False, writable=False).scan()) == [tiny_spec.key]


def test_a_damaged_record_in_a_pack_is_named_by_the_pack(store: Store, packed: Path) -> None:
    with tarfile.open(packed) as tar:
        files = [(member.name, tar.extractfile(member)) for member in tar]
        content = [(name, stream.read()) for name, stream in files if stream is not None]
    changed = [(name, tarfile.REGTYPE, data.replace(b'"epoch"', b'"Epoch"')) for name, data in content]
    packed.write_bytes(tar_of(*changed))
    damaged = [
        each for each in Store.open(packed, create=False, writable=False).scan().values() if each.damage
    ]
    assert damaged
    for state in damaged:
        assert state.damage.startswith(f"{packed} (runs/")
        assert "make it again with `tfkd pack`" in state.damage


SPEC = "runs/x-0123456789ab/spec.json"


def tar_of(*members: tuple[str, bytes, bytes]) -> bytes:
    """A .tar.gz of (name, type, content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(content), "/etc/passwd"
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def bomb() -> bytes:
    member = tarfile.TarInfo(SPEC)
    member.size = 1 << 40
    return gzip.compress(member.tobuf() + b"\0" * 10_000_000)


def header_bomb() -> bytes:
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, 1 << 33
    return gzip.compress(member.tobuf() + b"1" * 1_000_000)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a pack",
        gzip.compress(b"no tar" * 1000),
        tar_of((SPEC, tarfile.REGTYPE, b"{}"))[:-20],
        tar_of(("../evil", tarfile.REGTYPE, b"")),
        tar_of(("/tmp/evil", tarfile.REGTYPE, b"")),
        tar_of((f"runs/../{SPEC}", tarfile.REGTYPE, b"")),
        tar_of((SPEC, tarfile.SYMTYPE, b"")),
        tar_of((SPEC, tarfile.LNKTYPE, b"")),
        tar_of((SPEC, tarfile.FIFOTYPE, b"")),
        tar_of((SPEC, tarfile.CHRTYPE, b"")),
        tar_of(("runs", tarfile.DIRTYPE, b"")),
        tar_of(("runs/x-0123456789ab/weights/best.pt", tarfile.REGTYPE, b"")),
        tar_of((SPEC, tarfile.REGTYPE, b"{}"), (SPEC, tarfile.REGTYPE, b"[]")),
        bomb(),
        header_bomb(),
    ],
    ids=range(16),
)
def test_anything_but_records_is_refused_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = tmp_path / "records.tar.gz"
    path.write_bytes(data)
    with pytest.raises(RequestError, match="cannot read"):
        Store.open(path, create=False, writable=False)
    assert [each.name for each in tmp_path.iterdir()] == ["records.tar.gz"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(), st.integers(0, 2000), st.booleans())
@example(b"\xff" * 8, 300, True)
def test_a_pack_with_any_bytes_changed_is_read_or_refused(
    packed: Path, noise: bytes, where: int, inside: bool
) -> None:
    data = packed.read_bytes()
    if inside:
        plain = gzip.decompress(data)
        data = gzip.compress(plain[:where] + noise + plain[where + len(noise) :], compresslevel=1)
    else:
        data = data[:where] + noise + data[where + len(noise) :]
    changed = packed.with_name("changed.tar.gz")
    changed.write_bytes(data)
    try:
        Store.open(changed, create=False, writable=False).scan()
    except RequestError as error:
        assert "tfkd pack" in str(error)  # noqa: PT017 - either is right
