"""Cached teacher logits: the same numbers whoever computed them, and always replaceable."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from tfkd_cli import locks
from tfkd_cli.errors import RunError
from tfkd_cli.methods import Distillation
from tfkd_cli.spec import ForeignTeacher, Recipe, RunSpec, Teacher
from tfkd_cli.training.parts import Images
from tfkd_cli.training.teacher_logits import FrozenTeacher, TeacherLogits, cache_folder, rounded

CPU = torch.device("cpu")
IMAGES, CLASSES, BATCH = 40, 3, 4
BYTES = 128 + 2 * IMAGES * CLASSES + 32  # header, rows, digest


class Counting(FrozenTeacher):
    """A linear teacher that counts the images of its forward passes."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))
        super().__init__(network, device=CPU, precision_name="fp32", example=torch.zeros(1, 1, 2, 2))
        self.images = 0

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        self.images += len(images_NCHW)
        return super().__call__(images_NCHW)


def views(batches: Sequence[Tensor]) -> Iterator[Images]:
    for indices_N in batches:
        yield Images(indices_N, torch.stack([torch.full((1, 2, 2), float(i)) for i in indices_N]) / 10)


class Student:
    """Takes the logits of an epoch through the cache in `root`, or without one."""

    def __init__(self, root: Path | None = None, *, limit: float = 1e9) -> None:
        self.teacher = Counting()
        folder = root and root / "teacher-logits" / "0123456789ab-11111111-22222222"
        self.logits = TeacherLogits(
            teacher=self.teacher, images=IMAGES, classes=CLASSES, device=CPU, batch=BATCH, folder=folder,
            limit_bytes=limit,
        )  # fmt: skip

    def epoch(self, epoch: int = 1, at_step: Callable[[], None] = lambda: None) -> Tensor:
        return self.logits.epoch(epoch, views=views, at_step=at_step)

    @property
    def path(self) -> Path:
        """The file of epoch 1."""
        assert self.logits.folder is not None
        return self.logits.folder / "epoch-001.npy"

    @property
    def computed(self) -> int:
        """The images that went through the teacher."""
        return self.teacher.images


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*") if path.is_file())


@pytest.fixture
def right() -> Tensor:
    return Student().epoch()


class StopError(Exception):
    """Ends a student."""


def test_logits_are_computed_once_and_read_by_others_bit_for_bit(tmp_path: Path, right: Tensor) -> None:
    first, second = Student(tmp_path), Student(tmp_path)
    assert torch.equal(first.epoch(), right)
    assert torch.equal(second.epoch(), right)
    assert (first.computed, second.computed) == (IMAGES, 0)
    assert right.dtype == torch.float16
    assert names(tmp_path) == ["epoch-001.npy"]
    assert np.array_equal(np.load(first.path), right.numpy())
    assert first.path.stat().st_size == BYTES


def at_once(*students: Student) -> list[Tensor]:
    """What slow students get that reach epochs 1 and 2 at the same time."""
    begin = threading.Barrier(len(students))

    def logits(student: Student) -> Tensor:
        begin.wait()
        return torch.cat([student.epoch(epoch, lambda: time.sleep(0.005)) for epoch in (1, 2)])

    with ThreadPoolExecutor(len(students)) as pool:
        return list(pool.map(logits, students))


def test_students_that_run_at_once_compute_each_epoch_once(tmp_path: Path, right: Tensor) -> None:
    students = [Student(tmp_path) for _ in range(4)]
    results = at_once(*students)
    assert sum(each.computed for each in students) == 2 * IMAGES
    assert all(torch.equal(each, torch.cat([right, right])) for each in results)
    assert names(tmp_path) == ["epoch-001.npy", "epoch-002.npy"]


