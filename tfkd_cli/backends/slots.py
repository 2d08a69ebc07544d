"""How many runs go at once on this machine, and what each gets.

Slots are fixed for the whole command and so are the threads of a run, for its numbers depend on them:
on the CPU as many slots as runs could ever go at once (at most --jobs, or the cores), threads = cores ÷
slots; on GPUs one slot per GPU, or --jobs slots shared out among them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfkd_cli.execution import Execution
from tfkd_cli.spec import RunSpec
from tfkd_cli.training import provenance


@dataclass(frozen=True, kw_only=True)
class Slots:
    """An environment for each run that goes at once; the threads and the device of all of them."""

    environments: tuple[Mapping[str, str], ...]
    threads: int
    device: str


def slots(specs: Sequence[RunSpec], *, execution: Execution, jobs: int | None) -> Slots:
    """The slots for these runs: pass all runs of a request, done or not, so that going on uses the same."""
    gpus = _gpus(execution.device)
    cores = provenance.cores()
    if gpus:
        number = jobs or len(gpus)
        return Slots(
            environments=tuple({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} for slot in range(number)),
            threads=execution.threads or max(1, cores // number),
            device="cuda",
        )
    most = jobs or (1 if execution.device == "mps" else max(1, cores // (execution.threads or 1)))
    number = max(1, min(most, width(specs)))
    return Slots(
        environments=({},) * number,
        threads=execution.threads or max(1, cores // number),
        device=execution.device,
    )


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
