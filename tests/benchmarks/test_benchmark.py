"""The benchmark measures what it says: its options, its filter of disturbed steps, and a tiny run to JSON."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from benchmarks import __main__ as command
from benchmarks import conventional, gpu, grid, measure, side, workloads
from benchmarks import images as bench_images
from benchmarks.load import Clock, Step, judge, windows
from benchmarks.table import table
from benchmarks.workloads import GRID, NAMES, WORKLOADS
from tfkd_cli.data import dataset
from tfkd_cli.training.timing import random_arrays


def steps(*seconds: float, foreign: float = 0.0, kind: str = "step") -> list[Step]:
    return [Step(kind=kind, seconds=each, foreign_seconds=foreign * each) for each in seconds]


def test_unknown_workloads_are_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.parse(["--workload", "resnet-18"])
    assert stopped.value.code == 2
    assert "kd-resnet18-plain-cnn" in capsys.readouterr().err


def test_every_workload_has_a_teacher_where_its_loss_needs_one() -> None:
    assert len(NAMES) == 11
    for each in WORKLOADS.values():
        assert each.at_least_cached is None or each.teacher is not None
        assert each.spec(dataset="any", fast=True).loss.needs_teacher == (each.teacher is not None)


def test_the_first_steps_of_a_block_do_not_count() -> None:
    assert judge(steps(9, 9, 1, 1, 1), warmup=2).seconds == {"step": 1}


def test_a_block_is_judged_by_its_undisturbed_windows() -> None:
    block = judge([*steps(1, 1, 1), *steps(5, 5, 5, foreign=0.9)], warmup=0)
    assert block.seconds == {"step": 1}
    assert not block.disturbed
    assert block.foreign_cores == pytest.approx(0.9 * 15 / 18)


def test_a_disturbed_block_gives_its_faster_half_and_says_so() -> None:
    block = judge(steps(4, 1, 2, 3, foreign=0.9), warmup=0)
    assert block.seconds == {"step": 1.5}
    assert block.disturbed


def test_short_steps_are_judged_together() -> None:
    assert [len(each) for each in windows(steps(*[0.2] * 7))] == [3, 3, 1]


def test_with_cached_teacher_logits_the_step_alone_is_counted() -> None:
    blocks = {
        "conventional": [judge(steps(12, 12), warmup=0)],
        "fast": [judge([*steps(3, 3), *steps(1, 1, kind="teacher")], warmup=0)],
    }
    measured = measure.Measured(
        workload=WORKLOADS["kd-resnet18-plain-cnn"], conventional="conventional", blocks=blocks
    )
    assert (measured.ratio(), measured.ratio(cached=True)) == (3, 4)


def test_the_time_of_a_larger_teacher_batch_is_given_per_training_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marks: list[tuple[str, float]] = []

    class Recording(Clock):
        def mark(self, kind: str, *, batches: float = 1.0) -> None:
            super().mark(kind, batches=batches)
            marks.append((kind, batches))

    monkeypatch.setattr(side, "Clock", Recording)
    workload = replace(WORKLOADS["kd-resnet18-plain-cnn"], teacher="plain-cnn")
    arrays = random_arrays(dataset("cifar10"), images=100)
    play = side.ours(workload, arrays, steps=3, fast=True)
    for _ in range(2):  # 3 training batches of 128 are teacher batches of 256 and 128 images
        marks.clear()
        play()
        assert [each for each in marks if each[0] != "evaluation"] == [
            *(("teacher", 2.0), ("teacher", 1.0)),
            *[("step", 1.0)] * 3,
        ]


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_conventional_loss_is_ours(name: str) -> None:
    loss = WORKLOADS[name].spec(dataset="any", fast=False).loss
    random = torch.Generator().manual_seed(0)
    logits_NK, teacher_NK = torch.randn(2, 6, 10, generator=random).unbind()
    labels_N = torch.arange(6)
    teacher = teacher_NK if loss.needs_teacher else None
    ours = loss(logits_NK, labels_N, teacher).total
    theirs = conventional.loss_of(loss, logits_NK, labels_N, teacher)
    torch.testing.assert_close(ours, theirs)


def test_two_steps_of_a_workload_come_out_as_json_and_as_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    path = tmp_path / "figures.json"
    images = bench_images.write_synthetic(tmp_path / "images", train=20, test=10)
    options = ["--workload", "plain-cnn", "--rounds", "1", "--steps", "2", "--workers", "1", "--no-fp32"]
    assert command.main([*options, "--data", str(images), "--json", str(path)]) == 0
    found = json.loads(path.read_text())["workloads"]
    assert list(found) == ["plain-cnn"]
    assert found["plain-cnn"]["ratio"] > 0
    assert "plain-cnn" in capsys.readouterr().out


def test_a_grid_has_its_row() -> None:
    row = {
        "ratio": 3.5,
        "seconds": {"conventional": 70.0, "fast": 20.0},
        "disturbed": {"conventional": "0/2", "fast": "0/2"},
    }
    said = printed({GRID: row})
    assert workloads.GRID_AT_LEAST < 3.5
    assert "70→20" in said
    assert "Disturbed by other processes: no block." in said


def test_no_name_is_cut_in_a_narrow_terminal_and_disturbed_blocks_are_named() -> None:
    row = {
        "ratio": 2.5,
        "ratio_cached": 25.0,
        "ratio_fp32": 1.25,
        "images_per_second": {"conventional": 1000.0, "fast": 2500.0, "fp32": 1250.0},
        "disturbed": {"conventional": "0/2", "fast": "1/2"},
    }
    said = printed(dict.fromkeys(workloads.WORKLOADS, row))
    assert all(f"{name} " in said for name in workloads.WORKLOADS)
    assert "1000→2500 2.50 25.00" in said
    assert "plain-cnn (fast 1/2)" in said


def printed(rows: Mapping[str, Mapping[str, Any]]) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(rows))
    return " ".join(console.export_text().split())


PATIENCE = 140.0  # seconds until a test gives up on a process; nothing here asserts a time


def test_a_grid_that_is_terminated_leaves_no_process_behind(tmp_path: Path) -> None:
    noted = tmp_path / "pid"
    code = (
        "from benchmarks import __main__, grid\n"
        "__main__.end_when_terminated()\n"
        f"grid._timed(['sh', '-c', 'sleep 300 & echo $! >{noted}; wait'])"
    )
    benchmark = subprocess.Popen([sys.executable, "-c", code], cwd=grid.ROOT)
    wait_until(lambda: noted.is_file() and noted.read_text().strip())
    benchmark.terminate()
    assert benchmark.wait(PATIENCE) == 128 + signal.SIGTERM
    wait_until(lambda: not is_running(int(noted.read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands a command's orphans to another process")
def test_the_time_of_what_outlives_a_grid_command_counts_as_its_own() -> None:
    burn = f"{sys.executable} -c 'import time\nwhile time.process_time() < 1.5: pass'"
    code = (
        "from benchmarks import grid\n"
        "before = grid._children_seconds()\n"
        f"grid._timed(['sh', '-c', {burn + ' & exit 0'!r}])\n"
        "print(grid._children_seconds() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=grid.ROOT, capture_output=True, text=True, check=True
    )
    assert float(done.stdout.split()[-1]) >= 1.5


def wait_until(true: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # one that ended and that nobody waits for is still in the list


def test_a_part_of_a_folder_has_as_many_images_of_each_class(tmp_path: Path) -> None:
    whole = bench_images.write_synthetic(tmp_path / "whole", train=60, test=20)
    few = bench_images.write_few(whole, tmp_path / "few", train=30, test=10)
    counts = [len(list(each.iterdir())) for part in ("train", "test") for each in (few / part).iterdir()]
    assert counts == [3] * 10 + [1] * 10


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--rounds", "x", "'x' is not a whole number from 1"),
        ("--steps", "0", "'0' is not a whole number from 1"),
        ("--data", "nowhere", "'nowhere' has no train/CLASS folders"),
        ("--json", "nowhere/figures.json", "expected a file in a folder that exists"),
        ("--against", "docs", "holds no benchmarks/side.py"),
        ("--json", ".", "expected a file in a folder that exists"),
    ],
)
def test_what_cannot_be_measured_or_written_is_said_before_anything_starts(
    option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.parse([option, value])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_images_that_nobody_can_read_end_it_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
    assert command.main(["--data", str(tmp_path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_gpu_script_measures_every_part_on_whatever_device_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "BLOCK_SECONDS", 0.0)
    out = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--images", "256", "--workers", "0", "--no-tests", "--at-once", "2"]
    options += ["--network", "plain-cnn", "--workload", "plain-cnn", "--json", str(out)]
    assert gpu.main(options) == 0
    found = json.loads(out.read_text())
    assert set(found["networks"]) == {"plain-cnn in fp32", "plain-cnn in bf16"}
    assert all(each["images_per_second"] > 0 for each in found["networks"].values())
    assert found["several"]["plain-cnn, 2 at once"] > 0
    assert found["workloads"]["plain-cnn"]["ratio"] > 0


def test_a_gpu_that_does_more_epochs_than_the_run_has_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "GRAPHED_EPOCHS", 2)
    arrays = random_arrays(dataset("cifar10"), images=64)
    spec = gpu.spec_of("plain-cnn", "fp32")
    rate = gpu.Rate(spec, arrays, device=torch.device("cpu"), tf32=False)
    assert [rate.block(0.0) > 0 for _ in range(4)] == [True] * 4


def test_a_part_of_the_gpu_script_that_fails_or_takes_too_long_leaves_what_it_measured() -> None:
    def part(ends: Callable[[], Any]) -> gpu.Found:
        yield "first", 1
        ends()
        yield "second", 2

    found: dict[str, Any] = {}
    measuring = gpu.measured(part(lambda: None), into=found, until=time.monotonic() + 1000)
    next(measuring)
    assert found == {"first": 1}
    found.clear()
    list(gpu.measured(part(lambda: None), into=found, until=0.0))
    assert found == {"stopped": "its share of the time was over"}
    found.clear()
    list(gpu.measured(part(lambda: 1 // 0), into=found, until=time.monotonic() + 1000))
    assert set(found) == {"first", "failed"}