def test_where_locks_do_not_work_every_student_computes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, right: Tensor
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(38, "function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    for each in at_once(Student(tmp_path), Student(tmp_path)):
        assert torch.equal(each, torch.cat([right, right]))
    assert names(tmp_path) == ["epoch-001.npy", "epoch-002.npy"]


WRITER = """
import pathlib, sys, time, torch
from tfkd_cli.training.teacher_logits import TeacherLogits
def compute(batches):
    print("computing", flush=True)
    time.sleep(600)
TeacherLogits(
    teacher=None, images=40, classes=3, device=torch.device("cpu"), folder=pathlib.Path(sys.argv[1]),
    limit_bytes=1e9,
).epoch(1, views=compute, at_step=lambda: None)
"""


def test_a_killed_writer_is_replaced_by_a_student_that_waits(tmp_path: Path, right: Tensor) -> None:
    student, waits = Student(tmp_path), []
    command = [sys.executable, "-c", WRITER, str(student.path.parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"computing\n"

            def at_step() -> None:
                waits.append(student.computed)
                if len(waits) == 3:
                    writer.kill()

            assert torch.equal(student.epoch(at_step=at_step), right)
        finally:
            writer.kill()
    assert waits[:3] == [0, 0, 0]
    assert student.computed == IMAGES
    assert names(tmp_path) == ["epoch-001.npy"]


def test_a_student_that_waits_can_be_stopped(tmp_path: Path) -> None:
    student = Student(tmp_path)
    student.path.parent.mkdir(parents=True)

    def stop() -> None:
        raise StopError

    with (
        locks.held(student.path.with_suffix(".lock"), while_waiting=lambda: None),
        pytest.raises(StopError),
    ):
        student.epoch(at_step=stop)
    assert student.computed == 0


def test_a_stopped_writer_leaves_no_file_and_the_next_student_computes_the_epoch(
    tmp_path: Path, right: Tensor
) -> None:
    stopped, second = Student(tmp_path), Student(tmp_path)

    def stop() -> None:
        if stopped.computed >= IMAGES / 2:
            raise StopError

    with pytest.raises(StopError):
        stopped.epoch(at_step=stop)
    assert not stopped.path.exists()
    assert torch.equal(second.epoch(), right)
    assert names(tmp_path) == ["epoch-001.npy"]


def test_an_error_of_the_run_is_not_taken_for_one_of_the_cache(tmp_path: Path) -> None:
    def fail() -> None:
        raise RunError("the training state cannot be saved")

    with pytest.raises(RunError, match="cannot be saved"):
        Student(tmp_path).epoch(at_step=fail)


@pytest.mark.parametrize("when", ["while it is computed", "while it is waited for"])
def test_a_cache_deleted_while_in_use_is_written_again(tmp_path: Path, right: Tensor, when: str) -> None:
    student = Student(tmp_path)
    student.path.parent.mkdir(parents=True)
    with ExitStack() as another:
        if when == "while it is waited for":
            lock = student.path.with_suffix(".lock")
            another.enter_context(locks.held(lock, while_waiting=lambda: None))

        def delete() -> None:
            if student.path.parent.exists():
                shutil.rmtree(tmp_path / "teacher-logits")
                another.close()

        assert torch.equal(student.epoch(at_step=delete), right)
    assert names(tmp_path) == ["epoch-001.npy"]


def test_a_flipped_bit_anywhere_in_a_file_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, right: Tensor
) -> None:
    student = Student(tmp_path)
    student.epoch()
    data = bytearray(student.path.read_bytes())
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        student.path.write_bytes(data)
        data[bit // 8] ^= 1 << bit % 8
        assert student.logits._read(student.path) is None
        assert not student.path.exists()
    assert caplog.text.count("is wrong") == 8 * BYTES
    assert torch.equal(student.epoch(), right)


@pytest.mark.parametrize("left", [0, 1, BYTES // 2, BYTES - 32])
def test_logits_of_a_file_that_was_cut_short_are_computed_and_written_again(
    tmp_path: Path, left: int, caplog: pytest.LogCaptureFixture, right: Tensor
) -> None:
    first, again = Student(tmp_path), Student(tmp_path)
    first.epoch()
    data = first.path.read_bytes()
    first.path.write_bytes(data[:left])
    assert torch.equal(again.epoch(), right)
    assert again.computed == IMAGES
    assert "computed again" in caplog.text
    assert first.path.read_bytes() == data


def test_the_cap_counts_all_folders_and_nothing_that_vanishes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student = Student(tmp_path, limit=1000)
    other = tmp_path / "teacher-logits" / "ba9876543210-11111111-22222222"
    other.mkdir(parents=True)
    (other / "epoch-001.npy").write_bytes(b"1" * 300)
    (other / "epoch-002.npy").symlink_to("/nowhere")
    for epoch in (1, 2, 3):
        student.epoch(epoch)
    assert sorted(path.name for path in student.path.parent.iterdir()) == ["epoch-001.npy"]
    assert student.computed == 3 * IMAGES
    assert caplog.text.count("--teacher-cache-gb") == 1


def test_a_cap_of_nothing_reads_and_never_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    alone, reader = Student(tmp_path, limit=0), Student(tmp_path, limit=0)
    alone.epoch()
    assert names(tmp_path) == []
    Student(tmp_path).epoch()
    reader.epoch()
    assert (alone.computed, reader.computed) == (IMAGES, 0)
    assert caplog.text == ""


def test_a_full_disk_costs_time_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, right: Tensor
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise RunError("no space left")

    monkeypatch.setattr("tfkd_cli.store.files.write_hint", refuse)
    student = Student(tmp_path)
    for epoch in (1, 2):
        assert torch.equal(student.epoch(epoch), right)
    assert student.computed == 2 * IMAGES
    assert caplog.text.count("no space left") == 1


def test_folders_differ_where_weights_views_or_numerics_differ() -> None:
    recipe = Recipe().fast()
    teacher = RunSpec(dataset="cifar10", student="resnet18", recipe=recipe)
    spec = replace(teacher, student="plain-cnn", loss=Distillation(), teacher=Teacher(run=teacher))

    def folder(spec: RunSpec, digest: str = "a" * 64, batch: int = 128, **numerics: object) -> str:
        numerics = {"device": "cpu", "threads": 1, "torch": "2.14"} | numerics
        return cache_folder(Path(), spec=spec, weights_digest=digest, numerics=numerics, batch=batch).name

    assert folder(spec).startswith(f"{teacher.key[:12]}-aaaaaaaa-")
    same = replace(spec, seed=3, student="resnet8", loss=Distillation(temperature=4))
    assert folder(same) == folder(spec)
    others = [
        folder(spec, "b" * 64),
        folder(spec, batch=256),
        folder(spec, threads=2),
        folder(spec, torch="3"),
        folder(replace(spec, recipe=replace(recipe, augment="shift"))),
        folder(replace(spec, recipe=replace(recipe, precision="fp32"))),
        folder(replace(spec, recipe=replace(recipe, holdout=0.1))),
        folder(replace(spec, teacher=ForeignTeacher(network="resnet18", digest="a" * 64))),
    ]
    assert len({folder(spec), *others}) == 9


@given(arrays(np.float32, (4, 10), elements=st.floats(-50, 50, width=32)))
def test_rounding_hardly_changes_the_teachers_probabilities(logits: np.ndarray) -> None:
    exact_NK = torch.from_numpy(logits)
    rounded_NK = rounded(exact_NK)
    assert rounded_NK.dtype == torch.float16
    assert float(rounded_NK.max()) == 0
    for temperature, allowed in ((1, 5e-3), (20, 5e-4)):
        difference = (exact_NK / temperature).softmax(1) - (rounded_NK.float() / temperature).softmax(1)
        assert float(difference.abs().max()) < allowed


def test_an_extreme_logit_stays_finite() -> None:
    assert rounded(torch.tensor([[0.0, -1e9]])).tolist() == [[0.0, -65504.0]]


def test_a_teacher_gives_fp32_logits_without_gradient_that_a_loss_may_keep() -> None:
    for name in ("fp32", "bf16"):
        network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, CLASSES))
        images = torch.randn(5, 1, 2, 2)
        logits_NK = FrozenTeacher(network, device=CPU, precision_name=name, example=images)(images)
        assert (logits_NK.dtype, logits_NK.requires_grad, logits_NK.is_inference()) == (
            torch.float32, False, False
        )  # fmt: skip
        assert not network.training
