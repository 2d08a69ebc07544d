"""The commands: parse, call, print. Each family of commands is a module in `commands/`."""

from __future__ import annotations

from typing import Annotated

import typer

from tfkd_cli.commands import cluster, runs, store, things

app = typer.Typer(
    name="tfkd",
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


for module in (runs, store, things, cluster):
    module.register(app)
