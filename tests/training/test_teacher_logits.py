"""A teacher's kept answers: the same numbers whoever asked, and always replaceable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from tfkd_cli.training import precision, teacher_logits
from tfkd_cli.training.teacher_logits import BATCH, FrozenTeacher, Kept, TeacherLogits, kept_in, rounded

CPU = torch.device("cpu")
IMAGES, CLASSES = 40, 3
NUMERICS = {"device": "cpu", "device_name": "a processor", "threads": 1, "torch": "2.14"}


class Counting:
    """A teacher that counts the images it is asked about."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))
        self.asked = 0
        self.teacher = FrozenTeacher(
            network, device=CPU, precision_name="fp32", example=torch.zeros(1, 1, 2, 2)
        )

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        self.asked += len(images_NCHW)
        return self.teacher(images_NCHW)


def view(indices_N: Tensor) -> Tensor:
    return torch.stack([torch.full((1, 2, 2), float(i)) for i in indices_N]) / 10


def logits_of(
    teacher: Counting, folder: Path | None = None, *, limit: float = 1e9, shared: bool = True
) -> TeacherLogits:
    kept = None if folder is None else Kept(folder=folder / "teacher_logits" / "t-1", limit_bytes=limit)
    return TeacherLogits(
        teacher=teacher,  # type: ignore[arg-type]
        images=IMAGES,
        classes=CLASSES,
        device=CPU,
        kept=kept,
        shared=shared,
    )


def ask(asked: TeacherLogits, epoch: int = 1, at_step: Callable[[], None] = lambda: None) -> Tensor:
    return asked.epoch(epoch, view=view, at_step=at_step)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_logits, "BATCH", 4)
    monkeypatch.setattr(teacher_logits, "BLOCK", 8)


def test_answers_are_asked_once_and_found_by_others_bit_for_bit(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    one, other = ask(logits_of(first, tmp_path)), ask(logits_of(second, tmp_path))
    assert torch.equal(one, other)
    assert torch.equal(one, ask(logits_of(Counting())))  # and as those that nobody keeps
    assert (first.asked, second.asked) == (IMAGES, 0)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["epoch-001.npy"]
    assert np.load(tmp_path / "teacher_logits" / "t-1" / "epoch-001.npy").shape == (IMAGES, CLASSES)


def test_each_epoch_has_answers_of_its_own(tmp_path: Path) -> None:
    teacher = Counting()
    asked = logits_of(teacher, tmp_path)
    ask(asked, 1)
    ask(asked, 2)
    assert teacher.asked == 2 * IMAGES


class StopError(Exception):
    """Ends a student."""


def stop_after_twenty(asked: TeacherLogits) -> None:
    """Ask until twenty images are asked: two whole blocks of eight, and a half."""
    teacher = asked.teacher
    assert isinstance(teacher, Counting)

    def stop() -> None:
        if teacher.asked >= 20:
            raise StopError

    with pytest.raises(StopError):
        ask(asked, at_step=stop)


def test_what_was_asked_before_an_interruption_is_not_asked_again(tmp_path: Path) -> None:
    second = Counting()
    stop_after_twenty(logits_of(Counting(), tmp_path))
    found = ask(logits_of(second, tmp_path))
    assert second.asked == IMAGES - 16  # two whole blocks of eight were kept
    assert torch.equal(found, ask(logits_of(Counting())))


def together(folder: Path, *teachers: Counting, seconds: float = 0.005) -> list[Tensor]:
    """What students get that ask at the same time."""
    begin = threading.Barrier(len(teachers))

    def student(teacher: Counting) -> Tensor:
        begin.wait()
        return ask(logits_of(teacher, folder), at_step=lambda: time.sleep(seconds))

    with ThreadPoolExecutor(len(teachers)) as pool:
        return list(pool.map(student, teachers))


def test_students_that_ask_at_once_divide_the_blocks_and_ask_none_twice(tmp_path: Path) -> None:
    teachers = [Counting() for _ in range(3)]
    results = together(tmp_path, *teachers)
    assert sum(each.asked for each in teachers) == IMAGES
    assert sum(each.asked > 0 for each in teachers) > 1
    assert all(torch.equal(each, ask(logits_of(Counting()))) for each in results)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["epoch-001.npy"]


def test_without_locks_work_is_done_twice_but_never_wrongly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(38, "function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    results = together(tmp_path, Counting(), Counting())
    assert all(torch.equal(each, ask(logits_of(Counting()))) for each in results)


def test_a_student_that_hangs_with_a_block_holds_nobody_up_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_logits, "PATIENCE_SECONDS", 0.2)
    teacher = Counting()
    asked = logits_of(teacher, tmp_path)
    assert asked.kept is not None
    blocks = asked.kept.blocks(1)
    blocks.mkdir(parents=True)
    with locks.held(blocks / "0001.lock") as mine:
        assert mine
        found = ask(asked)
    assert torch.equal(found, ask(logits_of(Counting())))
    assert teacher.asked == IMAGES


def test_a_slow_student_that_lives_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_logits, "PATIENCE_SECONDS", 0.5)
    teachers = [Counting(), Counting()]
    results = together(tmp_path, *teachers, seconds=0.3)  # two questions a block: 0.6 s
    assert sum(each.asked for each in teachers) == IMAGES
    assert torch.equal(*results)


