"""How runs are executed: device, threads, paths. Never part of a run's identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tfkd_cli import schema
from tfkd_cli.schema import Count, Device, NotNegative, Positive

GPUS_OF_A_RUN: Mapping[str, int] = {"imagenet": 4}
"""Data set → the GPUs that train one run on a cluster, where neither --gpus nor the profile says."""


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where things are and what runs them; written as JSON into `submissions/<id>/` for the worker.

    `sources` maps the resolved name of a data set (or the digest of a foreign teacher) to the path it
    came from, for whoever has to decode it again.
    """

    cache: str  # decoded data sets, shared by all runs on a machine
    data_dir: str | None = None  # a read-only folder with official files
    device: Device = "auto"
    threads: Positive | None = None  # per process of a run; None: cores ÷ processes at once
    processes: Positive | None = None  # per run, one per GPU; None: one, on a cluster what the profile says
    sync_batch_norm: bool = False  # of these processes
    data_workers: Count | None = None  # processes that decode images per run; None: `threads`
    memory_gb: NotNegative | None = None  # decoded images of a set that take more stay in their files;
    # None: a quarter of the memory of the machine that prepares it (no number depends on it)
    checkpoint_minutes: NotNegative = 3.0  # the most work a kill may cost
    teacher_cache_gb: NotNegative = 20.0  # cap on <results>/teacher-logits
    tf32: bool = True  # on GPUs that have it: convolutions and matrix products of fp32 recipes
    tensorboard: bool = False
    verbose: bool = False
    follow_links: bool = False  # in a folder of images: links are followed wherever they lead
    nested: bool = False  # in a folder of images: folders inside a class belong to it
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        schema.check(self, of="", hint="leave it out: there is a default.")

    def to_json(self) -> dict[str, Any]:
        """All values as JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Execution:
        """The execution that `to_json` wrote; keys of a newer version are left aside."""
        known = {name: value for name, value in data.items() if name in schema.types_of(cls)}
        found: Execution = schema.convert(known, cls, of="execution")
        return found

    @property
    def cache_path(self) -> Path:
        """The cache folder."""
        return Path(self.cache)
