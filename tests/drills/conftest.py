"""The public command line under faults: what is asked, what is done to it, what must come out, the count.

Everything trains for real, on a folder of 18 images. `make drills` ends with one line of what was tried.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from PIL import Image

from tests.drills.ledger import LEDGER, Ledger
from tfkd_cli.store import Store

PATIENCE = 300.0  # seconds until a drill gives up on a process; nothing here asserts a time
FAULTS = Path(__file__).parent / "faults"
FORKSERVER = "from multiprocessing.forkserver import"
TIMES = ("seconds", "teacher_seconds", "start_seconds", "images_per_second", "attempt")
RECIPE = ("--epochs", "12", "--batch-size", "8", "--threads", "1", "--jobs", "2", "--json")
GRID = ("run", "--student", "plain-cnn", "--method", "tf-reg,kd", "--teacher", "resnet8", *RECIPE)
T = TypeVar("T")


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def clear(self) -> bool:
        """Whether it spoke to a user: no traceback."""
        return "Traceback" not in self.err + self.out


class Drill:
    """One results folder, the command that fills it, and the processes that come of it."""

    def __init__(self, root: Path, *, images: Path, cache: Path, command: Sequence[str] = GRID) -> None:
        self.root, self.images, self.cache = root, images, cache
        self.command = tuple(command)
        self.cache_prefix = uuid.uuid4().hex
        self.table: Any = None
        self._papers = root.parent
        self._said: dict[int, list[tuple[Path, subprocess.Popen[bytes]]]] = {}

    def arguments(self, *command: str) -> list[str]:
        """The command line: the drill's own command, or another on the same store."""
        own = [*self.command, "--dataset", f"folder:{self.images}"] if not command else list(command)
        return [sys.executable, "-m", "tfkd_cli", *own, "--results", str(self.root)]

    def start(
        self, *command: str, env: Mapping[str, str] | None = None, limit: Callable[[], None] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start it, in a session of its own; all its processes carry this drill's mark."""
        given = {"TFKD_CACHE": str(self.cache), "TFKD_DRILL": self.cache_prefix, "PYTHONPATH": str(FAULTS)}
        said = [self._papers / f"{self.cache_prefix}.{len(self._said)}.{kind}" for kind in ("out", "err")]
        # Pipes fill up, and block; files would obey the limits on the command.
        out, err = (
            subprocess.Popen(["tee", path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) for path in said
        )

        def begin() -> None:
            # It is ignored in all that a shell script runs in the background, these tests among them.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if limit is not None:
                limit()

        process = subprocess.Popen(
            self.arguments(*command),
            env={**os.environ, "OMP_NUM_THREADS": "1", **given, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out.stdin,
            stderr=err.stdin,
            start_new_session=True,
            preexec_fn=begin,
        )
        for each in (out, err):
            assert each.stdin is not None
            each.stdin.close()
        self._said[process.pid] = [(path, each) for path, each in zip(said, (out, err), strict=True)]
        return process

    def __call__(self, *command: str, **more: Any) -> Ended:
        """Run it to its end, and wait until nothing of it is left."""
        return self.ended(self.start(*command, **more))

    def ended(self, process: subprocess.Popen[bytes]) -> Ended:
        """How it ended; all its processes are gone then."""
        process.wait(timeout=PATIENCE)
        until(lambda: not self.processes() or None)
        for _, writer in self._said[process.pid]:
            writer.wait(timeout=PATIENCE)
        out, err = (path.read_text() for path, _ in self._said[process.pid])
        return Ended(process.returncode, out, err)

    def processes(self) -> dict[int, list[str]]:
        """Process → command line, of all that live and carry the mark, however deep."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if f"TFKD_DRILL={self.cache_prefix}".encode() in (path / "environ").read_bytes():
                    found[int(path.name)] = (path / "cmdline").read_text().split("\0")
            except OSError:
                continue
        return found

    def workers(self) -> list[int]:
        """The processes that train."""
        forkservers = set(self.forkservers())
        return [pid for pid in self.processes() if parent_of(pid) in forkservers]

    def forkservers(self) -> list[int]:
        """The processes that the workers are forked from."""
        named = {
            pid for pid, line in self.processes().items() if any(each.startswith(FORKSERVER) for each in line)
        }
        return [pid for pid in named if parent_of(pid) not in named]

    @property
    def store(self) -> Store:
        """The store as it is now."""
        return Store(self.root)

    def outcome(self) -> dict[str, Any]:
        """All that is promised bit for bit, by run; every run is done and passes the deepest check."""
        states = self.store.scan()
        assert {state.status for state in states.values()} == {"done"}, states
        return {state.name: self._of_run(state.name) for state in states.values()}

    def _of_run(self, name: str) -> dict[str, Any]:
        folder = self.store.folder(name)
        result = folder.result()
        assert result is not None
        lines = [{k: v for k, v in line.items() if k not in TIMES} for line in folder.metrics()]
        return {"lines": lines, **{part: result[part] for part in ("best", "last", "weights")}}

    def check(self) -> None:
        """Every run is in a state a user can understand: nothing is damaged, nobody seems at work."""

        def settled() -> dict[str, str] | None:
            found: dict[str, str] = {state.name: state.status for state in self.store.scan().values()}
            return None if "running" in found.values() else found  # a process that is just dying

        found = until(settled)
        assert set(found.values()) <= {"todo", "resumable", "failed", "done"}, found

    def epochs(self) -> int:
        """Epochs done so far, those of unfinished attempts and of finished runs."""
        return sum(len(run.metrics()) for run in self.store.runs())

    def attempts(self) -> int:
        """How many attempts were made on all runs."""
        return sum(state.attempts for state in self.store.scan().values())

    def count_kills(self, ledger: Ledger) -> None:
        """Every attempt that left no result was killed: its work since its last saved state is lost."""
        for run in self.store.runs():
            attempts = run.attempts()
            for path in attempts[: -1 if run.state().status == "done" else None]:
                ledger.fault(lost_seconds=_unsaved(path))


def _unsaved(attempt: Path) -> float:
    """Seconds from the last saved state of an attempt, or its beginning, to its last sign of life."""
    times = {path.name: path.stat().st_mtime for path in attempt.iterdir()}
    saved = [when for name, when in times.items() if name.startswith("state-") and name.endswith(".json")]
    begun = min(times.values(), default=0.0)
    return max(times.values(), default=0.0) - max([*saved, begun])


def parent_of(pid: int) -> int:
    """The parent of a process, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def is_to_end(pid: int) -> bool:
    """Whether a stopped process has been sent a SIGTERM that it has not taken yet."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if (
                line.startswith(("ShdPnd:", "SigPnd:"))
                and int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1
            ):
                return True
    return False


def zombies_of(parents: set[int]) -> list[int]:
    """Processes that have ended and were not reaped by one of these."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state == "Z" and int(parent) in parents:
            found.append(int(path.parent.name))
    return found


def until(found: Callable[[], T | None], *, pause: float = 0.02) -> T:
    """What `found` gives once it gives something."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        value = found()
        if value is not None:
            return value
        time.sleep(pause)
    raise AssertionError("waited in vain")


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """A signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of random 32-pixel images, 9 to train and 4 to test each, with names like markup."""
    folder = tmp_path_factory.mktemp("images") / "<img src=x>'\"&$(touch ran) %s"
    numbers = np.random.default_rng(0)
    for part, count in (("train", 9), ("test", 4)):
        for label in ("cat", "<script>alert(1)"):
            (folder / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = numbers.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / label / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drill-cache")


@pytest.fixture
def drill(tmp_path: Path, images: Path, cache: Path) -> Iterator[Callable[..., Drill]]:
    """Makes drills, each on a results folder of its own name; none of their processes outlives the test."""
    made: list[Drill] = []

    def make(name: str = "results", *command: str) -> Drill:
        made.append(Drill(tmp_path / name, images=images, cache=cache, command=command or GRID))
        return made[-1]

    yield make
    for each in made:
        for pid in each.processes():
            kill(pid)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, images: Path, cache: Path) -> Callable[..., Drill]:
    """Command → the drill in which nothing happened to it; done once each, and not to be touched."""
    known: dict[tuple[str, ...], Drill] = {}

    def done(command: Sequence[str] = GRID) -> Drill:
        key = tuple(command)
        if key not in known:
            root = tmp_path_factory.mktemp("whole") / "results"
            known[key] = Drill(root, images=images, cache=cache, command=key)
            ended = known[key]()
            assert ended.code == 0, ended.err
            known[key].table = json.loads(ended.out)
        return known[key]

    return done


@pytest.fixture(scope="session")
def undisturbed(whole: Callable[..., Drill]) -> Callable[..., Any]:
    """Command → (the store's outcome, the table it printed) where nothing happened."""

    def outcome(command: Sequence[str] = GRID) -> tuple[dict[str, Any], Any]:
        return whole(command).outcome(), whole(command).table

    return outcome


@pytest.fixture
def recovers(undisturbed: Callable[..., Any]) -> Callable[[Drill], None]:
    """The same command ends with the table and the weights of a run that nothing happened to."""

    def recover(disturbed: Drill) -> None:
        ended = disturbed()
        expected, table = undisturbed(disturbed.command)
        good = ended.code == 0 and disturbed.outcome() == expected and json.loads(ended.out) == table
        LEDGER.lost += not good
        assert ended.code == 0, ended.err
        assert disturbed.outcome() == expected
        assert json.loads(ended.out) == table

    return recover


@pytest.fixture
def ledger() -> Ledger:
    """The count that `make drills` prints."""
    return LEDGER


@pytest.fixture
def play() -> Any:
    """The functions above, as one object: test modules do not import each other."""
    return sys.modules[__name__]
