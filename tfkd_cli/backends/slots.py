"""How many runs go at once on this machine, and what each gets.

Slots are fixed for the whole command and so are the threads of a run, for its numbers depend on them:
on the CPU as many slots as runs could ever go at once (at most --jobs, or the cores), threads = cores ÷
slots; on GPUs one slot per GPU, or --jobs slots shared out among them. A data-parallel run (--gpus) has
several processes in its slot: with K of them, the cores or GPUs are shared out among K times as many.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfkd_cli.execution import Execution
from tfkd_cli.spec import RunSpec
from tfkd_cli.training import provenance


@dataclass(frozen=True, kw_only=True)
class Slots:
    """For each run that goes at once the environments of its processes; the threads and device of these."""

    environments: tuple[tuple[Mapping[str, str], ...], ...]
    threads: int
    device: str


def slots(specs: Sequence[RunSpec], *, execution: Execution, jobs: int | None) -> Slots:
    """The slots for these runs: pass all runs of a request, done or not, so that going on uses the same."""
    gpus = _gpus(execution.device)
    cores, processes = provenance.cores(), execution.processes or 1
    used = processes * (execution.threads or 1)  # cores of a run
    if gpus:
        number = jobs or max(1, len(gpus) // processes)
    else:
        most = jobs or (1 if execution.device == "mps" else max(1, cores // used))
        number = max(1, min(most, width(specs)))
    shared_out = itertools.cycle([{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}])
    return Slots(
        environments=tuple(tuple(itertools.islice(shared_out, processes)) for _ in range(number)),
        threads=execution.threads or max(1, cores // (number * processes)),
        device="cuda" if gpus else execution.device,
    )


def of_ranks(environments: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The environments of the processes of one run, with the variables that torchrun would set.

    They meet at a free port of this machine's loopback interface.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    meeting = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(len(environments)),
        "LOCAL_WORLD_SIZE": str(len(environments)),
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
    }
    return [{**each, **meeting, "RANK": str(r), "LOCAL_RANK": str(r)} for r, each in enumerate(environments)]


def width(specs: Sequence[RunSpec]) -> int:
    """The most runs that can go at once: those with equally many generations of teachers before them."""
    depths = {each.key: each.depth for spec in specs for each in spec.lineage}
    return max(Counter(depths.values()).values(), default=1)


def _gpus(device: str) -> list[str]:
    """What CUDA_VISIBLE_DEVICES may name; found without torch."""
    if device in ("cpu", "mps"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        found = [each.strip() for each in visible.split(",") if each.strip() not in ("", "-1")]
    else:
        found = [str(number) for number in range(_count_gpus())]
    kind, _, number = device.partition(":")
    return found[int(number) : int(number) + 1] if kind == "cuda" and number.isdigit() else found


def _count_gpus() -> int:
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run([program, "-L"], capture_output=True, timeout=30, check=True)
        return sum(line.startswith(b"GPU ") for line in listed.stdout.splitlines())
    return 0
