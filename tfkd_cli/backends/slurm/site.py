"""What the cluster says about itself (`sinfo`, `scontrol show`); what that fills in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tfkd_cli.backends.slurm import client

MOST_MEMORY_MB = 8000  # host memory of a run: torch with CUDA 3 GB, CIFAR 0.2 GB, cached teacher logits
MOST_CPUS = 4  # beside a GPU: one thread feeds it, the others are torch's
LEAST_MINUTES = 10  # SLURM looks at limits each 30 s and may warn a minute early
NO_LIMIT = 365 * 1440
# Options of which sbatch takes one: naming one replaces the others, and nothing is filled in beside it.
MEMORY = frozenset({"mem", "mem_per_cpu", "mem_per_gpu"})
CPUS = frozenset({"cpus_per_task", "cpus_per_gpu"})
GPUS = frozenset({"gpus_per_node", "gpus_per_task", "gres", "gpus", "gpus_per_socket"})


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition, and what a job may have of each of its nodes (of those with GPUs, where there are any)."""

    name: str
    default: bool = False
    limit_minutes: int | None = None  # None: no limit
    limit_mb: int | None = None  # of a job on a node
    gpus: int
    cpus: int
    memory_mb: int  # 1: not configured


@dataclass(frozen=True, kw_only=True)
class Site:
    """The facts a submission needs; the defaults are SLURM's, for `--dry-run` where there is none."""

    partitions: tuple[Partition, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def max_array_size(self) -> int:
        """How many jobs an array may have: their indices, from 0, stay below MaxArraySize."""
        return max(1, _number(self.config.get("MaxArraySize", "1001")))

    def partition(self, name: str | None) -> Partition | None:
        """The partition `name` (the first, where several are named), or the site's default."""
        if name is None:
            return next((each for each in self.partitions if each.default), None)
        return next((each for each in self.partitions if each.name == name.split(",")[0]), None)


def read_site() -> Site:
    """Ask slurmctld; SlurmError when it does not answer."""
    config = parse_config(client.ask(["scontrol", "show", "config"]))
    limits = client.ask(["scontrol", "show", "partition", "-o"])
    # -e: unequal nodes on lines of their own; %B: MaxCPUsPerNode
    nodes = client.ask(["sinfo", "-h", "-e", "-o", "%P|%l|%c|%m|%G|%B"])
    return Site(partitions=parse_partitions(nodes, limits), config=config)


def parse_config(text: str) -> dict[str, str]:
    """`Key = Value` lines of `scontrol show config`."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def parse_partitions(nodes: str, limits: str = "") -> tuple[Partition, ...]:
    """Lines of `sinfo -e -o "%P|%l|%c|%m|%G|%B"` (a kind of node each) and `scontrol show partition -o`."""
    memory = dict(re.findall(r"^PartitionName=(\S+) .*MaxMemPerNode=(\d+)", limits, re.MULTILINE))
    kinds: dict[tuple[str, str], list[tuple[int, int, int]]] = {}  # GPUs, cores, MB of the nodes
    for line in nodes.splitlines():
        fields = line.strip().split("|")
        if len(fields) == 6:
            title, limit, cpus, megabytes, gres, most_cpus = fields
            gpus = sum(int(count) for count in re.findall(r"gpu(?::[^:(,]+)?:(\d+)", gres))
            cores = min(_number(cpus), _number(most_cpus) or _number(cpus))
            kinds.setdefault((title, limit), []).append((gpus, cores, _number(megabytes)))
    found = []
    for (title, limit), of_nodes in kinds.items():
        name = title.rstrip("*")
        gpus, cores, mb = map(min, zip(*([each for each in of_nodes if each[0]] or of_nodes), strict=True))
        limit_mb = int(memory[name]) if name in memory else None
        found.append(
            Partition(
                name=name,
                default=title != name,
                limit_minutes=minutes(limit),
                limit_mb=limit_mb,
                gpus=gpus,
                cpus=cores,
                memory_mb=min(mb, limit_mb or mb),
            )
        )
    return tuple(found)


def minutes(limit: int | str) -> int | None:
    """The minutes of any form of sbatch's --time: 90, "90", "90:00", "1:30:00", "0-1:30".

    None for no limit ("UNLIMITED", "infinite"), and for what is no time: sbatch judges that.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(limit))
    if match is None:
        return None
    days, *parts = match.groups()
    numbers = [int(each) for each in parts if each is not None]
    if days is None and len(numbers) < 3:  # minutes[:seconds]; with days, hours come first
        numbers.insert(0, 0)
    hours, mins, seconds = [*numbers, 0, 0][:3]
    return int(days or 0) * 1440 + hours * 60 + mins + (seconds > 0) or None


def megabytes(memory: int | str) -> int:
    """The megabytes of sbatch's --mem: 4000, "4000M", "4GB"; 0 for what is none: sbatch judges that."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", str(memory).upper())
    return int(match[1]) * 1024 ** "KMGT".index(match[2] or "M") // 1024 if match else 0


def fill_in(options: Mapping[str, Any], site: Site) -> dict[str, Any]:
    """`options` and what the profile leaves open: GPUs where there are any, a share of the node."""
    filled = dict(options)
    partition = site.partition(options.get("partition"))
    if partition is None:
        return filled
    per_node = options.get("ntasks_per_node", 1)
    asked = _asks_gpus(options)
    if asked is None and partition.gpus:
        filled["gpus_per_node"] = per_node
    shares = 0 if asked is False else partition.gpus
    if not CPUS & options.keys():
        filled["cpus_per_task"] = max(1, min(MOST_CPUS, partition.cpus // shares)) if shares else 1
    if not MEMORY & options.keys() and partition.memory_mb > 100:
        share = max(partition.memory_mb // max(1, shares or partition.cpus), min(2000, partition.memory_mb))
        filled["mem"] = f"{min(per_node * min(MOST_MEMORY_MB, share), partition.memory_mb)}MB"
    return filled


def tasks(options: Mapping[str, Any]) -> int:
    """How many processes a job with these options has, on all its nodes."""
    return int(options.get("nodes", 1) * options.get("ntasks_per_node", 1))


def _asks_gpus(options: Mapping[str, Any]) -> bool | None:
    """Whether a job with these options gets a GPU; None where they say nothing of GPUs.

    A `gres` may be of other things (`tmpspace:1G`).
    """
    values = {option: str(options[option]) for option in GPUS & options.keys()}
    said = [each for option, each in values.items() if option != "gres" or re.search("gpu|^none$", each)]
    some = r"(^|:)[1-9]\d*(?=,|\(|$)|^(?!none$)[A-Za-z]+$"
    return any(re.search(some, each) for each in said) if said else None


def time_limit(seconds: float, options: Mapping[str, Any], site: Site) -> int:
    """Minutes for an array whose longest job takes `seconds`: 1.5 times that, at most the partition's."""
    if "time" in options:
        return minutes(options["time"]) or NO_LIMIT
    partition = site.partition(options.get("partition"))
    wanted = max(LEAST_MINUTES, math.ceil(1.5 * seconds / 60))
    limit = partition.limit_minutes if partition else None
    return wanted if limit is None else min(wanted, limit)


def _number(text: str) -> int:
    digits = re.match(r"\d+", text)
    return int(digits.group()) if digits else 0
