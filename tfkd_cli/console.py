"""How plans, progress, status and errors look in a terminal. Data to stdout, talk to stderr.

On a terminal, lines are wrapped at spaces and tables are laid out by its width; elsewhere lines stay whole.
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO

from tfkd_cli.errors import UNSEEN, parts, plain

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

    from tfkd_cli.plan import Plan

PLAIN_WIDTH = 100
NO_BREAK = "\N{NO-BREAK SPACE}"
UNITS = re.compile(r"(?<=\d) (?=(?:d|h|min|s|B|kB|MB|GB|TB|%)(?!\w))")
"""The space of 20 GB, at which a line is never broken."""
NUMBER = r"|-|[-+<]?[\d,.]+%?( [A-Za-z%]{1,3}( \d+ [a-z]{1,3})?)?"  # 12, 1,234.5, 20 GB, 5 min 41 s


def terminal(stream: TextIO) -> Console:
    """A rich console that writes to `stream`; `PLAIN_WIDTH` wide where that is no terminal."""
    from rich.console import Console

    return Console(file=stream, width=None if stream.isatty() else PLAIN_WIDTH, highlight=False, markup=False)


def wrapped(text: str, width: int) -> str:
    """`text`, its lines broken at spaces to fit into `width` and indented as they begin.

    Words stay whole, and so do a number and its unit.
    """
    return "\n".join(
        textwrap.fill(
            UNITS.sub(NO_BREAK, line.lstrip(" ")),
            width - 1,  # some terminals begin a new line at the last column
            initial_indent=(indent := " " * (len(line) - len(line.lstrip(" ")))),
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        ).replace(NO_BREAK, " ")
        for line in text.split("\n")
    )


def show(what: str | RenderableType) -> None:
    """Data to stdout: a text, wrapped on a terminal only, or a table."""
    _write(what, sys.stdout)


def say(what: str | RenderableType) -> None:
    """The same to stderr, for everything that is no data."""
    _write(what, sys.stderr)


def _write(what: str | RenderableType, stream: TextIO) -> None:
    if isinstance(what, str):
        shown = plain(what)
        if stream.isatty():
            shown = wrapped(shown, shutil.get_terminal_size().columns)
    else:
        console = terminal(stream)
        with console.capture() as captured:
            console.print(what)
        shown = captured.get().removesuffix("\n")
    print(shown, file=stream, flush=True)


class LogOutput(logging.Handler):
    """Shows each text that is logged once, as a note: a damaged file, and what was done about it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Show what was logged, unless it was shown before."""
        text = record.getMessage()
        if text not in self._shown:
            self._shown.add(text)
            say(f"Note: {text}")


def print_error(error: Exception) -> None:
    """What happened, what was expected, what to do: three lines on stderr."""
    say("Error: " + "\n".join(parts(error)))


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
    """Bytes as a reader says them: `14.8 MB`."""
    from rich.filesize import decimal

    return decimal(round(count))


def simple_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> RenderableType:
    """A table without frames: numbers to the right, words to the left.

    Where it is wider than the terminal, its texts are wrapped at spaces, then it is cut into several tables,
    each with the first column.
    """
    return _SimpleTable(heads, [[plain(str(value)) for value in row] for row in rows])


@dataclass(frozen=True)
class _SimpleTable:
    """Drawn by rich, which tells it the width there is."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from paper_tables.render.sheet_terminal import layout

        columns = [[head, *(row[at] for row in self.rows)] for at, head in enumerate(self.heads)]
        for widths in layout(columns, fixed=1, width=options.max_width):
            yield self._part(widths)

    def _part(self, widths: Mapping[int, int]) -> RenderableType:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for at, width in widths.items():
            numeric = self.rows and all(re.fullmatch(NUMBER, row[at]) for row in self.rows)
            justify: Literal["left", "right"] = "right" if numeric else "left"
            table.add_column(self.heads[at], width=width, justify=justify, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(row[at]) for at in widths))
        return table


