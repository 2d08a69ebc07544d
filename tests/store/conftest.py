"""A small store, a tiny run, and a stand-in for training whose every byte follows from the step."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.spec import Recipe, RunSpec
from tfkd_cli.store import Attempt, Store, files

STEPS = 3
EPOCHS = 2


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests kill processes, not machines: what the kernel has, it has."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "results", create=True)


@pytest.fixture
def tiny_spec() -> RunSpec:
    return RunSpec(dataset="digits", student="resnet8", recipe=Recipe().with_epochs(EPOCHS))


def result_of(spec: RunSpec, **more: Any) -> dict[str, Any]:
    """A result as a runner gives it to `publish`."""
    scores = {"epoch": EPOCHS, "accuracy": 90.0}
    return {"key": spec.key, "epochs": EPOCHS, "best": scores, "last": scores, "seconds": 1.0, **more}


def train(root: Path, spec: RunSpec, *, flavour: str = "") -> bool:
    """The rest of a run: resume, step, save, publish, as a runner does; whether this attempt's result stands.

    The weights are a chain of hashes over the steps (and `flavour`, which stands for other numerics).
    """
    run = Store(root).run(spec)
    run.declare(spec)
    if run.result() is not None and not run.state().missing:
        return False
    attempt = run.start_attempt(owner={})
    state: dict[str, Any] = {"step": 0, "value": flavour, "lines": []}
    for path in run.newest_states():
        with contextlib.suppress(FileNotFoundError):  # its owner lives, and has gone on
            state = json.loads(path.read_bytes())
            break
    attempt.begin_metrics(state["lines"])
    for step in range(state["step"] + 1, STEPS * EPOCHS + 1):
        state["step"], state["value"] = step, _hash(state["value"] + flavour + str(step))
        if step % STEPS == 0:
            state["lines"].append({"epoch": step // STEPS, "test_accuracy": 90.0})
            attempt.append_metrics(state["lines"][-1])
        if step % 2:
            _save(attempt, state)
            attempt.heartbeat({"epoch": step // STEPS})
    weights = {}
    for name in ("best.pt", "epoch-001.pt"):
        weights[name] = attempt.path / name
        files.write_atomic(weights[name], f"{name} {state['value']} {flavour}".encode())
    return attempt.publish(metrics=state["lines"], weights=weights, result=result_of(spec))


def _save(attempt: Attempt, state: dict[str, Any]) -> None:
    step, data = state["step"], json.dumps(state).encode()
    attempt.save_state(data, step=step, epoch=step // STEPS)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def outcome(root: Path, spec: RunSpec) -> dict[str, bytes]:
    """The published bytes of a finished run that passes the deepest check; fails the test otherwise."""
    store = Store(root)
    state, run = store.scan([spec.key])[spec.key], store.run(spec)
    assert state.result is not None, state
    weights = {f"weights/{name}": run.weights(name).read_bytes() for name in state.result["weights"]}
    return {"metrics.jsonl": (run.path / "metrics.jsonl").read_bytes(), **weights}


class Child:
    """A forked process that runs `work`; 0 when it returns True, 3 when False, 9 when it raises."""

    def __init__(self, work: Callable[[], object], *, shown: bool = True) -> None:
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 9
            try:
                code = 0 if work() else 3
            except BaseException:
                if shown:
                    traceback.print_exc()
            finally:
                os._exit(code)

    def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def is_stopped(self) -> bool:
        """Wait until it stops itself (True) or ends (False)."""
        return os.WIFSTOPPED(os.waitpid(self.pid, os.WUNTRACED)[1])

    def wake(self) -> int:
        os.kill(self.pid, signal.SIGCONT)
        return self.wait()


def at_point(number: int, act: Callable[[], object]) -> None:
    """In this process: `act` at the write point of this number, counted from 1."""
    left = number

    def count(name: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            act()

    files.at_write_point = count


def signal_self(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture
def play() -> Any:
    """The functions above, as one object: test modules do not import each other."""
    return sys.modules[__name__]
