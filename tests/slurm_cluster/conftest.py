"""A real SLURM of our own for the session, and what a drill needs of it."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.planning import planned
from tfkd_cli import data
from tfkd_cli.backends.slurm import profile as profiles
from tfkd_cli.backends.slurm import queue
from tfkd_cli.backends.slurm.sending import Submission
from tfkd_cli.backends.slurm.submit import submit
from tfkd_cli.execution import Execution
from tfkd_cli.methods import Distillation
from tfkd_cli.spec import Recipe, RunSpec, Teacher
from tfkd_cli.store import Store

ROOT = Path(__file__).parents[2]
DEV = ROOT / "slurm" / "dev" / "cluster.py"
DAEMONS = ("munged", "slurmctld", "slurmd")
REQUIRED = "TFKD_REQUIRE_SLURM"  # set in .ci/run: there, an absent SLURM is a failure

PATIENCE = 600  # seconds: only a failure waits as long, however busy the machine is

# A job holds about 450 MB; while it starts a command SLURM counts that twice, and kills on exceeding.
MEMORY = "1800MB"
SMALL = f"[submit]\ngpus_per_node = 1\ncpus_per_task = 1\nslurm_mem = '{MEMORY}'\ntimeout_min = 5\n"
WHOLE = SMALL.replace("gpus_per_node = 1", "gpus_per_node = 4")


class Cluster:
    """One `slurm/dev` cluster."""

    def __init__(self, *options: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tfkd-slurm-"))
        self._dev("up", str(self.folder), *options)
        guard = [sys.executable, str(DEV), "guard", str(self.folder), str(os.getpid())]
        self._guard = subprocess.Popen(guard, start_new_session=True)  # should we be killed
        self.environment = {**os.environ, "SLURM_CONF": str(self.folder / "etc" / "slurm.conf")}

    def down(self) -> None:
        """Leave nothing."""
        self._guard.kill()
        self._guard.wait()
        self._dev("down", str(self.folder))
        shutil.rmtree(self.folder, ignore_errors=True)

    def daemon(self, action: str, name: str) -> None:
        """stop, kill or start one daemon."""
        self._dev(action, str(self.folder), name)

    def forget_all_jobs(self) -> None:
        """What slurmctld does with finished jobs in the end, at once; the next job has the id 1 again."""
        self.daemon("stop", "slurmctld")
        for path in (self.folder / "ctld").glob("job_state*"):
            path.unlink()
        self.daemon("start", "slurmctld")

    def ask(self, *command: str) -> str:
        """What a SLURM command prints."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=True
        )
        return done.stdout

    @property
    def user(self) -> str:
        """Who submits."""
        return getpass.getuser()

    def states(self) -> dict[str, str]:
        """Job id → state, of all jobs slurmctld remembers."""
        lines = self.ask("squeue", "-h", "-r", "-t", "all", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def show(self, job_id: str) -> dict[str, str]:
        """`scontrol show job`."""
        text = self.ask("scontrol", "show", "job", job_id, "-o")
        return dict(pair.split("=", 1) for pair in text.split() if "=" in pair)

    def urgent(self, *, seconds: int) -> str:
        """A job of the higher partition that needs all GPUs."""
        text = self.ask(
            "sbatch", "-p", "urgent", "--gpus-per-node=4", "-o", "/dev/null", "--wrap", f"sleep {seconds}"
        )
        return text.split()[-1]

    @staticmethod
    def _dev(*arguments: str) -> None:
        subprocess.run([sys.executable, str(DEV), *arguments], check=True, capture_output=True, timeout=120)


def _require_slurm(*more: str) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [each for each in (*DAEMONS, *more) if shutil.which(each, path=path) is None]
    if missing and os.environ.get(REQUIRED):
        pytest.fail(f"{', '.join(missing)} must be installed here: slurm/dev/README.md")
    if missing:
        pytest.skip(f"no {', '.join(missing)} on this machine: slurm/dev/README.md says how to install SLURM")


@pytest.fixture(scope="session")
def real_slurm() -> Iterator[Cluster]:
    """A node with 8 pretended cores and 4 pretended GPUs; SLURM's default preemption; no accounting."""
    _require_slurm()
    cluster = Cluster()
    yield cluster
    cluster.down()


@pytest.fixture(scope="session")
def accounting_slurm() -> Iterator[Cluster]:
    """One with slurmdbd, which forgets jobs quickly and enforces limits."""
    _require_slurm("slurmdbd", "mariadbd")
    cluster = Cluster("--accounting", "--set", "MinJobAge=2", "--set", "AccountingStorageEnforce=limits")
    for what in (["account", "lab"], ["user", cluster.user, "account=lab", "DefaultAccount=lab"]):
        cluster.ask("sacctmgr", "-i", "add", *what)
    yield cluster
    cluster.down()


@pytest.fixture
def two_nodes() -> Iterator[Cluster]:
    """Two nodes on this host."""
    _require_slurm()
    cluster = Cluster("--nodes", "2", "--gpus", "0")
    yield cluster
    cluster.down()


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The decoded digits."""
    folder = tmp_path_factory.mktemp("data")
    data.prepare("digits", execution=Execution(cache=str(folder)))
    return str(folder)


class Drill:
    """One store on one cluster."""

    def __init__(self, cluster: Cluster, folder: Path, cache: str) -> None:
        self.cluster = cluster
        self.folder = folder
        self.store = Store.open(folder / "results", create=True)
        self.execution = Execution(cache=cache, threads=1, device="cpu", checkpoint_minutes=10)
        self.crash = folder / "crash"

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let SLURM's commands, and the jobs they send, find this cluster and the drill's networks."""
        for key in [key for key in os.environ if key.startswith(("SLURM_", "SBATCH_"))]:
            monkeypatch.delenv(key)
        monkeypatch.setenv("SLURM_CONF", self.cluster.environment["SLURM_CONF"])
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
        monkeypatch.setenv("DRILL_CRASH", str(self.crash))

    def profile(self, text: str = SMALL) -> profiles.Profile:
        """A profile; a quarter of the node and five minutes where nothing else is said."""
        path = self.folder / "drill.toml"
        path.write_text(text)
        return profiles.read(path)

    def submit(
        self, specs: Sequence[RunSpec], *, profile: str = SMALL, jobs: int | None = None
    ) -> Submission:
        """Submit to the cluster."""
        return submit(
            planned(specs, self.store),
            store=self.store,
            execution=self.execution,
            profile=self.profile(profile),
            jobs=jobs,
        )

    def status(self, spec: RunSpec) -> str:
        """What the store says."""
        return self.store.run(spec).state().status

    def queue(self) -> queue.Queue:
        """What SLURM says."""
        return queue.queue_states(self.store, fresh=True)

    def wait(self, condition: Callable[[], object]) -> None:
        """Until `condition` holds; fails with what SLURM and the jobs say."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {PATIENCE} s\n{self.told()}")
            time.sleep(0.25)

    def wait_done(self, *specs: RunSpec) -> None:
        """Until all these runs have results."""
        self.wait(lambda: all(self.status(spec) == "done" for spec in specs))

    def wait_epoch(self, spec: RunSpec, epoch: int = 1) -> None:
        """Until the run has finished an epoch."""
        self.wait(lambda: any(line["epoch"] >= epoch for line in self.store.run(spec).metrics()))

    def told(self) -> str:
        """The queue and the logs."""
        logs = [path.read_text()[-1500:] for path in self.store.root.glob("submissions/*/array-*/*.out")]
        return "\n".join([self.cluster.ask("squeue", "-t", "all"), *logs])

    def lives(self) -> list[dict[str, Any]]:
        """What the jobs noted of their lives, in order."""
        lines = [
            json.loads(line)
            for path in sorted(self.store.root.glob("submissions/*/lives/*.jsonl"))
            for line in path.read_text().splitlines()
        ]
        return sorted(lines, key=lambda line: str(line["at"]))


@pytest.fixture(scope="session", autouse="PYTEST_XDIST_WORKER" not in os.environ)
def limited(accounting_slurm: Cluster, tmp_path_factory: pytest.TempPathFactory, cache: str) -> Drill:
    """`LIMITED` with a limit of two minutes, sent first and waited for last: SLURM looks each 30 s."""
    made = Drill(accounting_slurm, tmp_path_factory.mktemp("limited"), cache)
    with pytest.MonkeyPatch.context() as patched:
        made.enter(patched)
        made.submit([LIMITED], profile=SMALL.replace("timeout_min = 5", "timeout_min = 2"))
    return made


@pytest.fixture
def drill(
    real_slurm: Cluster, tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Drill]:
    """A store of its own on the session's cluster; whatever is left in the queue afterwards is cancelled."""
    yield from _drill(real_slurm, tmp_path, cache, monkeypatch)


@pytest.fixture
def accounting_drill(
    accounting_slurm: Cluster, tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Drill]:
    """The same on the cluster with accounting."""
    yield from _drill(accounting_slurm, tmp_path, cache, monkeypatch)


@pytest.fixture
def lossy_drill(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drill]:
    """A cluster of its own that takes a node for lost after five seconds."""
    _require_slurm()
    cluster = Cluster("--set", "SlurmdTimeout=5")
    yield from _drill(cluster, tmp_path, cache, monkeypatch)
    cluster.down()


@pytest.fixture
def memory_drill(tmp_path: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drill]:
    """A cluster without accounting that kills for memory."""
    _require_slurm()
    gather = ("Type=jobacct_gather/linux", "Frequency=task=1", "Params=OverMemoryKill")
    cluster = Cluster(*(word for each in gather for word in ("--set", f"JobAcctGather{each}")))
    yield from _drill(cluster, tmp_path, cache, monkeypatch)
    cluster.down()


def _drill(cluster: Cluster, folder: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drill]:
    made = Drill(cluster, folder, cache)
    made.enter(monkeypatch)
    yield made
    mine = [state.job_id for state in made.queue().values() if state.active]
    if mine:
        cluster.ask("scancel", "--quiet", *mine)
    # A job that ended while slurmctld was down may stay "completing" for a minute; it no longer runs.
    made.wait(lambda: not {each.state for each in made.queue().values()} & {"RUNNING", "PENDING"})


def run_of(network: str = "quick", *, epochs: int = 2, seed: int = 0) -> RunSpec:
    """A baseline on digits; `slow` sleeps through its epochs of 2.4 s."""
    recipe = Recipe(epochs=epochs, milestones=(), augment="none")
    return RunSpec(dataset="digits", student=f"python:slow_networks:{network}", recipe=recipe, seed=seed)


def student_of(teacher: RunSpec, *, seed: int = 0) -> RunSpec:
    """A student of `teacher`."""
    return RunSpec(
        dataset="digits",
        student="python:slow_networks:quick",
        loss=Distillation(),
        teacher=Teacher(run=teacher),
        recipe=Recipe(epochs=2, milestones=(), augment="none"),
        seed=seed,
    )


# Its 40 epochs sleep for 96 s, and a run is warned 96 s after its start: no life is long enough. With a limit
# of one minute, a busy machine has two lives in a row that end before torch is loaded.
LIMITED = run_of("slow", epochs=40, seed=9)


@pytest.fixture(name="run_of")
def _run_of() -> Callable[..., RunSpec]:
    return run_of


@pytest.fixture(name="student_of")
def _student_of() -> Callable[..., RunSpec]:
    return student_of


@pytest.fixture
def whole() -> str:
    """A profile that asks for the whole node."""
    return WHOLE


@pytest.fixture
def small() -> str:
    """A profile that asks for a quarter of it."""
    return SMALL
