"""One run through the store: what it leaves, how it goes on, what stops it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tfkd_cli import models
from tfkd_cli.errors import RunError
from tfkd_cli.methods import CrossEntropy, Distillation, TfReg
from tfkd_cli.spec import ForeignTeacher, Recipe, RunSpec, Teacher
from tfkd_cli.store import Store, reading
from tfkd_cli.training import checkpoints, provenance, runner
from tfkd_cli.training.runner import Blocked, Interrupted

if TYPE_CHECKING:
    from tests.conftest import TinyData

RECIPE = Recipe(epochs=3, batch_size=8, milestones=(2,), warmup_epochs=0.5, augment="crop-flip")
TIMES = ("seconds", "teacher_seconds", "start_seconds", "images_per_second", "attempt")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "results", create=True)


@pytest.fixture
def baseline(tiny_data: TinyData) -> RunSpec:
    return RunSpec(dataset=tiny_data.name, student="plain-cnn", loss=CrossEntropy(), recipe=RECIPE)


@pytest.fixture
def run(tiny_data: TinyData) -> Callable[..., dict[str, Any]]:
    def run_one(spec: RunSpec, store: Store, **more: Any) -> dict[str, Any]:
        execution = replace(tiny_data.execution, **more.pop("execution", {}))
        return runner.run(spec, store=store, execution=execution, **more)

    return run_one


Run = Callable[..., dict[str, Any]]


def stop_after(boundaries: int) -> Callable[[], str | None]:
    """A reason to stop at the n-th step boundary."""
    left = boundaries

    def stop() -> str | None:
        nonlocal left
        left -= 1
        return "asked by the test" if left == 0 else None

    return stop


def what_counts(store: Store, spec: RunSpec) -> dict[str, Any]:
    """The parts of a finished run that are promised bit for bit."""
    folder = store.run(spec)
    result = folder.result()
    assert result is not None
    lines = [{k: v for k, v in line.items() if k not in TIMES} for line in folder.metrics()]
    weights = {name: checkpoints.read_weights(folder.weights(name)) for name in result["weights"]}
    return {"lines": lines, "best": result["best"], "last": result["last"], "weights": weights}


def log_of(store: Store, spec: RunSpec, attempt: int) -> str:
    return (store.run(spec).attempts()[attempt - 1] / "log").read_text()


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for name in ("lines", "best", "last"):
        assert one[name] == other[name]
    assert one["weights"].keys() == other["weights"].keys()
    for name, weights in one["weights"].items():
        for key, value in weights.items():
            assert torch.equal(value, other["weights"][name][key]), (name, key)


def test_a_run_leaves_its_result_metrics_and_weights(store: Store, baseline: RunSpec, run: Run) -> None:
    result = run(baseline, store)
    folder = store.run(baseline)
    assert [line["epoch"] for line in folder.metrics()] == [1, 2, 3]
    assert set(result["weights"]) == {
        "best.pt", "last.pt", "student.pt", "epoch-001.pt", "epoch-002.pt", "epoch-003.pt"
    }  # fmt: skip
    assert result["best"]["accuracy"] == max(line["test_accuracy"] for line in folder.metrics())
    assert result["last"]["accuracy"] == folder.metrics()[-1]["test_accuracy"]
    assert result["numerics"] == {
        **provenance.numerics_of(torch.device("cpu"), threads=1), "arithmetic": "fp32", "mixed": False
    }  # fmt: skip
    assert result["seconds"] > 0
    assert result["versions"]["torch"]
    right = sum(int(row.split(" ")[at]) for at, row in enumerate(result["best"]["confusion"]))
    images = sum(int(count) for row in result["best"]["confusion"] for count in row.split(" "))
    assert 100 * right / images == pytest.approx(result["best"]["accuracy"])
    assert len(result["class_names"]) == len(result["best"]["confusion"])
    assert "confusion" not in result["last"]
    assert "epoch 3 of 3" in log_of(store, baseline, 1)
    assert json.loads((folder.attempts()[0] / "env.json").read_text())["cores"] >= 1
    assert folder.state().status == "done"
    assert not folder.newest_states()


def test_a_student_file_loads_by_the_recipe_in_the_documentation(
    store: Store, baseline: RunSpec, run: Run
) -> None:
    run(baseline, store)
    saved = torch.load(store.run(baseline).weights("student.pt"), weights_only=True)
    shape = {name: saved[name] for name in ("classes", "channels", "size")}
    network = models.build(saved["network"], **shape)
    network.load_state_dict(saved["weights"])
    mean, std = (torch.tensor(saved[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert network.eval()((images / 255 - mean) / std).shape == (2, 2)
    assert saved["class_names"] == ["cat", "dog"]
    assert (saved["method"], saved["key"]) == ("baseline", baseline.key)


def test_a_finished_run_is_not_repeated(store: Store, baseline: RunSpec, run: Run) -> None:
    first = run(baseline, store)
    assert run(baseline, store) == first
    assert len(store.run(baseline).attempts()) == 1


def test_a_finished_run_whose_weights_were_freed_is_trained_again_to_teach(
    store: Store, baseline: RunSpec, run: Run
) -> None:
    result = run(baseline, store)
    before = what_counts(store, baseline)
    store.run(baseline).weights("best.pt").unlink()
    assert run(baseline, store, weights=["last.pt"]) == result
    assert len(store.run(baseline).attempts()) == 1
    assert run(baseline, store, weights=["best.pt"]) == result
    assert len(store.run(baseline).attempts()) == 2
    assert_same(before, what_counts(store, baseline))


@pytest.mark.parametrize("method", ["baseline", "de-kd", "tf-reg"])
def test_a_run_stopped_twice_ends_in_the_same_store_bit_for_bit(
    tmp_path: Path, baseline: RunSpec, run: Run, method: str
) -> None:
    spec = {
        "baseline": baseline,
        "de-kd": replace(baseline, loss=Distillation(), teacher=Teacher(run=baseline, checkpoint=1)),
        "tf-reg": replace(baseline, loss=TfReg(alpha=0.2), recipe=replace(RECIPE, optimizer="adam", lr=1e-3)),
    }[method]
    whole, halves = (Store.open(tmp_path / name, create=True) for name in ("whole", "halves"))
    for parent in spec.parents:
        run(parent, whole)
        run(parent, halves)
    run(spec, whole)
    chosen = random.Random(method)
    for _ in range(2):
        with pytest.raises(Interrupted, match="asked by the test"):
            run(spec, halves, stop=stop_after(chosen.randint(1, 6)))
        assert halves.run(spec).state().status == "resumable"
    result = run(spec, halves)
    assert result["attempts"] == 3
    assert set(result["commits"]) == {"1", "2", "3"}
    assert all("continuing in epoch" in log_of(halves, spec, attempt) for attempt in (2, 3))
    assert_same(what_counts(whole, spec), what_counts(halves, spec))


def test_a_damaged_state_is_passed_over_for_the_one_before(
    tmp_path: Path, baseline: RunSpec, run: Run
) -> None:
    whole, damaged = (Store.open(tmp_path / name, create=True) for name in ("whole", "damaged"))
    run(baseline, whole)
    with pytest.raises(Interrupted):
        run(baseline, damaged, stop=stop_after(8), execution={"checkpoint_minutes": 0.0})
    newest, before = damaged.run(baseline).newest_states()[:2]
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    assert damaged.run(baseline).newest_states()[0] == before
    run(baseline, damaged)
    assert "continuing in epoch" in log_of(damaged, baseline, 2)
    assert_same(what_counts(whole, baseline), what_counts(damaged, baseline))


def test_a_state_whose_snapshot_is_lost_is_not_continued(tmp_path: Path, baseline: RunSpec, run: Run) -> None:
    whole, lost = (Store.open(tmp_path / name, create=True) for name in ("whole", "lost"))
    run(baseline, whole)
    with pytest.raises(Interrupted):
        run(baseline, lost, stop=stop_after(8))
    (lost.run(baseline).attempts()[0] / "epoch-001.pt").unlink()
    run(baseline, lost)
    assert "is missing or damaged" in log_of(lost, baseline, 2)
    assert_same(what_counts(whole, baseline), what_counts(lost, baseline))


def test_lines_beyond_the_checkpoint_are_left_behind(store: Store, baseline: RunSpec, run: Run) -> None:
    class KilledError(KeyboardInterrupt):
        pass

    def die() -> None:
        if len(store.run(baseline).metrics()) == 2:
            raise KilledError

    with pytest.raises(KilledError):
        run(baseline, store, stop=die)  # no state was saved: the lines of two epochs are
    assert len(store.run(baseline).metrics()) == 2
    run(baseline, store)
    assert [line["attempt"] for line in store.run(baseline).metrics()] == [2, 2, 2]


def test_a_student_waits_for_its_teacher_without_making_an_attempt(
    store: Store, baseline: RunSpec, run: Run
) -> None:
    student = replace(baseline, loss=Distillation(), teacher=Teacher(run=baseline))
    with pytest.raises(Blocked, match=f"its teacher {baseline.folder} is todo"):
        run(student, store)
    run(baseline, store)
    store.run(baseline).weights("best.pt").unlink()
    with pytest.raises(Blocked, match=r"lacks best\.pt"):
        run(student, store)
    assert not store.run(student).attempts()


def test_a_run_somebody_works_on_is_left_alone(store: Store, baseline: RunSpec, run: Run) -> None:
    store.run(baseline).declare(baseline)
    attempt = store.run(baseline).claim_attempt(owner={})
    assert attempt is not None
    with pytest.raises(Blocked, match=f"being trained by process {os.getpid()}"):
        run(baseline, store)
    attempt.release()
    run(baseline, store)


def test_an_attempt_that_was_overtaken_stops(
    store: Store, baseline: RunSpec, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfkd_cli.training.recorder.HEARTBEAT_SECONDS", 0.0)

    def overtake() -> None:
        store.run(baseline).start_attempt(owner={})

    with pytest.raises(Interrupted, match="another attempt has taken over"):
        run(baseline, store, stop=overtake)


def test_a_failure_is_kept_with_its_words_and_its_traceback(
    store: Store, baseline: RunSpec, run: Run
) -> None:
    spec = replace(baseline, recipe=replace(RECIPE, lr=1e30))
    with pytest.raises(RunError, match="the loss became"):
        run(spec, store)
    failure = store.run(spec).failure()
    assert failure is not None
    assert "Hint: try --lr" in failure["message"]
    assert "Traceback" in failure["traceback"]
    assert store.run(spec).state().status == "failed"


@pytest.mark.parametrize(
    ("error", "what", "hint"),
    [
        (MemoryError("cannot allocate memory"), "out of memory", "--batch-size"),
        (
            torch.OutOfMemoryError("CUDA out of memory. GPU 0 has …"),
            r"out of memory: .* GPU 0 has",
            "--jobs 1",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when …"), "out of memory", "--jobs 1"),
        (torch.AcceleratorError("unspecified launch failure"), "the computation failed", "continues from"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "the computation failed", "nvidia-smi"),
        (KeyError("conv1"), "KeyError: 'conv1'", "tfkd logs"),
    ],
)
def test_an_unforeseen_error_becomes_one_a_user_can_read(
    error: Exception,
    what: str,
    hint: str,
    store: Store,
    baseline: RunSpec,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(runner.models, "build", fail)  # type: ignore[attr-defined]
    with pytest.raises(RunError, match=what) as caught:
        run(baseline, store)
    assert hint in caught.value.hint
    monkeypatch.undo()
    run(baseline, store)


def test_an_attempt_that_saved_nothing_fixes_neither_device_nor_threads(
    store: Store, baseline: RunSpec, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(runner.models, "build", fail)  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="SystemExit: 0"):
        run(baseline, store)
    assert store.run(baseline).state().status == "failed"
    assert store.run(baseline).numerics() is None
    monkeypatch.undo()
    assert run(baseline, store, execution={"threads": 2})["numerics"]["threads"] == 2
    assert (store.run(baseline).numerics() or {})["threads"] == 2


def test_a_slurm_job_with_gpus_does_not_train_on_the_cpu(
    store: Store, baseline: RunSpec, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        run(baseline, store, execution={"device": "cpu"}, stop=stop_after(2))
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(
        RunError, match=r'in this SLURM job, which was given GPUs.*CUDA_VISIBLE_DEVICES is ""'
    ):
        run(baseline, store, execution={"device": "auto"})


def test_a_later_attempt_has_the_threads_of_the_first(
    store: Store, baseline: RunSpec, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        run(baseline, store, stop=stop_after(2))
    result = run(baseline, store, execution={"threads": 2})
    assert (result["numerics"]["threads"], result["numerics"]["mixed"]) == (1, False)


def test_numerics_that_cannot_be_had_again_are_marked_as_mixed(
    store: Store, baseline: RunSpec, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        run(baseline, store, stop=stop_after(2))
    other = {"device": "cpu", "device_name": "another processor", "threads": 1, "torch": "9.9"}
    monkeypatch.setattr(provenance, "numerics_of", lambda device, threads: other)
    result = run(baseline, store)
    assert result["numerics"] == {**other, "arithmetic": "fp32", "mixed": True}


def test_a_missing_device_is_named(store: Store, baseline: RunSpec, run: Run) -> None:
    with pytest.raises(RunError, match='the device "cuda:7" cannot be used'):
        run(baseline, store, execution={"device": "cuda:7"})


def test_cached_teacher_logits_change_no_number_whoever_computed_them(
    tmp_path: Path, baseline: RunSpec, run: Run
) -> None:
    recipe = RECIPE.fast()
    teacher = replace(baseline, recipe=recipe)
    students = [
        replace(baseline, recipe=recipe, loss=Distillation(), teacher=Teacher(run=teacher), seed=seed)
        for seed in (0, 1)
    ]
    computing, caching = (Store.open(tmp_path / name, create=True) for name in ("computing", "caching"))
    for store in (computing, caching):
        run(teacher, store)
        for student in students:
            run(student, store, cache_logits=store is caching)
    found = sorted(caching.teacher_logits_path.rglob("*"))
    assert [path.name for path in found if path.is_file()] == [f"epoch-{e:03d}.npy" for e in (1, 2, 3)]
    assert not computing.teacher_logits_path.exists()
    for student in students:
        assert_same(what_counts(computing, student), what_counts(caching, student))


def test_a_foreign_teacher_is_known_by_its_digest(
    tmp_path: Path, store: Store, baseline: RunSpec, run: Run
) -> None:
    network = models.build("resnet8", classes=2, channels=3, size=32)
    path = tmp_path / "theirs.pth.tar"
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, path)
    teacher = ForeignTeacher(network="resnet8", digest=reading.digest(path))
    spec = replace(baseline, loss=Distillation(), teacher=teacher)
    run(spec, store, execution={"sources": {teacher.digest: str(path)}})
    other = replace(spec, seed=1)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RunError, match="other ones by now"):
        run(other, store, execution={"sources": {teacher.digest: str(path)}})


def test_a_published_teacher_is_the_file_in_torchs_cache_whose_digest_its_name_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"weights")
    teacher = ForeignTeacher(network="torchvision:resnet18", digest=reading.digest(path)[:8])
    assert runner._foreign_weights(teacher, {}) == path
    with pytest.raises(RunError, match="other ones by now"):
        runner._foreign_weights(replace(teacher, digest="f37072fd"), {})
