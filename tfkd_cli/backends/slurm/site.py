"""What the cluster says about itself (`sinfo`, `scontrol show`); what that fills in and rules out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfkd_cli.backends.slurm import client

MOST_MEMORY_MB = 8000  # host memory of a run: torch with CUDA 3 GB, CIFAR 0.2 GB, cached teacher logits
MOST_CPUS = 4  # beside a GPU: one thread feeds it, the others are torch's
UNKNOWN_MINUTES = 12 * 60
LEAST_MINUTES = 10  # SLURM looks at limits each 30 s and may warn a minute early
NO_LIMIT = 365 * 1440
_MEGABYTES = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024 * 1024}

# Options of which sbatch takes one: naming one replaces the others, and nothing is filled in beside it.
MEMORY = frozenset({"mem", "mem_per_cpu", "mem_per_gpu"})
CPUS = frozenset({"cpus_per_task", "cpus_per_gpu"})
GPUS = frozenset({"gpus_per_node", "gpus_per_task", "gres", "--gpus", "--gpus-per-socket"})


@dataclass(frozen=True)
class Node:
    """What a node of one kind has."""

    cpus: int
    memory_mb: int  # 1: not configured
    gpus: int


NO_LIMITS = Node(*3 * (1 << 40,))


@dataclass(frozen=True, kw_only=True)
class Partition:
    """A partition and the kinds of its nodes (of those with GPUs, where there are any)."""

    name: str
    default: bool = False
    limit_minutes: int | None = None  # None: no limit
    limits: Node = NO_LIMITS  # MaxCPUsPerNode, MaxMemPerNode
    nodes: tuple[Node, ...] = ()

    @property
    def least(self) -> Node:
        """What each of its nodes has."""
        kinds = [each for each in self.nodes if each.gpus] or self.nodes
        return Node(*(min(getattr(each, name) for each in kinds) for name in ("cpus", "memory_mb", "gpus")))

    def most(self, name: str) -> int:
        """The most `cpus`, `memory_mb` or `gpus` that a job can have of a node."""
        return int(min(max(getattr(each, name) for each in self.nodes), getattr(self.limits, name)))


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
    def max_jobs(self) -> int:
        """How many jobs slurmctld keeps in all, including other users' and finished ones."""
        return _number(self.config.get("MaxJobCount", "10000"))

    def partition(self, name: str | None) -> Partition | None:
        """The partition `name` (the first, where several are named), or the site's default."""
        if name is None:
            return next((each for each in self.partitions if each.default), None)
        return next((each for each in self.partitions if each.name == name.split(",")[0]), None)


def read_site() -> Site:
    """Ask slurmctld; SlurmError when it does not answer."""
    config = parse_config(client.ask(["scontrol", "show", "config"]))
    limits = client.ask(["scontrol", "show", "partition", "-o"])
    nodes = client.ask(
        ["sinfo", "-h", "-e", "-o", "%P|%l|%c|%m|%G"]
    )  # -e: unequal nodes on lines of their own
    return Site(partitions=parse_partitions(nodes, limits), config=config)


