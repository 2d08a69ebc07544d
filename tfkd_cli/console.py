"""How plans, progress, status and errors look in a terminal. Data to stdout, talk to stderr."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfkd_cli.errors import UNSEEN, plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

    from tfkd_cli.plan import Counts, Plan

PLAIN_WIDTH = 100
NUMBER = r"|-|[-+]?[\d,.]+%?( [A-Za-z%]{1,3}( \d+ [a-z]{1,3})?)?"  # 12, 1,234.5, 20 GB, 5 min 41 s


def out() -> Console:
    """The console for data. Not on a terminal it is `PLAIN_WIDTH` wide, whatever the environment says."""
    return _console(stderr=False)


def talk() -> Console:
    """The console for everything else."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    class PlainConsole(Console):
        """Shows control characters in text as escapes; the styles of tables are its own."""

        def print(self, *objects: Any, **how: Any) -> None:
            super().print(*(plain(each) if isinstance(each, str) else each for each in objects), **how)

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return PlainConsole(stderr=stderr, width=width, highlight=False, soft_wrap=False)


def show(text: str) -> None:
    """Data to stdout, never wrapped or marked up."""
    print(plain(text), flush=True)


def say(text: str) -> None:
    """One line of talk, on stderr, never wrapped or marked up."""
    print(plain(text), file=sys.stderr, flush=True)


def print_error(error: Exception) -> None:
    """What happened, what was expected, what to do: three lines on stderr."""
    say(f"Error: {getattr(error, 'what', error)}")
    if expected := getattr(error, "expected", ""):
        say(f"  {expected}")
    if hint := getattr(error, "hint", ""):
        say(f"  Hint: {hint}")


def print_json(value: Any) -> None:
    """JSON for scripts, to stdout."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    if not (sys.stdout.encoding or "").lower().startswith("utf") or UNSEEN.search(text):
        text = json.dumps(value, indent=2, allow_nan=False)
    print(text)


def first_line(message: str) -> str:
    """What happened, without what to do: for places that have a line each."""
    return message.strip().partition("\n")[0]


def duration(seconds: float) -> str:
    """`95` → `1 min 35 s`: two units, the larger first."""
    for unit, size, smaller, small in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= size:
            whole = int(seconds // size)
            rest = int((seconds - whole * size) // small)
            return f"{whole:,} {unit} {rest} {smaller}" if rest and whole < 1000 else f"{whole:,} {unit}"
    return f"{seconds:.0f} s"


def size(count: float) -> str:
    """Bytes as a reader says them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def simple_table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "") -> RichTable:
    """A table without frames: numbers to the right, words to the left."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = [[plain(str(value)) for value in row] for row in rows]
    table = RichTable(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column, head in enumerate(heads):
        numeric = all(re.fullmatch(NUMBER, row[column]) for row in shown)
        table.add_column(head, justify="right" if numeric and shown else "left", overflow="fold")
    for row in shown:
        table.add_row(*(Text(value) for value in row))
    return table


def plan_table(plan: Plan, *, device: str) -> RichTable:
    """Per table and in total: runs wanted, shared, done, resumable, to do, and what the rest costs."""
    counts = {name: plan.counts(name) for name in plan.tables}
    if len(counts) != 1:
        counts["all together"] = plan.counts()
    parts = counts.values()
    time, work = in_one_unit([each.seconds for each in parts], TIMES)
    chain, longest = in_one_unit([each.critical_path_seconds for each in parts], TIMES)
    unit, disk = in_one_unit([each.disk_bytes for each in parts], SIZES)
    heads = ("table", "wanted", "shared", "done", "resumable", "to do")
    costs = (f"{device} {time}", f"longest chain, {chain}", f"disk, {unit}")
    rows = [
        (name, each.wanted, each.shared, each.done, each.resumable, each.todo, *texts)
        for (name, each), *texts in zip(counts.items(), work, longest, disk, strict=True)
    ]
    return simple_table((*heads, *costs), rows)


TIMES: Mapping[str, float] = {"h": 3600, "min": 60, "s": 1}
SIZES: Mapping[str, float] = {"GB": 1e9, "MB": 1e6, "kB": 1e3}


def in_one_unit(values: Sequence[float], units: Mapping[str, float]) -> tuple[str, list[str]]:
    """One unit for a column, in which its largest value is at least 2, and the values in it."""
    largest = max(values, default=0.0)
    name = next((name for name, size in units.items() if largest >= 2 * size), list(units)[-1])
    return name, [f"{value / units[name]:,.{1 if largest < 100 * units[name] else 0}f}" for value in values]


SOURCES: Mapping[str, str] = {
    "measured": "from measured runs of the same network, data set and device",
    "calibrated": "from a calibration on this device",
    "estimate": "from a multiply-add model (an estimate, good to a factor of 2)",
    "uncalibrated": "from a multiply-add model that was never calibrated on a GPU (an estimate; current GPUs "
    "may be 5 to 10 times as fast)",
}


def cost_sources(counts: Counts) -> str:
    """Where the costs come from, in a sentence."""
    parts = [f"{number} {SOURCES.get(source, source)}" for source, number in counts.sources]
    return "; ".join(parts)


def parallel_lines(plan: Plan) -> list[str]:
    """How many GPUs or processes the data-parallel runs take, and what each of them holds; none: no line."""
    costs = [run.cost for run in plan.todo if run.cost.processes > 1]
    if not costs:
        return []
    each = "/".join(map(str, sorted({cost.processes for cost in costs})))
    teacher = max(cost.teacher_bytes for cost in costs)
    copy = f", and of the teacher ({size(teacher)} of weights)" if teacher else ""
    return [
        f"Data-parallel: {len(costs)} runs in {each} processes each, one per GPU; every GPU's hours count. "
        f"Each process holds a copy of the network{copy}, and its part of a batch."
    ]


def logits_lines(plan: Plan, *, cap_gb: float) -> list[str]:
    """The teacher logits that several runs share, if there are any: for whom, how large, what is cached."""
    shared = plan.teacher_logits
    if not shared:
        return []
    teachers = ", ".join(sorted({each.teacher for each in shared}))
    runs = len({key for each in shared for key in each.students})
    total, seconds = sum(each.disk_bytes for each in shared), sum(each.seconds_left for each in shared)
    cached, epochs = sum(each.epochs_cached for each in shared), sum(each.epochs for each in shared)
    capped = f", limited to {cap_gb:g} GB by --teacher-cache-gb" if total > cap_gb * 1e9 else ""
    left = f", about {duration(seconds)} to compute" if seconds >= 1 else ""
    return [
        f"Cached teacher logits: those of {teachers} are computed once for {runs} runs and stored in "
        f"teacher-logits/ of the results folder, up to {size(total)}{capped}; {cached:,} of {epochs:,} "
        f"epochs are there{left}. That folder may be deleted at any time."
    ]
