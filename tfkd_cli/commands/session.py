"""What every command does first: open the store, read the options, build the request."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tfkd_cli import grid
from tfkd_cli.compare import comparison
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.grid import Axes
from tfkd_cli.methods import method
from tfkd_cli.options import ExecutionOptions, FolderOptions, RunOptions, StoreOptions
from tfkd_cli.regular_files import expanded
from tfkd_cli.reproduction import overrides, overview
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher
from tfkd_cli.store import Store

DEVICES = r"auto|cpu|mps|cuda(:\d+)?"
STORED = ("run", "compare")
"""Commands whose tables have their name, and stand in the results folder only."""


def open_store(options: StoreOptions, *, write: bool) -> Store:
    """The store; an empty one when there is no folder yet and nothing is to be written."""
    return Store.open(options.results, create=write, writable=write)


def campaigns(store: Store, execution: Execution, *, device: str = "cpu") -> tuple[list[Campaign], list[str]]:
    """A campaign for each distinct request in the store, newest first, and notes on unreadable ones."""
    made, notes = overview.campaigns(store, execution, device=device)
    return comparison.with_tables(made, store), notes


def names_of(words: Iterable[str], made: Iterable[Campaign]) -> list[str]:
    """The tables, figures, grids and comparisons that these words mean, in the campaigns `made` or the paper.

    `run` stands for the grids of `tfkd run`, `compare` for all comparisons, and `compare-photos` for those
    whose name begins so. UnknownNameError for what is none of these.
    """
    stored = list(dict.fromkeys(name for each in made for name in each.request.names))
    found: dict[str, None] = {}
    for word in words:
        named = [name for name in stored if word == name or (word[:7] == "compare" and name.startswith(word))]
        if not named:
            named = [word] if word in STORED else [each.name for each in paper().expand([word])]
        found.update(dict.fromkeys(named))
    return list(found)


def check_writable(results: Path) -> None:
    """RequestError when the results folder can be neither written nor made; makes nothing."""
    nearest = next(each for each in (results, *results.absolute().parents) if each.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise RequestError(
            f"cannot write the results folder {results}: {nearest} is not a folder you may write to.",
            expected="a folder you may write to.",
            hint="choose another with --results DIR (or TFKD_RESULTS).",
        )


def execution(
    options: StoreOptions,
    run: ExecutionOptions | None = None,
    folder: FolderOptions | None = None,
    *,
    sources: Mapping[str, str] | None = None,
) -> Execution:
    """How runs execute, from the options and the environment; `sources`: of a teacher from a file."""
    run, folder = run or ExecutionOptions(), folder or FolderOptions()
    if not re.fullmatch(DEVICES, run.device):
        raise RequestError(
            f'unknown device "{run.device}".',
            expected="auto, cpu, cuda, cuda:1 or mps.",
            hint="--device auto takes what there is.",
        )
    if run.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise RequestError(
            "--tensorboard needs the package tensorboard, which is not installed.",
            expected="tensorboard is an optional extra of tfkd.",
            hint="pip install 'tfkd[tensorboard]'; metrics.jsonl and `tfkd report` hold the same curves.",
        )
    _refuse_infinite("--teacher-cache-gb", run.teacher_cache_gb)
    _refuse_infinite("--memory-gb", folder.memory_gb or 0)
    return Execution(
        cache=str(cache_folder(options.cache_dir)),
        data_dir=str(options.data_dir) if options.data_dir else None,
        device=run.device,
        threads=run.threads,
        processes=run.gpus,
        sync_batch_norm=run.sync_batch_norm,
        data_workers=run.data_workers,
        memory_gb=folder.memory_gb,
        teacher_cache_gb=run.teacher_cache_gb,
        tf32=not run.no_tf32,
        tensorboard=run.tensorboard,
        verbose=run.verbose,
        follow_links=folder.follow_links,
        nested=folder.nested,
        sources=sources or {},
    )


def _refuse_infinite(option: str, value: float) -> None:
    if not math.isfinite(value):
        raise RequestError(
            f"{option} is {value}.",
            expected="gigabytes, 0 for none.",
            hint=f"{option} 100000 is as good as no cap.",
        )


def cache_folder(given: Path | None) -> Path:
    """`--cache-dir`, else the user's cache folder: XDG's on Linux, ~/Library/Caches on a Mac."""
    linux = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = given or Path("~/Library/Caches" if sys.platform == "darwin" else linux, "tfkd")
    return expanded(folder, hint="name a folder with --cache-dir DIR (or TFKD_CACHE).")


def bare_request(options: RunOptions, seeds: str, methods: Iterable[str] = ()) -> Request:
    """A request of nothing yet: seeds, scale, form and overrides, checked; `methods`: those it will name."""
    losses = [method(each).loss for each in methods]
    return Request(
        seeds=grid.parse_seeds(seeds),
        scale=options.scale,  # type: ignore[arg-type]  # checked by Request
        form=options.form,  # type: ignore[arg-type]
        fast=options.fast,
        teacher_seeds=options.teacher_seeds,  # type: ignore[arg-type]
        overrides=overrides.merged(
            overrides.named(options.recipe),
            overrides.parse(options.set_ or (), options.shorthands(), losses=losses),
        ),
    )


def foreign_teacher(path: Path | None, axes: Axes) -> ForeignTeacher | None:
    """The teacher of `--teacher-checkpoint`; None when it was not given."""
    if path is None:
        return None
    if axes.teacher_epochs or "de-kd" in axes.methods:
        raise RequestError(
            "a teacher from a file has no epochs to choose from.",
            expected="--method kd or re-kd with --teacher-checkpoint.",
            hint="leave out de-kd and --teacher-epoch.",
        )
    from tfkd_cli.reproduction import foreign

    return foreign.identify(path, axes.teachers)


def split(names: str | None) -> list[str]:
    """`a,b` → [a, b]."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]
