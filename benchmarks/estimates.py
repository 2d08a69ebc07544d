"""`python -m benchmarks.estimates`: what the plan says beside what commands take, on a CPU.

Each case is a command with an empty results and cache folder: demo, compare, and small grids on digits and
on image folders made here. `first` is used CPU time ÷ planned time before any run; `like` is the same for one
more seed, when each run has a like one that is finished. So that other work on the machine makes little
difference, all times are CPU times, those that runs record among them. `disk` is used ÷ planned.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.arguments import file_to_write
from benchmarks.images import scratch, write_synthetic

ROOT = Path(__file__).parent.parent
PR_SET_CHILD_SUBREAPER = 36  # prctl.h
RUN = ("run", "--student")
CPU_CLOCK = """
import time
time.perf_counter = time.process_time  # which times the epochs and the start of a run
"""


@dataclass(frozen=True)
class Case:
    """A command without its seeds; `seeded` ones are given again for another seed."""

    name: str
    words: tuple[str, ...]
    seeded: bool = True


def cases(small: Path, large: Path) -> list[Case]:
    """Ten commands; `small` has images of 32 pixels, `large` photographs that become 64 pixels."""
    tiles, photos = ("--dataset", f"folder:{small}"), ("--dataset", f"folder64:{large}")
    digits = ("--dataset", "digits", "--epochs", "2")
    mobile = "torchvision:mobilenet_v3_small"
    return [
        Case("demo", ("reproduce", "demo"), seeded=False),
        Case("compare resnet8", ("compare", *tiles, "--student", "resnet8", "--epochs", "2"), seeded=False),
        Case("compare mobilenet", ("compare", *photos, "--student", mobile, "--epochs", "2"), seeded=False),
        Case("digits", (*RUN, "resnet8,resnet14", "--method", "baseline,lsr,tf-reg", *digits)),
        Case("digits kd", (*RUN, "plain-cnn", "--method", "baseline,kd", "--teacher", "resnet20", *digits)),
        Case("digits mobilenetv2", (*RUN, "mobilenetv2,shufflenetv2", "--method", "tf-self", *digits)),
        Case(
            "quick tiles", (*RUN, "resnet8,plain-cnn", "--method", "baseline,lsr", *tiles, "--scale", "quick")
        ),
        Case(
            "resnet18 tiles", (*RUN, "resnet18,mobilenetv2", "--method", "baseline", *tiles, "--epochs", "1")
        ),
        Case(
            "fast tiles",
            (*RUN, "resnet20,resnet14", "--method", "tf-self", *tiles, "--fast", "--epochs", "3"),
        ),
        Case("photos", (*RUN, f"{mobile},resnet20", "--method", "baseline", *photos, "--epochs", "4")),
    ]


def measured(case: Case, folder: Path) -> dict[str, Any]:
    """Planned and used seconds, and bytes, of one case; `like`: of another seed."""
    common = ("--results", str(folder / "results"), "--cache-dir", str(folder / "cache"))
    first = _both((*case.words, *common, *(("--seeds", "1") if case.seeded else ())), folder)
    if not case.seeded:
        return first
    return first | {"like": _both((*case.words, *common, "--seeds", "1-1"), folder)}


def _both(words: Sequence[str], folder: Path) -> dict[str, Any]:
    """What the plan says now, then what the command takes."""
    plan = json.loads(_tfkd(*words, "--dry-run", "--json").stdout)
    hours = plan["gpu_hours"] + plan["command_hours"]
    before = _cpu_seconds()
    _tfkd(*words, "--yes")
    _wait_for_orphans()
    used = _cpu_seconds() - before
    disk = sum(path.stat().st_size for path in (folder / "results" / "runs").rglob("*") if path.is_file())
    return {
        "planned": 3600 * hours,
        "used": used,
        "planned_disk": 1e9 * plan["disk_gb"],
        "disk": disk,
    }


def _tfkd(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tfkd_cli", *words]
    with scratch() as folder:
        Path(folder, "sitecustomize.py").write_text(CPU_CLOCK)
        path = os.pathsep.join([folder, str(ROOT)])
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done


def adopt_orphans() -> None:
    """Let the processes that a command leaves behind (the forkserver) become children of this one."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wait_for_orphans() -> None:
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        return


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def write_photographs(folder: Path, *, images: int = 60) -> Path:
    """JPEG files of 320 × 240 pixels, two classes, of smooth fields and noise."""
    random = np.random.default_rng(0)
    for label in range(2):
        place = folder / f"class{label}"
        place.mkdir(parents=True)
        for index in range(images):
            coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            photo = Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC)
            photo.save(place / f"{index:04d}.jpg", quality=90)
    return folder


def table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    """One line per case, and the medians."""
    shown = Table("case", "planned s", "CPU s", "first", "like", "disk", box=None)
    ratios: dict[str, list[float]] = {"first": [], "like": [], "disk": []}
    for name, each in found.items():
        first, disk = each["used"] / each["planned"], each["disk"] / each["planned_disk"]
        like = each["like"]["used"] / each["like"]["planned"] if "like" in each else None
        for key, value in (("first", first), ("like", like), ("disk", disk)):
            ratios[key] += [] if value is None else [value]
        numbers = (first, like, disk)
        texts = ("–" if value is None else f"{value:.2f}" for value in numbers)
        shown.add_row(name, f"{each['planned']:.0f}", f"{each['used']:.0f}", *texts)
    medians = {key: f"{median(values):.2f}" if values else "–" for key, values in ratios.items()}
    shown.add_row("median", "", "", medians["first"], medians["like"], medians["disk"])
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimates", description=__doc__)
    parser.add_argument("--case", action="append", metavar="NAME", help="repeatable [all]")
    parser.add_argument("--json", type=file_to_write, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args(arguments)
    adopt_orphans()
    found: dict[str, Any] = {}
    with scratch() as folder:
        tiles = write_synthetic(Path(folder) / "tiles", train=1000, test=200)
        photos = write_photographs(Path(folder) / "photos")
        for number, case in enumerate(cases(tiles, photos)):
            if case.name in (options.case or [case.name]):
                found[case.name] = measured(case, Path(folder) / str(number))
                Console(stderr=True).print(case.name, json.dumps(found[case.name]), highlight=False)
                if options.json:
                    options.json.write_text(json.dumps(found, indent=1) + "\n")
    Console().print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