def test_a_student_that_waits_for_another_can_be_stopped(tmp_path: Path) -> None:
    teacher = Counting()
    asked = logits_of(teacher, tmp_path)
    assert asked.kept is not None
    asked.kept.blocks(1).mkdir(parents=True)
    at: list[int] = []

    def stop() -> None:
        at.append(teacher.asked)
        if at.count(IMAGES - 8) == 3:  # nothing to ask any more but the block of the other
            raise StopError

    with locks.held(asked.kept.blocks(1) / "0001.lock"), pytest.raises(StopError):
        ask(asked, at_step=stop)


def test_an_error_of_the_run_is_not_taken_for_one_of_the_answers(tmp_path: Path) -> None:
    def fail() -> None:
        raise RunError("the training state cannot be saved")

    with pytest.raises(RunError, match="cannot be saved"):
        ask(logits_of(Counting(), tmp_path), at_step=fail)


def test_a_student_alone_keeps_the_epoch_in_progress_and_nothing_else(tmp_path: Path) -> None:
    second = Counting()
    stop_after_twenty(logits_of(Counting(), tmp_path, shared=False))
    resumed = logits_of(second, tmp_path, shared=False)
    ask(resumed, 1)
    assert second.asked == IMAGES - 16  # two whole blocks of eight were kept
    ask(resumed, 2)
    folders = {path.name for path in (tmp_path / "teacher_logits" / "t-1").iterdir()}
    assert folders == {"epoch-002.blocks"}
    resumed.end(2)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_student_alone_finds_what_others_have_kept(tmp_path: Path) -> None:
    ask(logits_of(Counting(), tmp_path))
    alone = Counting()
    asked = logits_of(alone, tmp_path, shared=False)
    ask(asked)
    asked.end(1)
    assert alone.asked == 0
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["epoch-001.npy"]


def test_blocks_left_beside_a_whole_epoch_are_removed(tmp_path: Path) -> None:
    asked = logits_of(Counting(), tmp_path)
    ask(asked, 1)
    assert asked.kept is not None
    blocks = asked.kept.blocks(1)
    blocks.mkdir()
    (blocks / "0000.npy").write_bytes(b"left by a kill")
    ask(asked, 2)
    assert not blocks.exists()


def test_no_flipped_bit_of_a_kept_file_does_more_than_being_asked_again(tmp_path: Path) -> None:
    right = ask(logits_of(Counting(), tmp_path))
    path = tmp_path / "teacher_logits" / "t-1" / "epoch-001.npy"
    data = path.read_bytes()
    for bit in range(0, 8 * 130):  # the header, and a little more
        path.write_bytes(data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :])
        assert teacher_logits._read(path, shape=(IMAGES, CLASSES)) is None
        assert not path.exists()
    assert torch.equal(ask(logits_of(Counting(), tmp_path)), right)


