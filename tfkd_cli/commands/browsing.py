"""`tfkd runs` and `tfkd diff`: single runs, and in what two of them differ, from `results.load`'s frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tfkd_cli import console, progress, results
from tfkd_cli.commands import session
from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.options import JsonOption, Run, StoreOptions
from tfkd_cli.reproduction import overview
from tfkd_cli.spec import TRAINER_VERSION
from tfkd_cli.store import Store

if TYPE_CHECKING:
    import pandas as pd

CURRENT = (TRAINER_VERSION, None)  # None: a run whose description cannot be read
NOT_COMPARED = ("run", "key", "finished_at")  # different in any two runs
SETTINGS = {*results.columns.IDENTITY, *results.columns.RECIPE, *results.columns.LOSS}


def list_runs(
    store: StoreOptions,
    output: JsonOption,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            help="Only runs with this value, or one of A,B; can be repeated, all must hold.",
            metavar="COLUMN=VALUE",
        ),
    ] = None,
    sort: Annotated[
        str,
        typer.Option("--sort", help="By this column; -COLUMN for the largest first.", metavar="COLUMN"),
    ] = "finished_at",
) -> int:
    """List the runs of a results folder, one line each, sorted and filtered by any column.

    The columns are those of `results.load` (docs/library.md).

    Example: tfkd runs --where method=kd,baseline --sort -best_accuracy
    """
    opened = session.open_existing(store)
    found = results.read(opened)
    frame = results.runs_frame(found.values())
    for condition in where or ():
        frame = frame[_matches(frame, condition)]
    column = canonical(sort.removeprefix("-"), list(frame.columns), kind="column")
    frame = frame.sort_values([column, "run"], ascending=not sort.startswith("-"), na_position="last")
    if output.json:
        console.print_json(results.records(frame))
    else:
        _print_list(opened, found, frame)
    return 0


def _print_list(opened: Store, found: Mapping[str, results.Run], frame: pd.DataFrame) -> None:
    specs = [run.spec for run in found.values() if run.spec is not None]
    names = progress.short_names(specs, session.called(opened))
    rows = [_line(row, names.get(row["run"], row["run"])) for row in results.records(frame)]
    if rows:
        console.show(console.simple_table(("key", "run", "status", "best %", "last %", "time"), rows))
        console.say(f"{len(rows)} run{'s' * (len(rows) > 1)}. `tfkd show KEY` shows one of them.")
    elif found:
        console.say(f"None of the {len(found)} runs in {opened.source} is like that.")
    else:
        console.say(f"There are no runs in {opened.source} yet. Start with: tfkd reproduce demo")
    for note in overview.outdated(specs):
        console.say(f"Note: {note}")


def _matches(frame: pd.DataFrame, condition: str) -> pd.Series[bool]:
    """The rows for which COLUMN=A,B holds; numbers are compared as numbers, words without regard to case."""
    name, equals, values = condition.partition("=")
    if not equals:
        raise RequestError(
            f'--where "{condition}" has no "=".',
            expected="COLUMN=VALUE.",
            hint="tfkd runs --where status=done",
        )
    column = frame[canonical(name.strip(), list(frame.columns), kind="column")]
    wanted = [each.strip().lower() for each in values.split(",")]
    return column.map(lambda value: any(_is(value, each) for each in wanted)).astype(bool)


def _is(value: Any, word: str) -> bool:
    try:
        return float(value) == float(word)
    except (TypeError, ValueError):
        return str(value).lower() == word


def _line(row: dict[str, Any], name: str) -> tuple[str, ...]:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    return (
        str(row["key"])[:12],
        name,
        str(row["status"]) + (f", trainer {row['trainer']}" if row["trainer"] not in CURRENT else ""),
        percent(row["best_accuracy"]),
        percent(row["last_accuracy"]),
        "-" if row["seconds"] is None else console.duration(row["seconds"]),
    )


def diff(
    first: Run,
    second: Run,
    store: StoreOptions,
    output: JsonOption,
) -> int:
    """Show in what two runs differ: settings, numerics, code and result.

    Example: tfkd diff 3f2a 91c0
    """
    opened = session.open_existing(store)
    runs = [results.read_run(opened, opened.find(each)) for each in (first, second)]
    names = [run.name for run in runs]
    different = list(_differences([_values(run) for run in runs]))
    if output.json:
        heads = ("part", "field", "first", "second")
        console.print_json(
            {"runs": names, "different": [dict(zip(heads, d, strict=True)) for d in different]}
        )
        return 0
    console.show(f"1: {names[0]}\n2: {names[1]}")
    if different:
        console.show(console.simple_table(("part", "field", "1", "2"), different))
    else:
        console.show("The two are alike in settings, numerics, code and result.")
    return 0


def _differences(values: Sequence[Mapping[tuple[str, str], str]]) -> Iterator[tuple[str, ...]]:
    """(part, field, a value for each run) where the values are not all the same."""
    for part, name in dict.fromkeys(key for each in values for key in each):
        pair = [each.get((part, name), "") for each in values]
        if len({*pair}) > 1:
            yield part, name, *pair


def _values(run: results.Run) -> dict[tuple[str, str], str]:
    """(part, field) → value as text: the run's row of the frame, then the numerics of its device."""
    (row,) = results.records(results.runs_frame([run]))
    found = {(_part(name), name): _text(value) for name, value in row.items() if name not in NOT_COMPARED}
    numerics = (run.result or run.began).get("numerics") or {}
    return found | {("numerics", name): _text(value) for name, value in numerics.items()}


def _part(column: str) -> str:
    if column in SETTINGS or column not in results.columns.OUTCOME:
        return "settings"
    return "code" if column == "commit" else "result"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else console.first_line(str(value))
