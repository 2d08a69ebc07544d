"""The command line: a table of commands, imported from `commands/` when they are used; help and errors."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.options import OUTPUT, PANELS, with_options

DOCS = Path(__file__).parents[1] / "docs"
ABORT = typer.Abort
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Typer's copy of Click's UsageError, which it does not export."""


class Entry(NamedTuple):
    """The function of a command in `commands/`, its panel in `tfkd --help`, and what that says of it."""

    function: str
    panel: str
    does: str


TRAIN, LOOK, USE, FACTS, KEEP = "Train", "Look at results", "Use a result", "Look things up", "Maintain"

# One line each, so that `tfkd --help` imports no command; a test compares them with the docstrings.
COMMANDS: Mapping[str, Entry] = {
    "run": Entry("runs.run", TRAIN, "Train one run or a grid of runs, with the teachers they need."),
    "compare": Entry("comparing.compare", TRAIN, "Compare label smoothing and Tf-KD on your own images."),
    "reproduce": Entry("runs.reproduce", TRAIN, "Train what tables and figures still need, then print them."),
    "plan": Entry("runs.plan", TRAIN, "Show which runs `reproduce` would train and what they cost."),
    "status": Entry("store.status", LOOK, "Show how far each table, grid and comparison is."),
    "runs": Entry("browsing.list_runs", LOOK, "List the runs of a results folder, one line each."),
    "diff": Entry("browsing.diff", LOOK, "Show in what two runs differ."),
    "show": Entry("store.show", LOOK, "Print a table, figure, grid, comparison or run."),
    "report": Entry(
        "store.report", LOOK, "Write a page with every result, index.html, and its tables and figures."
    ),
    "logs": Entry("store.logs", LOOK, "Print the log of a run's newest attempt."),
    "predict": Entry("using.predict", USE, "Predict the class of each image with a run's student."),
    "export": Entry("using.export", USE, "Export a run's student for other programs."),
    "list": Entry(
        "things.list_things", FACTS, "List the methods, models, data sets, tables, figures or clusters."
    ),
    "explain": Entry(
        "explaining.explain_setting",
        FACTS,
        "Explain a setting's loss: its weights, its scale, and the label smoothing that it equals.",
    ),
    "data": Entry("things.fetch_data", KEEP, "Fetch a data set and decode it into the cache."),
    "clean": Entry("upkeep.clean", KEEP, "Show, or delete, what is safe to delete."),
    "pack": Entry("upkeep.pack", KEEP, "Pack the records of runs, without weights, into one file."),
    "doctor": Entry("upkeep.doctor", KEEP, "Check the installation, and with --cluster a profile."),
    "cancel": Entry("cluster.cancel", "SLURM", "Take the runs of a table, or one run, out of SLURM's queue."),
    "retry": Entry("cluster.retry", "SLURM", "Submit a failed run to SLURM again."),
}


class Command(TyperCommand):
    """A command whose help shows its options in panels."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """ITEM and [ITEM], where Typer writes {ITEM} for an argument that must be given."""
        arguments = [each for each in self.get_params(ctx) if each.param_type_name == "argument"]
        names = [each.metavar if each.required else f"[{each.metavar}]" for each in arguments]
        return ["[OPTIONS]", *map(str, names)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Each panel of `options.PANELS` that has an option."""
        panels: dict[str, list[tuple[str, str]]] = {}
        from_file = any(each.name == "from_file" for each in self.get_params(ctx))
        required = "[required, here or in --from]" if from_file else "[required]"
        for each in self.get_params(ctx):
            own = "Arguments" if each.param_type_name == "argument" else "Options"
            own = OUTPUT if each.name == "help" else own
            record = each.get_help_record(ctx)
            if record is not None:
                name = str(each.metavar) if each.param_type_name == "argument" else record[0]  # without <str>
                text = record[1].replace("[required]", required)
                panels.setdefault(getattr(each, "rich_help_panel", None) or own, []).append((name, text))
        for panel in sorted(panels, key=PANELS.index):
            with formatter.section(panel):
                formatter.write_dl(panels[panel])


class LazyGroup(TyperGroup):
    """The commands of COMMANDS; only the one that is asked for is imported."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of COMMANDS."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, its module imported now; None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].function.partition(".")
        function = getattr(importlib.import_module(f"tfkd_cli.commands.{module}"), name)
        alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
        alone.command(cmd_name, cls=Command)(with_options(function))
        return typer.main.get_command(alone)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is asked for; RequestError with the nearest known one for another."""
        if ctx.resilient_parsing:  # a shell asks for completions
            return super().resolve_command(ctx, args)
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
        """The panels in `tfkd --help`."""
        width = max(map(len, COMMANDS))  # that of the widest name, so that all panels are aligned
        for panel in dict.fromkeys(entry.panel for entry in COMMANDS.values()):
            with formatter.section(panel):
                shown = [(name.ljust(width), e.does) for name, e in COMMANDS.items() if e.panel == panel]
                formatter.write_dl(shown)


app = typer.Typer(
    name="tfkd",
    cls=LazyGroup,
    help="Reproduce 'Revisiting Knowledge Distillation via Label Smoothing Regularization' (CVPR 2020).\n\n"
    "Start with: tfkd reproduce demo",
    epilog="`tfkd help COMMAND` has all options of a command and an example. "
    f"Documentation: {DOCS if DOCS.is_dir() else 'docs/ in the repository of tfkd'}",
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
    """Options before the command."""


def refusal(error: Any) -> RequestError:
    """A UsageError of Click, which has one part, as an error of three."""
    if error.ctx is None:  # Click's parser: an option without its value, or a flag with one
        return RequestError(error.message, hint="`tfkd help COMMAND` says which options take a value.")
    command, params = error.ctx.command_path, error.ctx.command.params
    more = f"`{command.replace('tfkd', 'tfkd help', 1)}` lists all options."
    example = re.search(r"^Example: (.*)", error.ctx.command.help or "", re.MULTILINE)
    hint = example[1] if example else f"options stand after the command. {more}"
    param = getattr(error, "param", None)
    if hasattr(error, "possibilities"):  # no such option
        names = {name.strip("-"): name for each in params for name in each.opts}
        near = difflib.get_close_matches(error.option_name.strip("-"), names, n=1)
        other = more if example else hint  # an example says nothing about options
        hint = f"did you mean {names[near[0]]}? {more}" if near else other
        return RequestError(f"{command} has no option {error.option_name}.", hint=hint)
    if param is None:
        words = re.search(r"unexpected extra argument.* \((.*)\)", error.message)
        return RequestError(f"{command} cannot use: {words[1]}." if words else error.message, hint=hint)
    name = max(param.opts, key=len) if param.param_type_name == "option" else param.metavar
    if hasattr(error, "param_type"):  # it was not given
        return RequestError(f"{name} is missing.", expected=param.help, hint=hint)
    number = "a whole number" if param.type_descriptor.annotation is int else "a number"
    least = param.min
    return RequestError(
        f"{name} is {error.__cause__.errors()[0]['input']!r}.",  # pydantic's, which checks values for Typer
        expected=number + ("." if least is None else f", {least:g} or more."),
        hint=more,
    )