def test_the_cap_counts_all_that_lies_there_and_nothing_that_vanishes(tmp_path: Path) -> None:
    asked = logits_of(Counting(), tmp_path, limit=1000)
    assert asked.kept is not None
    folder = asked.kept.folder
    (folder / "epoch-007.blocks").mkdir(parents=True)
    (folder / "epoch-007.blocks" / "0000.npy").write_bytes(b"1" * 900)
    (folder / "epoch-008.npy").symlink_to("/nowhere")
    assert asked.kept.has_room(50)
    assert not asked.kept.has_room(200)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other shape", "pickle", "empty", "zip"])
def test_damaged_answers_are_asked_again(tmp_path: Path, damage: str) -> None:
    right = ask(logits_of(Counting(), tmp_path))
    path = tmp_path / "teacher_logits" / "t-1" / "epoch-001.npy"
    data = path.read_bytes()
    if damage == "other shape":
        np.save(path, np.zeros((3, 3), np.float16))
    elif damage == "pickle":
        np.save(path, np.array([object()]), allow_pickle=True)
    else:
        middle = len(data) // 2
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        zipped = b"PK\x03\x04" + data[4:]
        path.write_bytes({"cut": data[:middle], "flipped": flipped, "empty": b"", "zip": zipped}[damage])
    again = Counting()
    assert torch.equal(ask(logits_of(again, tmp_path)), right)
    assert again.asked == IMAGES
    assert path.read_bytes() == data


def test_answers_beyond_the_cap_are_asked_and_not_kept(tmp_path: Path) -> None:
    size = IMAGES * CLASSES * 2
    asked = logits_of(Counting(), tmp_path, limit=size * 2)
    for epoch in (1, 2, 3):
        ask(asked, epoch)
    assert [path.name for path in tmp_path.rglob("*.npy")] == ["epoch-001.npy"]


def test_a_full_disk_costs_time_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise RunError("no space left")

    monkeypatch.setattr(teacher_logits.files, "write_hint", refuse)  # type: ignore[attr-defined]
    teacher = Counting()
    assert torch.equal(ask(logits_of(teacher, tmp_path)), ask(logits_of(Counting())))
    assert teacher.asked == IMAGES


def test_answers_belong_to_equal_weights_views_and_numerics_only() -> None:
    recipe = Recipe().fast()
    teacher = RunSpec(dataset="cifar10", student="resnet18", recipe=recipe)
    spec = RunSpec(
        dataset="cifar10",
        student="plain-cnn",
        loss=Distillation(),
        teacher=Teacher(run=teacher),
        recipe=recipe,
    )

    def folder(spec: RunSpec, digest: str = "a" * 64, **numerics: object) -> str:
        found = kept_in(
            Path("x"), spec=spec, weights_digest=digest, numerics={**NUMERICS, **numerics}, limit_gb=1
        )
        return found.folder.name

    assert folder(spec).startswith(f"{teacher.key[:12]}-aaaaaaaa-")
    same = replace(spec, seed=3, student="resnet8", loss=Distillation(temperature=4))
    assert folder(same) == folder(spec)
    others = [
        folder(spec, "b" * 64),
        folder(spec, threads=2),
        folder(spec, torch="3"),
        folder(replace(spec, recipe=replace(recipe, augment="shift"))),
        folder(replace(spec, recipe=replace(recipe, precision="fp32"))),
        folder(replace(spec, recipe=replace(recipe, holdout=0.1))),
        folder(replace(spec, teacher=ForeignTeacher(network="resnet18", digest="a" * 64))),
    ]
    assert len({folder(spec), *others}) == 8


@given(arrays(np.float32, (4, 10), elements=st.floats(-50, 50, width=32)))
def test_rounding_hardly_changes_the_teachers_probabilities(logits: np.ndarray) -> None:
    exact_NK = torch.from_numpy(logits)
    kept_NK = rounded(exact_NK)
    assert kept_NK.dtype == torch.float16
    assert float(kept_NK.max()) == 0
    for temperature, allowed in ((1, 5e-3), (20, 5e-4)):
        difference = (exact_NK / temperature).softmax(1) - (kept_NK.float() / temperature).softmax(1)
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
    assert precision.autocast("fp32", CPU) is not None
    assert BATCH == 128