def chart(series: Mapping[str, Sequence[tuple[float, float]]], *, width: int, height: int = 15) -> str:
    """Series of points (x, y), each with its own sign, as `height` lines of ASCII and a legend."""
    points = [point for each in series.values() for point in each]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    columns = width - 10
    rows = [[" "] * columns for _ in range(height)]
    for sign, each in zip("*ox", series.values(), strict=False):
        for x, y in each:
            column = round((x - left) / ((right - left) or 1) * (columns - 1))
            rows[round((high - y) / ((high - low) or 1) * (height - 1))][column] = sign
    ticks = {place: f"{high - (high - low) * place / (height - 1):.1f}" for place in range(0, height, 7)}
    lines = [f"{ticks.get(place, ''):>7} |{''.join(row)}".rstrip() for place, row in enumerate(rows)]
    lines.append(f"{'':7} +{'-' * columns}")
    lines.append(f"{'':9}{left:g}{right:>{columns - len(f'{left:g}')}g}")
    return "\n".join([*lines, *(f"{'':9}{sign} {name}" for sign, name in zip("*ox", series, strict=False))])


def plan_table(plan: Plan, *, device: str) -> RenderableType:
    """Per table and in total: runs wanted, shared, done, resumable, damaged, to do; what the rest costs.

    Columns of runs in which there is nothing but zeros are left out.
    """
    counts = {name: plan.counts(name) for name in plan.tables}
    if len(counts) != 1:
        counts["all together"] = plan.counts()
    parts = counts.values()
    columns: dict[str, Sequence[object]] = {"table": [*counts]}
    for head in ("wanted", "shared", "done", "resumable", "damaged", "to do"):
        values = [getattr(each, head.replace(" ", "")) for each in parts]
        columns |= {head: values} if any(values) or head in ("wanted", "to do") else {}
    time, work = in_one_unit([each.seconds for each in parts], TIMES)
    chain, longest = in_one_unit([each.critical_path_seconds for each in parts], TIMES)
    unit, disk = in_one_unit([each.disk_bytes for each in parts], SIZES)
    columns |= {f"{device} {time}": work, f"longest chain, {chain}": longest, f"disk, {unit}": disk}
    return simple_table([*columns], zip(*columns.values(), strict=True))


TIMES: Mapping[str, float] = {"h": 3600, "min": 60, "s": 1}
SIZES: Mapping[str, float] = {"GB": 1e9, "MB": 1e6, "kB": 1e3}


def in_one_unit(values: Sequence[float], units: Mapping[str, float]) -> tuple[str, list[str]]:
    """One unit for a column, in which its largest value is at least 2, and the values in it."""
    largest = max(values, default=0.0)
    name = next((name for name, size in units.items() if largest >= 2 * size), list(units)[-1])
    return name, [f"{value / units[name]:,.{1 if largest < 100 * units[name] else 0}f}" for value in values]


SOURCES: Mapping[str, str] = {  # of costs
    "measured": "from measured runs of the same network, data set and device",
    "calibrated": "from a calibration on this device",
    "estimate": "from a multiply-add model (an estimate, good to a factor of 2)",
    "uncalibrated": "from a multiply-add model that was never calibrated on a GPU (an estimate; current GPUs "
    "may be 5 to 10 times as fast)",
}


def parallel_lines(plan: Plan) -> list[str]:
    """How many GPUs or processes the data-parallel runs take, and what each of them holds; none: no line."""
    costs = [run.cost for run in plan.todo if run.cost.processes > 1]
    if not costs:
        return []
    each = "/".join(map(str, sorted({cost.processes for cost in costs})))
    teacher = max(cost.teacher_bytes for cost in costs)
    copy = f", and of the teacher ({size(teacher)} of weights)" if teacher else ""
    return [
        f"Data-parallel: {len(costs)} run{'s' * (len(costs) > 1)} in {each} processes, one per GPU; the "
        f"hours of all of them count. Each holds its own copy of the network{copy}."
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
