"""Which code, packages, hardware and numerics a run had."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.errors import RunError

if TYPE_CHECKING:
    import torch

PACKAGE = Path(__file__).parents[1]
PACKAGES = ("tfkd", "torch", "torchvision", "numpy", "timm")

STAGED = "staged.json"
"""In the package's folder of a staged copy of the package: `{"commit": …, "diff": …}` of what was copied."""

FEATURES = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""Newest first. Virtual machines give processors of several generations one name."""

DRIVERS = ("/proc/driver/nvidia/version", "/dev/kfd", "/dev/dxg")
"""One of these exists where a driver is loaded: of NVIDIA, of AMD, and of Windows under WSL."""


@dataclass(frozen=True, kw_only=True)
class Code:
    """The commit that runs, and what was changed on top of it: the sha256 of `patch`, "" for nothing."""

    commit: str = ""
    diff: str = ""
    patch: str = ""


@cache
def code() -> Code:
    """The commit and changes of this package; without a repository, its version."""
    staged = PACKAGE / STAGED
    if staged.is_file():
        noted = json.loads(staged.read_text())
        return Code(commit=str(noted.get("commit", "")), diff=str(noted.get("diff", "")))
    if not _git("ls-files", PACKAGE.name):
        return Code(commit=f"tfkd {_version('tfkd') or 'unknown'}")
    patch = _git("diff", "HEAD", "--", PACKAGE.name, "paper_tables") + _untracked()
    diff = hashlib.sha256(patch.encode()).hexdigest() if patch else ""
    return Code(commit=_git("rev-parse", "HEAD").strip(), diff=diff, patch=patch)


def _untracked() -> str:
    names = _git(
        "ls-files", "--others", "--exclude-standard", "--", PACKAGE.name, "paper_tables"
    ).splitlines()
    paths = [path for name in names if (path := PACKAGE.parent / name).is_file()]
    return "".join(f"untracked {path}: {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in paths)


def _git(*arguments: str) -> str:
    """What git says in the folder of the package; "" where it cannot."""
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE.parent), *arguments],
            capture_output=True,
            timeout=20,
            check=True,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace")


@cache
def versions() -> dict[str, str]:
    """The versions of python and of the packages that calculate."""
    found = {name: version for name in PACKAGES if (version := _version(name))}
    return {"python": platform.python_version(), **found}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def now() -> str:
    """The time as all records give it: UTC, ISO 8601, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@cache
def cpu_name() -> str:
    """The model of the processor, and the instructions that decide how it is calculated with."""
    text = _cpuinfo()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found.group(1).strip() if found else platform.processor() or platform.machine()
    features = next((each for each in FEATURES if each in text.split()), "")
    return f"{name} ({features})" if features else name


def cpu_has_bf16_units() -> bool:
    """Whether the processor multiplies in bf16 faster than in fp32."""
    known = set(_cpuinfo().split())
    # Measured: AMD's avx512_bf16 (Zen 4) multiplies twice as fast as fp32; Intel's, without AMX, is slower.
    return "amx_bf16" in known or {"avx512_bf16", "AuthenticAMD"} <= known


def _cpuinfo() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text()
    return ""


def cores() -> int:
    """The cores this process may use: its affinity, the quota of its cgroup, its share of a SLURM job."""
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux only
    allowed = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        allowed = min(allowed, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    share = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(allowed, int(share)) if share.isdigit() and int(share) else allowed


def environment(numerics: Mapping[str, Any]) -> dict[str, Any]:
    """Where and how an attempt runs: its env.json."""
    slurm = {name: value for name, value in os.environ.items() if name.startswith("SLURM_") and "JOB" in name}
    return {
        "commit": code().commit,
        "diff": code().diff,
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": cores(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "argv": sys.argv,
        "slurm": slurm,
        "numerics": dict(numerics),
    }


def asked_device(wanted: str) -> str:
    """The device that is asked for: "auto" is "cuda" within a SLURM job that was given GPUs."""
    return "cuda" if wanted == "auto" and _given_gpus() else wanted


def _given_gpus() -> bool:
    return os.environ.get("SLURM_GPUS_ON_NODE", "") not in ("", "0")  # set in job scripts and srun's steps


def choose_device(wanted: str) -> torch.device:
    """The device of this name; "auto" is cuda, then mps, then cpu. RunError when it is not here."""
    import torch

    wanted = asked_device(wanted)
    if wanted == "auto":
        wanted = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        missing = wanted.startswith("cuda") and not device_count("cuda")
        cause = f"{why_no_gpu()}." if missing else str(error).splitlines()[0][:160]
        given = " in this SLURM job, which was given GPUs" if missing and _given_gpus() else ""
        raise RunError(
            f'the device "{wanted}" cannot be used{given}: {cause}',
            expected="auto, cpu, cuda, cuda:1 or mps.",
            hint="mend that, or train on the processor with --device cpu.",
        ) from error
    return device


def why_no_gpu() -> str:
    """Why torch sees no GPU on this machine: its build, the driver, or CUDA_VISIBLE_DEVICES."""
    import torch

    causes = []
    if torch.version.cuda is None and torch.version.hip is None:
        causes.append(f"torch {torch.__version__} is built without CUDA")
    elif not any(Path(each).exists() for each in DRIVERS):
        causes.append("no driver for GPUs is loaded on this machine (see nvidia-smi)")
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        causes.append(f'CUDA_VISIBLE_DEVICES is "{visible}", which names no GPU of this machine')
    return " and ".join(causes or ["the driver may be too old for this build of torch (see nvidia-smi)"])


def device_count(kind: str) -> int:
    """How many devices of this kind torch sees here; makes no context on any of them."""
    import torch

    if kind == "cuda":
        return torch.cuda.device_count()
    return int(kind == "cpu" or torch.backends.mps.is_available())


def numerics_of(device: torch.device, *, threads: int) -> dict[str, Any]:
    """What two computations must share to be promised equal bit for bit (on the CPU)."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "device": device.type,
        "device_name": name,
        "threads": threads,
        "torch": str(torch.__version__),
    }