def parse_config(text: str) -> dict[str, str]:
    """`Key = Value` lines of `scontrol show config`."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def parse_partitions(nodes: str, limits: str = "") -> tuple[Partition, ...]:
    """Lines of `sinfo -e -o "%P|%l|%c|%m|%G"` (one per kind of node) and of `scontrol show partition -o`."""
    shown = [dict(pair.split("=", 1) for pair in line.split() if "=" in pair) for line in limits.splitlines()]
    at_most = {each.get("PartitionName"): _limits(each) for each in shown}
    found: dict[str, Partition] = {}
    for line in nodes.splitlines():
        fields = line.strip().split("|")
        if len(fields) == 5:
            title, limit, cpus, memory, gres = fields
            name = title.rstrip("*")
            gpus = sum(int(count) for count in re.findall(r"gpu(?::[^:(,]+)?:(\d+)", gres))
            node = Node(_number(cpus), _number(memory), gpus)
            found[name] = Partition(
                name=name,
                default=title.endswith("*"),
                limit_minutes=minutes(limit),
                limits=at_most.get(name, NO_LIMITS),
                nodes=(*(found[name].nodes if name in found else ()), node),
            )
    return tuple(found.values())


def _limits(shown: Mapping[str, str]) -> Node:
    """The limits of a partition for a node; UNLIMITED has no digits."""
    cpus, memory = (_number(shown.get(key, "")) for key in ("MaxCPUsPerNode", "MaxMemPerNode"))
    return Node(cpus or NO_LIMITS.cpus, memory or NO_LIMITS.memory_mb, NO_LIMITS.gpus)


def minutes(limit: str) -> int | None:
    """A time limit as sinfo writes it; None for `infinite` and what is no time."""
    try:
        found = asked_minutes(limit)
    except ValueError:
        return None
    return None if found == NO_LIMIT else found


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


def fill_in(options: Mapping[str, Any], site: Site) -> dict[str, Any]:
    """`options` and what the profile leaves open: a GPU where there are any, a fair share of the node."""
    filled = dict(options)
    partition = site.partition(options.get("partition"))
    if partition is None or options.get("exclusive") or options.get("--exclusive"):
        return filled
    node = partition.least
    if not GPUS & options.keys() and node.gpus:
        filled["gpus_per_node"] = 1
    shares = node.gpus if asks_gpu(filled) and node.gpus else 0
    if not CPUS & options.keys():
        filled["cpus_per_task"] = max(1, min(MOST_CPUS, node.cpus // shares)) if shares else 1
    if not MEMORY & options.keys() and node.memory_mb > 100:
        share = max(node.memory_mb // max(1, shares or node.cpus), min(2000, node.memory_mb))
        filled["mem"] = f"{min(MOST_MEMORY_MB, share)}MB"
    return filled


def asks_gpu(options: Mapping[str, Any]) -> bool:
    """Whether a job with these options gets a GPU."""
    given = {option: str(options[option]) for option in GPUS & options.keys()}
    return any(
        re.search(r"(^|:)[1-9]\d*(?=,|\(|$)|^[A-Za-z]+$", value) and (option != "gres" or "gpu" in value)
        for option, value in given.items()
    )


def beyond(options: Mapping[str, Any], site: Site) -> Iterator[tuple[str, str]]:
    """(option, sentence) for what is requested and no node of the partition can give.

    sbatch may accept it all the same, and the job then waits for ever.
    """
    partition = site.partition(options.get("partition"))
    if partition is None:
        return
    time, limit = asked_minutes(options.get("time", 1)), partition.limit_minutes
    if limit is not None and time > limit:
        yield "time", f"asks for {time} minutes; partition {partition.name} allows {limit}"
    cpus = _number(str(options.get("cpus_per_task", 1)))
    if cpus > partition.most("cpus"):
        yield (
            "cpus_per_task",
            f"asks for {cpus} cores; a node of {partition.name} has {partition.most('cpus')}",
        )
    memory = max(_megabytes(options.get("mem")), cpus * _megabytes(options.get("mem_per_cpu")))
    if memory > partition.most("memory_mb") > 100:
        has = partition.most("memory_mb")
        yield "mem", f"asks for {memory:.0f} MB of memory; a node of {partition.name} has {has}"
    gpus = _number(re.sub(r"^.*:", "", str(options.get("gpus_per_node", 0))))
    if gpus > partition.most("gpus"):
        yield (
            "gpus_per_node",
            f"asks for {gpus} GPUs; a node of {partition.name} has {partition.most('gpus')}",
        )


def _megabytes(given: Any) -> float:
    """`500`, `500MB`, `16G` as sbatch reads them; 0 for none and for what it will refuse itself."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", str(given or "").upper())
    return int(match[1]) * _MEGABYTES[match[2]] if match else 0


def time_limit(seconds: float | None, options: Mapping[str, Any], site: Site) -> int:
    """Minutes for an array whose longest job takes `seconds`: 1.5 times that, at most the partition's."""
    if "time" in options:
        return asked_minutes(options["time"])
    partition = site.partition(options.get("partition"))
    wanted = UNKNOWN_MINUTES if seconds is None else max(LEAST_MINUTES, math.ceil(1.5 * seconds / 60))
    limit = partition.limit_minutes if partition else None
    return wanted if limit is None else min(wanted, limit)


def signal_delay(limit_minutes: int) -> int:
    """Seconds before the limit at which to warn a run: SLURM's slack of 60 s, a step, and a save."""
    return min(120, limit_minutes * 60 // 5)


def _number(text: str) -> int:
    digits = re.match(r"\d+", text)
    return int(digits.group()) if digits else 0
