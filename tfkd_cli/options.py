"""The options that commands share: each group a dataclass, each field one option, spelled once."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from tfkd_cli.errors import fold

STORE, RUN, OUTPUT = "Where things are", "How runs are made", "Output"


def _option(*names: str, help: str, panel: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


@dataclass(frozen=True)
class StoreOptions:
    """Where results, data sets and the cache are."""

    results: Annotated[
        Path,
        _option(
            "--results",
            help="The results folder, or a file made by `tfkd pack`.",
            panel=STORE,
            envvar="TFKD_RESULTS",
        ),
    ] = Path("results")
    data_dir: Annotated[
        Path | None,
        _option(
            "--data-dir", help="A folder with official files; only read.", panel=STORE, envvar="TFKD_DATA"
        ),
    ] = None
    cache_dir: Annotated[
        Path | None,
        _option(
            "--cache-dir",
            help="Decoded data sets. [default: the user's cache folder]",
            panel=STORE,
            envvar="TFKD_CACHE",
        ),
    ] = None
    debug: Annotated[bool, _option("--debug", help="Show tracebacks.", panel=OUTPUT)] = False


@dataclass(frozen=True)
class RunOptions:
    """What changes every run of a request."""

    scale: Annotated[
        str, _option("--scale", help="paper, or quick: 10 epochs, fast, for trying out.", panel=RUN)
    ] = "paper"
    form: Annotated[
        str, _option("--form", help="The loss as released (the code) or printed (the equation).", panel=RUN)
    ] = "released"
    recipe: Annotated[
        str | None,
        _option("--recipe", help="finetune, for any network. [default: by network and data set]", panel=RUN),
    ] = None
    fast: Annotated[
        bool,
        _option(
            "--fast", help="bf16 and one augmentation stream for all seeds: other runs, marked.", panel=RUN
        ),
    ] = False
    teacher_seeds: Annotated[
        str,
        _option(
            "--teacher-seeds", help="one teacher (seed 0) for all seeds, or paired: one per seed.", panel=RUN
        ),
    ] = "one"
    set_: Annotated[
        list[str] | None,
        _option("--set", help="recipe.FIELD, loss.FIELD or teacher.weights =VALUE; repeatable.", panel=RUN),
    ] = None
    epochs: Annotated[int | None, _option("--epochs", help="recipe.epochs; milestones scale.", panel=RUN)] = (
        None
    )
    batch_size: Annotated[int | None, _option("--batch-size", help="recipe.batch_size.", panel=RUN)] = None
    lr: Annotated[float | None, _option("--lr", help="recipe.lr, at a batch of 128.", panel=RUN)] = None
    alpha: Annotated[float | None, _option("--alpha", help="loss.alpha, 0 to 1.", panel=RUN)] = None
    temperature: Annotated[
        float | None, _option("--temperature", "-T", help="loss.temperature.", panel=RUN)
    ] = None

    def shorthands(self) -> dict[str, Any]:
        """The shorthands of `--set` (None: not given)."""
        names = ("epochs", "batch_size", "lr", "alpha", "temperature")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ExecutionOptions:
    """Where and how runs execute; none of it changes a result's identity."""

    cluster: Annotated[
        str, _option("--cluster", help="local, slurm, or a profile: `tfkd list clusters`.", panel=RUN)
    ] = "local"
    jobs: Annotated[
        int | None,
        _option("--jobs", "-j", help="Runs at once in all; several may share a GPU.", panel=RUN, min=1),
    ] = None
    device: Annotated[str, _option("--device", help="auto, cpu, cuda, cuda:1, mps.", panel=RUN)] = "auto"
    threads: Annotated[
        int | None,
        _option("--threads", help="Threads per run. [default: cores ÷ runs at once]", panel=RUN, min=1),
    ] = None
    gpus: Annotated[
        int | None,
        _option(
            "--gpus",
            "--processes",
            help="GPUs per run, each with a process of its own; with --device cpu processes. [default: 1]",
            panel=RUN,
            min=1,
        ),
    ] = None
    sync_batch_norm: Annotated[
        bool, _option("--sync-batch-norm", help="With --gpus: BatchNorm over all of them.", panel=RUN)
    ] = False
    data_workers: Annotated[
        int | None,
        _option(
            "--data-workers",
            help="Processes per run that decode images. [default: --threads]",
            panel=RUN,
            min=0,
        ),
    ] = None
    teacher_cache_gb: Annotated[
        float,
        _option("--teacher-cache-gb", help="Cap on cached teacher logits (with --fast).", panel=RUN, min=0.0),
    ] = 20.0
    no_tf32: Annotated[
        bool, _option("--no-tf32", help="IEEE fp32 where a GPU would use TF32; slower.", panel=RUN)
    ] = False
    tensorboard: Annotated[
        bool, _option("--tensorboard", help="Also write TensorBoard scalars.", panel=RUN)
    ] = False
    dry_run: Annotated[bool, _option("--dry-run", help="Show the plan, start nothing.", panel=RUN)] = False
    yes: Annotated[bool, _option("--yes", "-y", help="Accept downloads without asking.", panel=RUN)] = False
    verbose: Annotated[bool, _option("--verbose", "-v", help="More log.", panel=OUTPUT)] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", self.device.lower())
        if fold(self.cluster) == "local":
            object.__setattr__(self, "cluster", "local")


@dataclass(frozen=True)
class FolderOptions:
    """How the images of `folder:PATH` are found, which is its identity, and where they are kept."""

    follow_links: Annotated[
        bool, _option("--follow-links", help="folder:PATH: follow links that lead out of it.", panel=STORE)
    ] = False
    nested: Annotated[
        bool, _option("--nested", help="folder:PATH: folders inside a class belong to it.", panel=STORE)
    ] = False
    memory_gb: Annotated[
        float | None,
        _option(
            "--memory-gb",
            help="folder:PATH: larger sets, once decoded, stay in their files. [default: a quarter of RAM]",
            panel=STORE,
            min=0.0,
        ),
    ] = None


@dataclass(frozen=True)
class JsonOption:
    """Output for scripts."""

    json: Annotated[bool, _option("--json", help="JSON to stdout.", panel=OUTPUT)] = False


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`command`, its parameters that are option groups spread into one option per field for Typer."""
    hints = typing.get_type_hints(command, include_extras=True)
    plain, groups = [], {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if isinstance(kind, type) and kind.__module__ == __name__:
            groups[name] = kind
        else:
            plain.append(parameter.replace(annotation=kind))
    spread = [parameter for kind in groups.values() for parameter in _parameters(kind)]

    @functools.wraps(command)
    def spread_command(**values: Any) -> Any:
        made = {
            name: kind(**{each.name: values.pop(each.name) for each in fields(kind)})
            for name, kind in groups.items()
        }
        return command(**values, **made)

    spread_command.__signature__ = inspect.Signature([*plain, *spread])  # type: ignore[attr-defined]
    spread_command.__annotations__ = {p.name: p.annotation for p in (*plain, *spread)}
    del spread_command.__wrapped__  # else inspect would look through to the unspread signature
    # Click's mark for a paragraph that keeps its lines: an example is there to be copied.
    spread_command.__doc__ = inspect.cleandoc(command.__doc__ or "").replace(
        "\n\nExample:", "\n\n\b\nExample:"
    )
    return spread_command


def _parameters(group: type) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=hints[each.name],
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
        )
        for each in fields(group)
    ]
