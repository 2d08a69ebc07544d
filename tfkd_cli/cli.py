"""The commands: parse, call, print. Each family is a module in `commands/`, imported when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from tfkd_cli.errors import canonical


class Entry(NamedTuple):
    """Where a command lives, and what `tfkd --help` says of it."""

    module: str
    does: str


# One line each, so that `tfkd --help` imports no command; a test compares them with the docstrings.
COMMANDS: Mapping[str, Entry] = {
    "run": Entry("runs", "One run or a grid, teachers included; the same command again resumes."),
    "compare": Entry(
        "comparing",
        "Does Tf-KD help here? Trials on a validation part, then every method with every seed: one answer.",
    ),
    "reproduce": Entry("runs", "What the named tables and figures still need; then prints them."),
    "plan": Entry("runs", "Exactly `reproduce --dry-run`: runs wanted, shared, done, to do; their cost."),
    "status": Entry("store", "Counts, failures and time left of everything that was asked for."),
    "runs": Entry("browsing", "One line per run, sorted and filtered by any column of `results.load`."),
    "diff": Entry("browsing", "What differs between two runs: settings, numerics, code and result."),
    "show": Entry("store", "A table, figure or run, to stdout: published beside measured."),
    "report": Entry("store", "Everything to files: DIR/index.html and DIR/report/…, and nothing else."),
    "predict": Entry(
        "using", "Class and probability of each image by a run's student, with the run's own preprocessing."
    ),
    "export": Entry("using", "A run's student as one file for other programs."),
    "logs": Entry("store", "A run's log, of its newest attempt."),
    "list": Entry("things", "Methods, models, datasets, tables, figures or clusters."),
    "data": Entry("things", "Fetch and decode a data set into the cache, once for all runs."),
    "explain": Entry(
        "explaining", "What a setting's loss really is: weights, scale, equivalent label smoothing."
    ),
    "clean": Entry("upkeep", "What is safe to delete, and its deletion; never a result."),
    "pack": Entry("upkeep", "Records in one file, which every reading command accepts as --results."),
    "doctor": Entry("upkeep", "Is everything here? Each line ok, WARN or FAIL, with what to do."),
    "cancel": Entry("cluster", "Take the runs of a table, or one run, out of SLURM's queue."),
    "retry": Entry("cluster", "Submit a failed run again, its waiting students pointed to it."),
}


class LazyGroup(TyperGroup):
    """The commands of COMMANDS; only the one that is asked for is imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, its module imported now; None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        family = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
        family.callback()(lambda: None)  # keeps even a single command a named one
        importlib.import_module(f"tfkd_cli.commands.{COMMANDS[cmd_name].module}").register(family)
        return typer.main.get_group(family).commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is asked for; RequestError with the nearest known one for another."""
        return super().resolve_command(ctx, [canonical(args[0], COMMANDS, kind="command"), *args[1:]])

    def invoke(self, ctx: Any) -> None:
        """The command; what it returns is the exit code, which Typer drops by itself."""
        try:
            code = super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output has gone (`tfkd list models | head -1`): nothing is wrong.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        raise typer.Exit(code or 0)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list in `tfkd --help`."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.does) for name, entry in COMMANDS.items()])


app = typer.Typer(
    name="tfkd",
    cls=LazyGroup,
    help="Reproduce 'Revisiting Knowledge Distillation via Label Smoothing Regularization' (CVPR 2020).\n\n"
    "Start with: tfkd reproduce demo",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"tfkd {version('tfkd')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """See `tfkd COMMAND --help`; each has an example."""
