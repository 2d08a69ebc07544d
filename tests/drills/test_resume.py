"""Every method and optimiser, interrupted at random steps by TERM and KILL, ends with the very same bits."""

from __future__ import annotations

import itertools
import random
import signal
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.planning import planned
from tfkd_cli.backends import processes
from tfkd_cli.methods import CrossEntropy, Distillation, LabelSmoothing, Loss, TfReg
from tfkd_cli.spec import Recipe, RunSpec, Teacher
from tfkd_cli.store import Store
from tfkd_cli.training import submission, worker

if TYPE_CHECKING:
    from tests.conftest import TinyData
    from tests.drills.ledger import Ledger

RECIPE = Recipe(epochs=6, batch_size=7, milestones=(2, 4), warmup_epochs=1.5, augment="crop-flip-rotate15")
STEPS = 3  # an epoch; with 6 epochs the warm-up ends within one
RATES = {"sgd": 0.1, "adam": 1e-3}
METHODS = ("baseline", "scaled-ce", "lsr", "tf-reg", "tf-reg-printed", "kd", "kd-printed", "de-kd", "tf-self")
WAYS = tuple(
    itertools.product(METHODS, ("plain-cnn", "resnet8"), RATES, ("fp32", "bf16"), ("seed", "shared"))
)
SOME = (
    ("de-kd", "plain-cnn", "sgd", "bf16", "shared"),
    ("tf-reg", "plain-cnn", "adam", "fp32", "seed"),
)


def described(
    method: str, student: str, optimizer: str, precision: str, stream: str, *, dataset: str
) -> RunSpec:
    """The run of these words."""
    changes: dict[str, Any] = {"optimizer": optimizer, "precision": precision, "augment_stream": stream}
    recipe = replace(RECIPE, lr=RATES[optimizer], **changes)
    plain = RunSpec(dataset=dataset, student=student, recipe=recipe)
    losses: dict[str, Loss] = {
        "scaled-ce": CrossEntropy(scale=3.0),
        "lsr": LabelSmoothing(),
        "tf-reg": TfReg(),
        "tf-reg-printed": TfReg(**TfReg.FORMS["printed"]),
        "kd": Distillation(),
        "kd-printed": Distillation(**Distillation.FORMS["printed"]),
        "de-kd": Distillation(),
        "tf-self": Distillation(alpha=0.1),
    }
    if method == "baseline":
        return plain
    if not losses[method].needs_teacher:
        return replace(plain, loss=losses[method])
    network = student if method == "tf-self" else "resnet8"
    teacher = replace(plain, student=network, recipe=replace(recipe, epochs=1))
    return replace(
        plain,
        loss=losses[method],
        teacher=Teacher(run=teacher, checkpoint=1 if method == "de-kd" else "best"),
    )


class Bench:
    """Workers on one store."""

    def __init__(self, store: Store, data: TinyData, play: Any) -> None:
        self.store, self.data, self.play = store, data, play

    def start(self, spec: RunSpec, *, minutes: float) -> BaseProcess:
        [run] = [run for run in planned([spec], self.store) if run.spec == spec]
        name = submission.write(
            [[replace(run, caches_logits=bool(spec.seed))]],
            store=self.store,
            execution=replace(self.data.execution, checkpoint_minutes=minutes),
            backend="local",
        )
        log = self.store.submission_path(name) / "0.log"
        return processes.start(processes.make(worker.begin, str(self.store.root), name, "0", {}, log))

    def wait(self, process: BaseProcess) -> int:
        process.join(self.play.PATIENCE)
        return processes.end(process)

    def do(self, spec: RunSpec) -> None:
        for each in (*spec.parents, spec):
            if self.store.run(each).state().status != "done":
                assert self.wait(self.start(each, minutes=60)) == worker.DONE

    def stop(self, spec: RunSpec, how: signal.Signals, *, after: int) -> int:
        """Its exit code; it is signalled once it has saved (KILL) or trained (TERM) up to step `after`."""
        process = self.start(spec, minutes=60 if how == signal.SIGTERM else 0)
        run = self.store.run(spec)

        def is_time() -> bool | None:
            if not process.is_alive():
                return True
            if how == signal.SIGTERM:
                return len(run.metrics()) >= after // STEPS or None
            steps = [state.name for path in run.attempts()[-1:] for state in path.glob("state-*.json")]
            return max(steps, default="") >= f"state-{after:06d}" or None

        self.play.until(is_time, pause=0.002)
        process.terminate() if how == signal.SIGTERM else process.kill()
        return self.wait(process)


def what_counts(store: Store, spec: RunSpec, times: tuple[str, ...]) -> dict[str, Any]:
    """What is promised bit for bit."""
    result = store.run(spec).result()
    assert result is not None
    lines = [{k: v for k, v in line.items() if k not in times} for line in store.run(spec).metrics()]
    return {"lines": lines, **{name: result[name] for name in ("best", "last", "weights")}}


@pytest.mark.parametrize("words", [*SOME, *(pytest.param(each, marks=pytest.mark.drill) for each in WAYS)])
def test_an_interrupted_run_ends_with_the_same_bits(
    tmp_path: Path, tiny_data: TinyData, play: Any, ledger: Ledger, words: tuple[str, ...]
) -> None:
    spec = described(*words, dataset=tiny_data.name)
    whole, torn = (
        Bench(Store.open(tmp_path / name, create=True), tiny_data, play) for name in ("whole", "torn")
    )
    whole.do(spec)
    for parent in spec.parents:
        torn.do(parent)
    chance = random.Random("/".join(words))
    for how in (signal.SIGTERM, signal.SIGKILL):
        code = torn.stop(spec, how, after=chance.randint(1, 2 * STEPS))
        assert code in (worker.DONE, worker.CANCELLED, -signal.SIGKILL)
        ledger.fault(lost_seconds=0.1 if how == signal.SIGKILL else 0.0, times=code != worker.DONE)
    torn.do(spec)
    expected = what_counts(whole.store, spec, play.TIMES)
    ledger.lost += what_counts(torn.store, spec, play.TIMES) != expected
    assert what_counts(torn.store, spec, play.TIMES) == expected
    assert torn.store.run(spec).state().attempts > 1
