"""Runs whose images are decoded while they train: the same numbers, and the same reactions to signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TinyData
from tests.data.ilsvrc import make_tree
from tests.training.test_worker import Worker, epochs_done, submitted, until
from tfkd_cli import data
from tfkd_cli.data.image_files import ImageFiles
from tfkd_cli.errors import RunError
from tfkd_cli.execution import Execution
from tfkd_cli.methods import Distillation
from tfkd_cli.spec import Recipe, RunSpec, Teacher
from tfkd_cli.store import Store
from tfkd_cli.training import checkpoints, runner, worker

RECIPE = Recipe(epochs=3, batch_size=6, milestones=(2,), warmup_epochs=1, augment="crop-flip")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "results", create=True)


@pytest.fixture
def streamed(tiny_data: TinyData, tmp_path: Path) -> TinyData:
    """The tiny data set again, with an index of its files in the cache."""
    [source] = Path(tiny_data.execution.cache).parent.glob("tiny[0-9]")
    execution = replace(tiny_data.execution, cache=str(tmp_path / "cache"), memory_gb=0.0, data_workers=2)
    name = data.prepare(f"folder:{source}", execution=execution).name
    assert isinstance(data.load(name, execution=execution).train_images_NCHW, ImageFiles)
    return TinyData(name, execution)


def numbers(store: Store, spec: RunSpec) -> list[tuple[float, float]]:
    return [(line["train_loss"], line["test_accuracy"]) for line in store.run(spec).metrics()]


@pytest.mark.parametrize("stream", ["seed", "shared"])
def test_numbers_do_not_depend_on_whether_images_were_decoded_before(
    tiny_data: TinyData, streamed: TinyData, store: Store, tmp_path: Path, stream: Any
) -> None:
    assert streamed.name == tiny_data.name
    recipe = replace(RECIPE, augment_stream=stream, holdout=0.25)
    teacher = RunSpec(dataset=streamed.name, student="plain-cnn", recipe=recipe)
    student = replace(teacher, loss=Distillation(), teacher=Teacher(run=teacher))
    other = Store.open(tmp_path / "other", create=True)
    for where, execution in ((store, tiny_data.execution), (other, streamed.execution)):
        for spec in (teacher, student):
            runner.run(spec, store=where, execution=execution)
    for spec in (teacher, student):
        assert numbers(store, spec) == numbers(other, spec)
        one, two = (checkpoints.read_weights(each.run(spec).weights("last.pt")) for each in (store, other))
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, worker.CANCELLED), (signal.SIGUSR2, worker.TRY_AGAIN)]
)
def test_a_run_that_is_stopped_with_all_its_processes_saves_and_resumes_to_the_same_numbers(
    streamed: TinyData, store: Store, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """A scheduler sends its signal to every process of a job."""
    spec = RunSpec(dataset=streamed.name, student="resnet8", recipe=replace(RECIPE, epochs=12))
    whole = Store.open(tmp_path / "whole", create=True)
    runner.run(spec, store=whole, execution=replace(streamed.execution, data_workers=0))
    name = submitted(store, streamed, spec, minutes=60)
    process = Worker(store, name)
    until(lambda: epochs_done(store, spec, 1))
    assert process.process.pid is not None
    os.killpg(process.process.pid, number)  # the worker leads a session
    assert process.wait() == code, process.log.read_text()
    assert store.run(spec).state().status == "resumable"
    assert Worker(store, name).wait() == worker.DONE
    assert numbers(store, spec) == numbers(whole, spec)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []


def decoding(process: Worker) -> Callable[[], list[int] | None]:
    assert process.process.pid is not None
    pid = process.process.pid
    return lambda: children(pid) or None


def test_a_run_whose_decoding_process_is_killed_fails_with_a_reason_and_can_go_on(
    streamed: TinyData, store: Store
) -> None:
    spec = RunSpec(dataset=streamed.name, student="resnet8", recipe=replace(RECIPE, epochs=400))
    name = submitted(store, streamed, spec)
    process = Worker(store, name)
    until(lambda: epochs_done(store, spec, 1))
    os.kill(until(decoding(process))[0], signal.SIGKILL)
    assert process.wait() == worker.CRASHED
    assert "a process that decodes images ended" in process.log.read_text()


def test_decoding_processes_end_with_a_run_that_is_killed(streamed: TinyData, store: Store) -> None:
    spec = RunSpec(dataset=streamed.name, student="resnet8", recipe=replace(RECIPE, epochs=400))
    process = Worker(store, submitted(store, streamed, spec))
    until(lambda: epochs_done(store, spec, 1))
    workers = until(decoding(process))
    process.signal(signal.SIGKILL)
    process.wait()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers) or None)


@pytest.mark.parametrize("corrupt", ["fail", "skip"])
def test_a_corrupt_file_ends_a_run_or_is_left_out_of_its_scores(
    tmp_path: Path, store: Store, corrupt: Any
) -> None:
    tree = make_tree(tmp_path / "tree")
    for part in ("train", "val"):
        file = sorted((tree / part).glob("*/*"))[1]
        file.write_bytes(file.read_bytes()[:600])
    execution = Execution(cache=str(tmp_path / "cache"), device="cpu", threads=1, data_workers=1)
    name = data.prepare("imagenet", execution=execution, source=tree).name
    recipe = replace(RECIPE, epochs=1, milestones=(), augment="rrc-flip", corrupt=corrupt)
    spec = RunSpec(dataset=name, student="plain-cnn", recipe=recipe)
    assert spec.key == replace(spec, recipe=replace(recipe, corrupt="fail")).key or corrupt == "skip"
    if corrupt == "fail":
        with pytest.raises(RunError, match=r"\.JPEG' cannot be read"):
            runner.run(spec, store=store, execution=execution)
        return
    result = runner.run(spec, store=store, execution=execution)
    tested = [int(count) for row in result["best"]["confusion"] for count in row.split()]
    assert sum(tested) == 5  # of six
    log = (store.run(spec).attempts()[0] / "log").read_text()
    assert log.count("skipped: image 'train/") == 1
    assert log.count("skipped: image 'val/") == 1
    assert [what.split("/")[0] for what in result["skipped"]] == ["image 'train", "image 'val"]
