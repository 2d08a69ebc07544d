"""Code of the user's own: `python:module.path:NAME`, or registered by an installed package's entry point.

Networks, methods and data sets are looked up here. Nothing here needs torch.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PREFIX = "python:"
FORM = "python:module.path:NAME"
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", re.ASCII)


def is_own(name: str) -> bool:
    """Whether `name` is of the form `python:module.path:NAME`."""
    return name.startswith(PREFIX) and _NAME.fullmatch(name.removeprefix(PREFIX)) is not None


def load(name: str, *, expected: str) -> Any:
    """What `python:module.path:NAME` means; RequestError, whatever the module does when it is imported.

    The current folder is searched first, as `python -m` does. A record of somebody else's run may hold any
    name, so modules of the standard library and `__main__` modules, which act when imported, are refused.
    """
    module_name, _, attribute = name.removeprefix(PREFIX).partition(":")
    parts = module_name.split(".")
    if not is_own(name) or parts[0] in sys.stdlib_module_names or "__main__" in parts:
        raise RequestError(
            f'"{name[:200]}" names no code of your own.', expected=expected, hint=f"as {FORM}."
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # it stays for later imports
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's own code may raise anything, or call sys.exit
        raise failed(name, error, expected=expected) from error


def failed(name: str, error: BaseException, *, expected: str) -> RequestError:
    """The error that says how the user's own code failed."""
    module = name.removeprefix(PREFIX).partition(":")[0]
    is_absent = isinstance(error, ModuleNotFoundError) and error.name in (module, module.partition(".")[0])
    return RequestError(
        f'"{name}" failed: {type(error).__name__}: {error}.',
        expected=expected,
        hint="give the command in the folder of the module, or add that folder to PYTHONPATH."
        if is_absent
        else "modules are looked for in the current folder first; --debug shows where it failed.",
    )


def registered(group: str) -> dict[str, EntryPoint]:
    """Name → entry point of this group (`tfkd.methods`, `tfkd.datasets`) in the installed packages."""
    from importlib.metadata import entry_points

    return {each.name: each for each in sorted(entry_points(group=group), key=lambda each: each.value)}


def of_entry_point(entry: EntryPoint) -> str:
    """The entry point as `python:module.path:NAME`."""
    return f"{PREFIX}{entry.module}:{entry.attr}"
