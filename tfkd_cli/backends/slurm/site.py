"""What the cluster says about itself (`sinfo`, `scontrol show config`), and what that lets us fill in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfkd_cli.backends.slurm import client

MOST_MEMORY_MB = 8000  # a run's host memory: torch with CUDA 3 GB, CIFAR 0.2 GB, answers
MOST_CPUS = 4  # beside a GPU: one thread feeds it, the others are torch's
_MEMORY_KEYS = ("mem_gb", "slurm_mem", "slurm_mem_per_cpu", "slurm_mem_per_gpu")
_GPU_KEYS = ("gpus_per_node", "slurm_gpus_per_node", "slurm_gpus_per_task", "slurm_gres")
_CPU_KEYS = ("cpus_per_task", "slurm_cpus_per_task", "slurm_cpus_per_gpu")


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition; per node the least that any of its nodes has (GPUs: of those that have any)."""

    name: str
    default: bool = False
    limit_minutes: int | None = None  # None: no limit
    cpus: int = 0
    memory_mb: int = 0
    gpus: int = 0


@dataclass(frozen=True, kw_only=True)
class Site:
    """The facts a submission needs; the defaults are SLURM's, for `--dry-run` where there is none."""

    partitions: tuple[Partition, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def max_array_size(self) -> int:
        """How many jobs an array may have: their indices, from 0, stay below MaxArraySize."""
        return max(1, _number(self.config.get("MaxArraySize", "1001")))

    @property
    def arrays(self) -> bool:
        """Whether the site allows job arrays."""
        return self.max_array_size > 1

    @property
    def max_jobs(self) -> int:
        """How many jobs slurmctld keeps in all, those of others and finished ones too."""
        return _number(self.config.get("MaxJobCount", "10000"))

    def partition(self, name: str | None) -> Partition | None:
        """The partition `name` (the first, where several are named), or the site's default."""
        if name is None:
            return next((each for each in self.partitions if each.default), None)
        return next((each for each in self.partitions if each.name == name.split(",")[0]), None)


def read_site() -> Site:
    """Ask slurmctld; SlurmError when it does not answer."""
    config = parse_config(client.ask(["scontrol", "show", "config"]))
    return Site(
        partitions=parse_partitions(client.ask(["sinfo", "-h", "-o", "%P|%l|%c|%m|%G"])), config=config
    )


def parse_config(text: str) -> dict[str, str]:
    """`Key = Value` lines of `scontrol show config`."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def parse_partitions(text: str) -> tuple[Partition, ...]:
    """Lines of `sinfo -o "%P|%l|%c|%m|%G"`: one per partition and kind of node."""
    found: dict[str, Partition] = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) != 5:
            continue
        kind = Partition(
            name=fields[0].rstrip("*"),
            default=fields[0].endswith("*"),
            limit_minutes=minutes(fields[1]),
            cpus=_number(fields[2]),
            memory_mb=_number(fields[3]),
            gpus=sum(int(count) for count in re.findall(r"gpu(?::[^:(,]+)?:(\d+)", fields[4])),
        )
        found[kind.name] = _least(found[kind.name], kind) if kind.name in found else kind
    return tuple(found.values())


def _least(one: Partition, other: Partition) -> Partition:
    if bool(one.gpus) != bool(other.gpus):
        return one if one.gpus else other
    return Partition(
        name=one.name,
        default=one.default,
        limit_minutes=one.limit_minutes,
        cpus=min(one.cpus, other.cpus),
        memory_mb=min(one.memory_mb, other.memory_mb),
        gpus=min(one.gpus, other.gpus),
    )


def minutes(limit: str) -> int | None:
    """SLURM's `[days-]hours:minutes:seconds` in whole minutes; None for `infinite` and the unknown."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit)
    if match is None:
        return None
    days, hours, mins, _ = (int(each or 0) for each in match.groups())
    return max(1, days * 1440 + hours * 60 + mins)


def asked_minutes(given: int | str) -> int:
    """The minutes of any form of sbatch's --time: 90, "90", "90:00", "1:30:00", "0-1:30", "UNLIMITED".

    ValueError when it is none of them.
    """
    if str(given).upper() in ("0", "UNLIMITED", "INFINITE"):
        return NO_LIMIT
    match = re.fullmatch(r"(?:(\d+)-(?=\d+(?::\d+){0,2}$))?(\d+)(?::(\d+))?(?::(\d+))?", str(given))
    if match is None:
        raise ValueError(f"{given!r} is no time limit")
    days, *parts = match.groups()
    numbers = [int(each) for each in parts if each is not None]
    if days is None and len(numbers) < 3:  # minutes[:seconds]; with days, hours come first
        numbers.insert(0, 0)
    hours, mins, seconds = [*numbers, 0, 0][:3]
    return max(1, int(days or 0) * 1440 + hours * 60 + mins + (seconds > 0))


def fill_in(submit: Mapping[str, Any], site: Site) -> dict[str, Any]:
    """`submit` with what the profile leaves open: a GPU where there are any, and a fair share of the node."""
    filled = dict(submit)
    partition = site.partition(submit.get("slurm_partition"))
    if partition is None:
        return filled
    if not any(key in submit for key in _GPU_KEYS) and partition.gpus:
        filled["gpus_per_node"] = 1
    asks_gpu = any(filled.get(key) for key in _GPU_KEYS)
    if not any(key in submit for key in _CPU_KEYS):
        filled["cpus_per_task"] = (
            max(1, min(MOST_CPUS, partition.cpus // partition.gpus)) if asks_gpu and partition.gpus else 1
        )
    if (
        not any(key in submit for key in _MEMORY_KEYS) and partition.memory_mb > 100
    ):  # 1 means: not configured
        shares = partition.gpus if asks_gpu and partition.gpus else max(1, partition.cpus)
        share = min(
            MOST_MEMORY_MB, max(partition.memory_mb // max(1, shares), min(2000, partition.memory_mb))
        )
        filled["slurm_mem"] = f"{share}MB"
    return filled


def time_limit(seconds: float | None, submit: Mapping[str, Any], site: Site) -> int:
    """Minutes for an array whose longest job takes `seconds`: 1.5 times that, at most the partition's."""
    given = submit.get("timeout_min", submit.get("slurm_time"))
    if given is not None:
        return asked_minutes(given)
    partition = site.partition(submit.get("slurm_partition"))
    wanted = UNKNOWN_MINUTES if seconds is None else max(LEAST_MINUTES, math.ceil(1.5 * seconds / 60))
    limit = partition.limit_minutes if partition else None
    return wanted if limit is None else min(wanted, limit)


UNKNOWN_MINUTES = 12 * 60
NO_LIMIT = 365 * 1440
LEAST_MINUTES = 10  # SLURM looks at limits each 30 s and may warn a minute early


def signal_delay(limit_minutes: int) -> int:
    """Seconds before the limit at which to warn a run: SLURM's slack of 60 s, a step, and a save."""
    return min(120, limit_minutes * 60 // 5)


def _number(text: str) -> int:
    digits = re.match(r"\d+", text)
    return int(digits.group()) if digits else 0
