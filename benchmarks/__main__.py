"""`python -m benchmarks`: ours beside the conventional loop, alternating; a table, and JSON on request."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import grid, images, measure
from benchmarks.arguments import checkout, count, file_to_write, image_folder
from benchmarks.table import table
from benchmarks.workloads import GRID, NAMES, WORKLOADS
from tfkd_cli.errors import TfkdError
from tfkd_cli.training import provenance


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; argparse ends with code 2 where they are wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--workload", action="append", choices=NAMES, metavar="NAME", help=f"repeatable: {', '.join(NAMES)}"
    )
    parser.add_argument("--json", type=file_to_write, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--rounds", type=count, default=5, help="blocks of each side [5; grid: at most 3]")
    parser.add_argument("--steps", type=count, help="steps per block that count [about ten seconds' worth]")
    parser.add_argument(
        "--data", type=image_folder, metavar="FOLDER", help="train/CLASS/* and test/CLASS/* [synthetic]"
    )
    parser.add_argument(
        "--conventional",
        choices=("no-grad", "released"),
        default="no-grad",
        help="how it runs a teacher; the released code does so with gradients on [no-grad]",
    )
    parser.add_argument("--workers", type=count, help="DataLoader workers [as many as cores]")
    parser.add_argument("--no-fp32", action="store_true", help="leave out the paper-scale path")
    parser.add_argument(
        "--against",
        type=checkout,
        metavar="FOLDER",
        help="another checkout of tfkd: its fast path is timed in the same alternation (before and after)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code."""
    options = parse(arguments)
    console = Console(stderr=True)
    workloads: dict[str, Any] = {}
    try:
        with images.scratch() as scratch:
            for name, figures in measured(options, Path(scratch), console=console):
                workloads[name] = figures
                console.print(f"{name}: {figures['ratio']}")
                if options.json:  # after each: an hour's figures survive Ctrl-C
                    _write(options, workloads)
    except TfkdError as error:
        console.print(str(error), markup=False)
        return error.exit_code
    Console().print(table(workloads))
    console.print(f"{_machine()['machine']}; what others used is under foreign_cores in the JSON.")
    return 0


def _write(options: argparse.Namespace, workloads: dict[str, Any]) -> None:
    text = json.dumps({"workloads": workloads, **_machine(), "options": _plain(options)}, indent=1)
    options.json.write_text(text + "\n")


def end_when_terminated() -> None:
    """Let SIGTERM end the benchmark as Ctrl-C does: with what it started."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def measured(
    options: argparse.Namespace, scratch: Path, *, console: Console
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every workload that was asked for and its figures, in the order of the goals."""
    folder = options.data or images.write_synthetic(scratch / "images")
    data = prepared(folder, cache=scratch / "cache")
    theirs = "released" if options.conventional == "released" else "conventional"
    sides = dict.fromkeys([theirs, "fast", *([] if options.no_fp32 else ["fp32"])], data)
    if options.against:
        sides[measure.BEFORE] = prepared(folder, cache=scratch / "cache-before", checkout=options.against)
    for name in [name for name in NAMES if name in (options.workload or NAMES)]:
        if name == GRID:
            rounds = min(3, options.rounds)
            few = images.write_few(folder, scratch / "few") if options.data else folder
            yield name, grid.measure(few, rounds=rounds, report=console.print)
            continue
        figures = measure.measure(
            WORKLOADS[name],
            sides=sides,
            rounds=options.rounds,
            steps=options.steps,
            workers=options.workers or os.cpu_count() or 1,
            report=console.print,
        )
        yield name, figures.to_json()


def prepared(folder: Path, *, cache: Path, checkout: Path = measure.HERE) -> measure.Images:
    """The folder as decoded by the code of `checkout`; caches of two versions may differ."""
    if checkout == measure.HERE:
        return measure.Images(name=images.prepare(folder, cache=cache), cache=cache)
    code = (
        "import sys; from pathlib import Path; from benchmarks import images; "
        "print(images.prepare(Path(sys.argv[1]), cache=Path(sys.argv[2])))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder.absolute()), str(cache)],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return measure.Images(name=done.stdout.strip(), cache=cache, checkout=checkout)


def _machine() -> dict[str, Any]:
    import torch

    return {
        "machine": f"{provenance.cores()} cores, {platform.processor() or platform.machine()}",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _plain(options: argparse.Namespace) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}


if __name__ == "__main__":
    end_when_terminated()
    sys.exit(main())
