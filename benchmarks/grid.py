"""A small grid from a folder of images to its table: tfkd's command beside a suite's script.

Teacher ResNet20; students plain CNN, ResNet8 and ResNet20, alone and by KD; seeds 0, 1, 2; 5 epochs: 18 runs
on either side, which are free to run two at once. Ours begins with an empty cache, so decoding the images is
part of its time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import images
from benchmarks.load import FOREIGN_CORES, busy_seconds
from benchmarks.workloads import AUGMENT

TEACHER = "resnet20"
STUDENTS = ("plain-cnn", "resnet8", "resnet20")
SEEDS = 3
EPOCHS = 5
ROOT = Path(__file__).parent.parent
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def ours(folder: Path, scratch: Path, *, epochs: int) -> list[str]:
    """The command a user gives."""
    return [
        *(sys.executable, "-m", "tfkd_cli", "run", "--method", "kd", "--teacher", TEACHER),
        *("--student", ",".join(STUDENTS), "--dataset", f"folder:{folder}", "--seeds", str(SEEDS)),
        *("--epochs", str(epochs), "--fast", "--set", f"recipe.augment={AUGMENT}"),
        *("--results", str(scratch / "results"), "--cache-dir", str(scratch / "cache"), "--yes"),
    ]


def theirs(folder: Path, scratch: Path, *, epochs: int) -> list[str]:
    """The script of a conventional suite."""
    return [sys.executable, "-m", "benchmarks.suite", str(folder), str(scratch), str(epochs)]


def measure(
    folder: Path, *, rounds: int, epochs: int = EPOCHS, report: Callable[[str], None]
) -> dict[str, Any]:
    """Both to their tables, `rounds` times in turn."""
    seconds: dict[str, list[float]] = {"conventional": [], "fast": []}
    foreign: dict[str, list[float]] = {"conventional": [], "fast": []}
    for round_ in range(1, rounds + 1):
        for side, command in (("conventional", theirs), ("fast", ours)):
            report(f"grid: round {round_} of {rounds}, {side}")
            with images.scratch() as scratch:
                elapsed, other = _timed(command(folder, Path(scratch), epochs=epochs))
            seconds[side].append(elapsed)
            foreign[side].append(other)
    pairs = zip(seconds["conventional"], seconds["fast"], strict=True)
    return {
        "ratio": round(median(a / b for a, b in pairs), 3),
        "seconds": {side: median(values) for side, values in seconds.items()},
        "rounds": seconds,
        "foreign_cores": {side: round(max(values), 2) for side, values in foreign.items()},
        "disturbed": {
            side: f"{sum(value > FOREIGN_CORES for value in values)}/{len(values)}"
            for side, values in foreign.items()
        },
    }


def _timed(command: Sequence[str]) -> tuple[float, float]:
    """Seconds of a command, and how many cores others used meanwhile.

    tfkd's runs are children of a fork server, which outlives the command. The kernel hands it to this
    process and adds its time, and that of the runs, to the time of this process's children.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    busy, own, started = busy_seconds(), _children_seconds(), time.perf_counter()
    output = _output(command)
    elapsed = time.perf_counter() - started
    print(output, file=sys.stderr)
    used = _children_seconds() - own
    return elapsed, max(0.0, (busy_seconds() - busy - used) / elapsed)


def _output(command: Sequence[str]) -> str:
    """What a command printed; whatever ends the wait ends it too, and all that it started."""
    pipe = subprocess.PIPE
    # A signal between the start and the `try` would leave the command running.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask),
    ) as process:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            output, errors = process.communicate()
            with contextlib.suppress(ChildProcessError):
                while True:  # what the command left, until nothing is left of its process group
                    os.waitpid(-process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            raise
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{errors[-3000:]}")
    return output


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
