"""Is this machine ready? Python, torch, device and its speed, data sets, disk, SLURM."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli import data
from tfkd_cli.errors import Check
from tfkd_cli.execution import Execution

if TYPE_CHECKING:
    import torch

LOW_DISK_GB = 20.0  # Tables 1, 4, 5 and 9 together keep some 40 GB of weights
PACKAGES = ("torchvision", "pandas", "matplotlib", "submitit", "scikit-learn", "scipy", "jinja2")


def examine(
    execution: Execution,
    results: Path,
    *,
    cluster: bool = False,
    say: Callable[[str], None] = lambda what: None,
) -> Iterator[Check]:
    """Look at everything, one by one; each check is given as soon as it is known.

    `cluster`: a profile is checked after it. `say` is called before each check that takes a second or more.
    """
    yield Check("python", "ok", platform.python_version())
    yield _packages()
    yield from _data_sets(execution)
    for name, path in (("results", results), ("cache", execution.cache_path)):
        yield _disk(name, path)
    there = "sbatch is here" + "; `tfkd doctor --cluster NAME` checks a profile" * (not cluster)
    yield Check(
        "slurm", "ok", there if shutil.which("sbatch") else "not on this machine; only --cluster needs it"
    )
    say("Loading torch …")
    yield from _torch(execution)


def _packages() -> Check:
    try:
        return Check("packages", "ok", ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    except PackageNotFoundError as missing:
        return Check("packages", "fail", f"missing: {missing.name}", f"pip install {missing.name}")


def _torch(execution: Execution) -> Iterator[Check]:
    try:
        import torch

        from tfkd_cli.training import precision, provenance
    except ImportError as error:
        yield Check("torch", "fail", str(error), "pip install torch torchvision")
        return
    yield Check("torch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads")
    device = provenance.choose_device(execution.device)
    name = provenance.numerics_of(device, threads=1)["device_name"]
    slow = "the paper's grid needs GPUs; digits, quick scale and small networks run here."
    on_cpu = device.type == "cpu"
    yield Check("device", "warn" if on_cpu else "ok", f"{device} ({name})", slow * on_cpu)
    bf16 = precision.arithmetic("bf16", device) == "bf16"
    speeds = [("fp32", torch.float32), *([("bf16", torch.bfloat16)] if bf16 else [])]
    two_digits = (f"{float(f'{_gflops(device, dtype):.2g}'):,g}" for _, dtype in speeds)
    shown = ", ".join(f"{name} {rate}" for (name, _), rate in zip(speeds, two_digits, strict=True))
    unit = "GFLOP/s" + (" on one thread" if device.type == "cpu" else "")
    yield Check(
        "speed", "ok", f"{shown} {unit} in a matrix product{'' if bf16 else '; --fast uses fp32 here'}"
    )


def _gflops(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate of a large matrix product within 0.3 s; on one thread and in CPU time where it is a CPU.

    So other work on the machine makes little difference.
    """
    import torch

    clock, size = (time.process_time, 512) if device.type == "cpu" else (time.perf_counter, 4096)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a = torch.randn(size, size, device=device, dtype=dtype)
    started, best = clock(), float("inf")
    while (before := clock()) - started < 0.3:
        (a @ a)[0, 0].item()  # waits for a GPU
        best = min(best, clock() - before)
    torch.set_num_threads(threads)
    return 2 * size**3 / best / 1e9


def _data_sets(execution: Execution) -> Iterator[Check]:
    for name in data.DATASETS:
        found = data.resolve(name, execution=execution)
        if found.ready:
            yield Check(name, "ok", f"decoded as {found.name}; its digests are compared before it is used")
        elif found.available:
            yield Check(name, "ok", "found, decoded at its first use")
        else:
            given = "" if found.download else " --from DIR"
            yield Check(name, "warn", "not here", f"tfkd data {name}{given}")


def _disk(name: str, path: Path) -> Check:
    nearest = next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
    free = shutil.disk_usage(nearest).free / 1e9
    low = free < LOW_DISK_GB
    todo = "`tfkd plan all` says what it will take." if low else ""
    return Check(f"disk ({name})", "warn" if low else "ok", f"{free:,.0f} GB free at {path}", todo)
