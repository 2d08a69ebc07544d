"""`tfkd run --from FILE`: options from a TOML file; and, for every `tfkd run`, the file that repeats it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.options import OUTPUT, WHAT, WHERE
from tfkd_cli.regular_files import open_regular

LIMIT = 1 << 20
"""Bytes above which a file is refused: a grid takes less than one kilobyte."""

ELSEWHERE = ("from", "results", "data-dir", "cache-dir")
"""Options that say nothing about what is trained; so do the panels WHERE and OUTPUT."""


def read(context: typer.Context, path: Path | None) -> Path | None:
    """The values of the file become the defaults of this command's options; Click checks their types."""
    if path is None:
        return None
    options = _options(context.command)
    values = {}
    for name, value in _values(path).items():
        option = options[canonical(name, options, kind=f"option in {path}")]
        listed = isinstance(value, list) and not option.multiple  # typed with commas: --student A,B
        values[option.name] = ",".join(map(str, value)) if listed else value
    context.default_map = {**(context.default_map or {}), **values}
    return path


FromFile = Annotated[
    Path | None,
    typer.Option(
        "--from",
        help="A TOML file with options of this command, such as one that an earlier run wrote into "
        "<results>/requests/. Options on the command line take precedence.",
        metavar="FILE",
        is_eager=True,
        callback=read,
        rich_help_panel=WHAT,
    ),
]


def repeating(context: typer.Context) -> str:
    """The text of the file that repeats this command."""
    lines = ["# tfkd run --from THIS_FILE repeats a command; its paths start in the folder it was given in."]
    for name, option in _options(context.command).items():
        value = context.params.get(option.name)
        about_training = option.rich_help_panel not in (WHERE, OUTPUT) and name not in ELSEWHERE
        if about_training and value not in (None, False, [], ()):
            # A JSON string, number, boolean or list of strings is the same in TOML.
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False, default=str)}")
    return "\n".join(lines) + "\n"


def _options(command: Any) -> dict[str, Any]:
    """The command's options (objects of Typer's copy of Click) by their long names: `batch-size`."""
    named = ((next((n for n in each.opts if n.startswith("--")), ""), each) for each in command.params)
    return {name.removeprefix("--"): each for name, each in named if name}


def _values(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path, limit=LIMIT) as file:
            return tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RequestError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            expected='a TOML file with options at its top level, such as: student = "resnet8"',
            hint="every `tfkd run` writes such a file into <results>/requests/.",
        ) from error
