"""A fake SLURM on PATH, a store, and small graphs of runs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.planning import planned
from tfkd_cli.backends.slurm import profile as profiles
from tfkd_cli.backends.slurm import staging
from tfkd_cli.backends.slurm.profile import Profile
from tfkd_cli.backends.slurm.sending import Submission
from tfkd_cli.backends.slurm.submit import submit
from tfkd_cli.execution import Execution
from tfkd_cli.methods import Distillation
from tfkd_cli.spec import Recipe, RunSpec, Teacher
from tfkd_cli.store import Store

COMMANDS = Path(__file__).parents[2] / "fake_slurm" / "commands.py"
REAL_CONTENTS = staging.contents
NAMES = ("sbatch", "squeue", "scontrol", "scancel", "sinfo", "srun")
FRESH: dict[str, Any] = {
    "next_id": 1,
    "jobs": {},
    "calls": [],
    "rules": [],
    "requeued": [],
    "config": {
        "ClusterName": "fake",
        "SLURM_VERSION": "22.05.8",
        "MaxArraySize": "1001",
        "MinJobAge": "300 sec",
    },
    "sinfo": ["main*|2-00:00:00|8|8000|gpu:4|UNLIMITED", "urgent|infinite|8|8000|gpu:4|UNLIMITED"],
    "most": {},
    "max_submit": None,
    "no_requeue": False,
    "down": False,
    "warn": "",
}


class FakeSlurm:
    """The state file behind the fake commands."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._path = home / "state.json"
        self._path.write_text(json.dumps(FRESH))

    @property
    def state(self) -> dict[str, Any]:
        """As it is now."""
        found: dict[str, Any] = json.loads(self._path.read_text())
        return found

    @contextmanager
    def edit(self) -> Iterator[dict[str, Any]]:
        """Change the state."""
        state = self.state
        yield state
        self._path.write_text(json.dumps(state))

    def calls(self, command: str) -> list[list[str]]:
        """The arguments of each call of a command so far."""
        return [call[1:] for call in self.state["calls"] if call[0] == command]

    def refuse(self, command: str, sentence: str, *, times: int = 1, when: str = "") -> None:
        """Let the next calls of a command (with `when` in their arguments) fail with SLURM's sentence."""
        with self.edit() as state:
            state["rules"].append({"command": command, "sentence": sentence, "times": times, "when": when})

    def move(self, job_id: str, state: str, reason: str = "None", **shown: str) -> None:
        """Put a job or an element of an array into another state."""
        base, _, index = job_id.partition("_")
        with self.edit() as whole:
            elements = whole["jobs"][base]["elements"]
            for element in [elements[int(index)]] if index else elements:
                element.update(state=state, reason=reason, shown=shown)

    def forget(self, base_id: str) -> None:
        """What slurmctld does with a finished job after MinJobAge."""
        with self.edit() as state:
            del state["jobs"][base_id]

    def options(self, base_id: str) -> dict[str, str]:
        """The #SBATCH options of a job."""
        found: dict[str, str] = self.state["jobs"][base_id]["options"]
        return found

    def dependencies(self, base_id: str) -> list[str]:
        """What each element of a job waits for."""
        return [each["dependency"] for each in self.state["jobs"][base_id]["elements"]]


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power fails in these tests, and two files stand for the code."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    code = {"tfkd_cli/training/worker.py": b"", "tfkd_cli/staged.json": b'{"commit": "0", "diff": ""}'}
    monkeypatch.setattr(staging, "contents", lambda: code)


@pytest.fixture
def whole_code(quick_disk: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real code after all."""
    monkeypatch.setattr(staging, "contents", REAL_CONTENTS)


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """SLURM's commands on PATH, driven by one state file."""
    home = tmp_path / "slurm"
    (home / "bin").mkdir(parents=True)
    for name in NAMES:
        script = home / "bin" / name
        script.write_text(f"#!{sys.executable} -SE\n" + COMMANDS.read_text())
        script.chmod(0o755)
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setenv("PATH", f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for key in list(os.environ):
        if key.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(key)
    return FakeSlurm(home)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store.open(tmp_path / "results", create=True)


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    """A profile that leaves everything to the site."""
    path = tmp_path / "plain.toml"
    path.write_text("[submit]\n")
    return profiles.read(path)


@pytest.fixture
def execution(tmp_path: Path) -> Execution:
    """Where data would be."""
    return Execution(cache=str(tmp_path / "cache"))


@pytest.fixture
def send(store: Store, profile: Profile, execution: Execution) -> Callable[..., Submission]:
    """`submit` with this store, profile and execution."""

    def with_defaults(specs: Sequence[RunSpec], **more: Any) -> Submission:
        given = {"store": store, "profile": profile, "execution": execution, **more}
        return submit(planned(specs, given["store"]), **given)

    return with_defaults


@pytest.fixture
def graph() -> Callable[[int, int], list[RunSpec]]:
    """`graph(2, 3)`: two teachers, then three students of each."""
    return make_graph


def make_graph(teachers: int, students: int) -> list[RunSpec]:
    """Teachers first."""
    recipe = Recipe(epochs=2, milestones=(), augment="none")
    top = [RunSpec(dataset="digits", student="resnet8", recipe=recipe, seed=seed) for seed in range(teachers)]
    return top + [
        RunSpec(
            dataset="digits",
            student="plain-cnn",
            loss=Distillation(),
            teacher=Teacher(run=teacher),
            recipe=recipe,
            seed=seed,
        )
        for teacher in top
        for seed in range(students)
    ]


@pytest.fixture
def finish(store: Store) -> Callable[[RunSpec], None]:
    """Give a run a result and weights, as its worker would."""

    def publish(spec: RunSpec) -> None:
        folder = store.run(spec)
        folder.declare(spec)
        attempt = folder.start_attempt(owner={})
        weights = attempt.path / "best.pt"
        weights.write_bytes(b"weights")
        score = {"epoch": 1, "accuracy": 50.0}
        result = {"key": spec.key, "best": score, "last": score, "epochs": 1, "seconds": 1.0}
        attempt.publish(
            metrics=[{"epoch": 1, "test_accuracy": 50.0}], weights={"best.pt": weights}, result=result
        )

    return publish
