"""From a plan to finished runs: data made ready, the backend chosen, what happened told as events."""

from __future__ import annotations

import functools
import os
import platform
import shutil
from collections.abc import Callable, Sequence

from tfkd_cli import data, models
from tfkd_cli.backends import processes
from tfkd_cli.data import ResolvedData
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.plan import Plan
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import RunSpec
from tfkd_cli.training import provenance

NOT_TRAINED_YET = ("imagenet",)


def device_kind(device: str) -> str:
    """`cpu`, `cuda` or `mps` without importing torch; `auto` looks for a driver, not for a free GPU."""
    if device != "auto":
        return device.partition(":")[0]
    if os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi"):  # noqa: PTH110
        return "cuda"
    return "mps" if platform.system() == "Darwin" and platform.machine() == "arm64" else "cpu"


def check_device(device: str) -> None:
    """RequestError when the device that was asked for is not on this machine."""
    kind, _, number = device.partition(":")
    if kind in ("auto", "cpu"):
        return
    there = provenance.device_count(kind)
    if int(number or 0) >= there:
        cause = f": {provenance.why_no_gpu()}" if kind == "cuda" and not there else ""
        raise RequestError(
            f'the device "{device}" is not on this machine: torch sees {there} of its kind{cause}.',
            expected="auto, cpu, cuda, cuda:1 or mps.",
            hint="--device auto takes what there is; --cluster sends the runs to other machines.",
        )


def trainable(plan: Plan) -> tuple[Sequence[RunSpec], Sequence[RunSpec]]:
    """The missing runs, and those among them that this version plans but cannot train (ImageNet)."""
    later = [spec for spec in plan.missing if spec.dataset in NOT_TRAINED_YET]
    now = [spec for spec in plan.missing if spec.dataset not in NOT_TRAINED_YET]
    return now, later


def unready(request: Request, runs: Sequence[RunSpec]) -> list[ResolvedData]:
    """The data sets of these runs that are not decoded yet."""
    used = {spec.dataset for spec in runs}
    return [each for each in request.data.values() if each.name in used and not each.ready]


def make_ready(
    request: Request,
    runs: Sequence[RunSpec],
    *,
    execution: Execution,
    accept_download: Callable[[ResolvedData], bool],
    progress: Callable[[str, float], None] | None = None,
) -> None:
    """Decode, and where accepted fetch, what these runs need; RequestError before anything has started."""
    for each in unready(request, runs):
        allowed = each.available or accept_download(each)
        made = data.prepare(
            each.name,
            execution=execution,
            source=None,
            allow_download=allowed and not each.available,
            progress=progress,
        )
        if made.name != each.name:
            raise RequestError(
                f"the data set {each.name} turned out to be {made.name}.",
                expected="the content that the plan was made for.",
                hint="give the same command again: it now plans with what is there.",
            )


def make_networks_ready(
    request: Request, runs: Sequence[RunSpec], *, accept: Callable[[str], bool], say: Callable[[str], None]
) -> None:
    """Build each network of another library once, before anything is trained: what fails, fails once.

    Pretrained weights that are not here are fetched where accepted, else a RequestError.
    """
    facts = {each.name: each.facts for each in request.data.values()}
    for name, dataset in dict.fromkeys((spec.student, spec.dataset) for spec in runs):
        if ":" not in name or dataset not in facts:
            continue
        words = models.weights_to_fetch(name)
        if words is not None and not accept(words):
            raise RequestError(
                f'the pretrained weights of "{name}" are not on this machine.',
                expected=f"{words}.",
                hint="--yes fetches them; without `:pretrained` the network is trained from scratch.",
            )
        say(f"Fetching {words} …" if words else f"Trying {name} …")
        shape = facts[dataset]
        fits = {"classes": shape.classes, "channels": shape.channels, "size": shape.size}
        processes.call(functools.partial(models.build, name, **fits), what=f'"{name}"')
