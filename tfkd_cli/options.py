"""The options that commands share, spelled once: groups as dataclasses, and single arguments.

Names are completed in a shell where `tfkd --install-completion` was run.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import typing
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from tfkd_cli.errors import fold

WHAT, TEACHER, RUN = "What is trained", "A teacher from a file", "How runs are made"
WHERE, STORE, OUTPUT = "Where runs execute", "Where things are", "Output"
BY_SETTING = "[default: by network and data set]"
PANELS = ("Arguments", "Options", WHAT, TEACHER, RUN, WHERE, STORE, OUTPUT)
"""The panels of a command's options, in the order of its help."""


def _items() -> list[str]:
    from tfkd_cli.reproduction.paper import paper

    return ["all", *paper().tables, *paper().figures]


def _clusters() -> list[str]:
    from tfkd_cli.backends.slurm import profile

    return ["local", *profile.known()]


def _networks() -> Iterable[str]:
    from tfkd_cli import models

    return models.NETWORKS


def _methods() -> Iterable[str]:
    from tfkd_cli import methods

    return methods.all_methods()


def _datasets() -> Iterable[str]:
    from tfkd_cli import data

    return data.all_datasets()


def completing(*known: Callable[[], Iterable[str]], runs: bool = False) -> Callable[..., list[str]]:
    """Completes these names, in a list with commas the last one; `runs`: also runs of the results folder."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        names = [name for each in known for name in each()]
        with contextlib.suppress(OSError):
            folder = Path(ctx.params.get("results") or "results", "runs")
            names += sorted(each.name for each in folder.iterdir()) if runs else []
        return [before + comma + name for name in names if name.startswith(last)]

    return complete


def _option(*names: str, help: str, panel: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, **more)


Student = Annotated[str, _option(
    "--student", help="A network (`tfkd list models`) or python:MODULE:FACTORY; `run` takes several: A,B.",
    panel=WHAT,
    metavar="NETWORK", autocompletion=completing(_networks),
)]  # fmt: skip
Teachers = Annotated[str | None, _option(
    "--teacher", help="The teacher of kd, re-kd and de-kd.", panel=WHAT,
    metavar="NETWORK", autocompletion=completing(_networks),
)]  # fmt: skip
Methods = Annotated[str, _option(
    "--method", help="A method (`tfkd list methods`) or python:MODULE:CLASS; several: A,B.",
    panel=WHAT, metavar="METHOD", autocompletion=completing(_methods),
)]  # fmt: skip
Dataset = Annotated[str, _option(
    "--dataset",
    help="A data set (`tfkd list datasets`), folder:PATH, torchvision:NAME or python:MODULE:NAME.",
    panel=WHAT, metavar="DATASET", autocompletion=completing(_datasets),
)]  # fmt: skip
Seeds = Annotated[str, _option(
    "--seeds", help="A count (3 is 0, 1, 2), a range (0-4; 7-7 is seed 7) or a list (7,9).",
    panel=WHAT, metavar="SEEDS",
)]  # fmt: skip
Run = Annotated[str, typer.Argument(
    help="A run's key, the first digits of it, or its folder.", metavar="RUN",
    autocompletion=completing(runs=True),
)]  # fmt: skip
_ITEM = typer.Argument(
    help="A table, figure, grid or comparison, or a run's key or folder.",
    metavar="ITEM",
    autocompletion=completing(_items, lambda: ["run", "compare"], runs=True),
)
Item = Annotated[str, _ITEM]
ItemOrAll = Annotated[str | None, _ITEM]
Items = Annotated[list[str], typer.Argument(
    help="Tables and figures: `tfkd list tables`, `all` or `demo`.", metavar="ITEM...",
    autocompletion=completing(_items),
)]  # fmt: skip


@dataclass(frozen=True)
class StoreOptions:
    """Where results, data sets and the cache are."""

    results: Annotated[Path, _option(
        "--results", help="The results folder; to read, also a file made by `tfkd pack`.", panel=STORE,
        metavar="PATH", envvar="TFKD_RESULTS",
    )] = Path("results")  # fmt: skip
    data_dir: Annotated[Path | None, _option(
        "--data-dir", help="A folder with official files, which is only read.", panel=STORE,
        metavar="FOLDER", envvar="TFKD_DATA",
    )] = None  # fmt: skip
    cache_dir: Annotated[Path | None, _option(
        "--cache-dir", help="The folder of decoded data sets. [default: the user's cache folder]",
        panel=STORE, metavar="FOLDER", envvar="TFKD_CACHE",
    )] = None  # fmt: skip
    debug: Annotated[bool, _option("--debug", help="Show the traceback of an error.", panel=OUTPUT)] = False


@dataclass(frozen=True)
class RunOptions:
    """What changes every run of a request."""

    scale: Annotated[str, _option(
        "--scale", help="As in the paper, or 10 epochs with --fast, for trying out.", panel=RUN,
        metavar="paper|quick", autocompletion=completing(lambda: ["paper", "quick"]),
    )] = "paper"  # fmt: skip
    form: Annotated[str, _option(
        "--form", help="The loss of the released code, or the printed equation.", panel=RUN,
        metavar="released|printed", autocompletion=completing(lambda: ["released", "printed"]),
    )] = "released"  # fmt: skip
    recipe: Annotated[str | None, _option(
        "--recipe", help=f"finetune, for any network. {BY_SETTING}", panel=RUN,
        metavar="RECIPE", autocompletion=completing(lambda: ["finetune"]),
    )] = None  # fmt: skip
    fast: Annotated[bool, _option(
        "--fast", help="bf16, and the same augmented images for all seeds; such runs are marked.", panel=RUN,
    )] = False  # fmt: skip
    teacher_seeds: Annotated[str, _option(
        "--teacher-seeds", help="One teacher (seed 0) for all seeds, or one for each seed.",
        panel=RUN, metavar="one|paired", autocompletion=completing(lambda: ["one", "paired"]),
    )] = "one"  # fmt: skip
    set_: Annotated[list[str] | None, _option(
        "--set", help="recipe.FIELD=VALUE, loss.FIELD=VALUE, data.FIELD=VALUE or teacher.weights=VALUE; "
        "can be repeated.",
        panel=RUN, metavar="FIELD=VALUE",
    )] = None  # fmt: skip
    epochs: Annotated[int | None, _option(
        "--epochs", help=f"Epochs; the milestones scale with them. {BY_SETTING}", panel=RUN, metavar="N",
    )] = None  # fmt: skip
    batch_size: Annotated[int | None, _option(
        "--batch-size", help=f"Images in a batch. {BY_SETTING}", panel=RUN, metavar="N",
    )] = None  # fmt: skip
    lr: Annotated[float | None, _option(
        "--lr", help=f"Learning rate at a batch of 128; it scales linearly. {BY_SETTING}", panel=RUN,
        metavar="X",
    )] = None  # fmt: skip
    alpha: Annotated[float | None, _option(
        "--alpha", help=f"Weight α of the soft targets, 0 to 1; the ε of lsr. {BY_SETTING}", panel=RUN,
        metavar="X",
    )] = None  # fmt: skip
    temperature: Annotated[float | None, _option(
        "--temperature", "-T", help=f"Temperature τ of the soft targets. {BY_SETTING}", panel=RUN,
        metavar="X",
    )] = None  # fmt: skip

    def shorthands(self) -> dict[str, Any]:
        """The shorthands of `--set` (None: not given)."""
        names = ("epochs", "batch_size", "lr", "alpha", "temperature")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class PlaceOptions:
    """The cluster, or the device of this machine."""

    cluster: Annotated[str, _option(
        "--cluster", help="local, slurm, or another profile (`tfkd list clusters`).", panel=WHERE,
        metavar="CLUSTER", autocompletion=completing(_clusters),
    )] = "local"  # fmt: skip
    device: Annotated[
        str, _option("--device", help="auto, cpu, cuda, cuda:1 or mps.", panel=WHERE, metavar="DEVICE")
    ] = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", self.device.lower())
        if fold(self.cluster) == "local":
            object.__setattr__(self, "cluster", "local")


@dataclass(frozen=True)
class ExecutionOptions(PlaceOptions):
    """Where and how runs execute; none of it changes a result's identity."""

    jobs: Annotated[int | None, _option(
        "--jobs", "-j", help="The most runs at once; several may share a GPU.", panel=WHERE,
        metavar="N", min=1,
    )] = None  # fmt: skip
    threads: Annotated[int | None, _option(
        "--threads", help="Threads of each run; a resumed one keeps its own. [default: cores ÷ runs at once]",
        panel=WHERE, metavar="N", min=1,
    )] = None  # fmt: skip
    gpus: Annotated[int | None, _option(
        "--gpus", "--processes", help="GPUs of each run, with a process for each; with --device cpu, "
        "processes. [default: 1; for ImageNet on a cluster 4]", panel=WHERE, metavar="N", min=1,
    )] = None  # fmt: skip
    sync_batch_norm: Annotated[
        bool, _option("--sync-batch-norm", help="With --gpus, BatchNorm over all of them.", panel=WHERE)
    ] = False
    data_workers: Annotated[int | None, _option(
        "--data-workers", help="Processes of each run that decode images. [default: --threads]",
        panel=WHERE, metavar="N", min=0,
    )] = None  # fmt: skip
    teacher_cache_gb: Annotated[float, _option(
        "--teacher-cache-gb", help="Size limit of cached teacher logits (with --fast).",
        panel=WHERE, metavar="GB", min=0.0,
    )] = 20.0  # fmt: skip
    no_tf32: Annotated[bool, _option("--no-tf32", help="Disable TF32 on GPUs (slower).", panel=WHERE)] = False
    tensorboard: Annotated[
        bool,
        _option("--tensorboard", help="Also write scalars for TensorBoard into tensorboard/.", panel=WHERE),
    ] = False
    verbose: Annotated[bool, _option("--verbose", "-v", help="More detailed logs.", panel=OUTPUT)] = False


@dataclass(frozen=True)
class LaunchOptions(ExecutionOptions):
    """Whether a command that starts runs does so, and whether it asks."""

    dry_run: Annotated[
        bool,
        _option("--dry-run", help="Show the plan and check what runs need; start nothing.", panel=WHERE),
    ] = False
    yes: Annotated[bool, _option("--yes", "-y", help="Download without asking.", panel=WHERE)] = False


@dataclass(frozen=True)
class TeacherOptions:
    """A teacher from a file of another code base, and the images that it was trained with."""

    teacher_checkpoint: Annotated[Path | None, _option(
        "--teacher-checkpoint", help="The weights of --teacher, a file of any code base.",
        panel=TEACHER, metavar="FILE",
    )] = None  # fmt: skip
    teacher_mean: Annotated[str | None, _option(
        "--teacher-mean", help="The mean by which its images were normalised, for pixels from 0 to 1: "
        "0.485,0.456,0.406. [default: the best of the usual ones]", panel=TEACHER, metavar="R,G,B",
    )] = None  # fmt: skip
    teacher_std: Annotated[
        str | None,
        _option("--teacher-std", help="The standard deviation, likewise.", panel=TEACHER, metavar="R,G,B"),
    ] = None
    teacher_size: Annotated[int | None, _option(
        "--teacher-size", help="The side of its images. [default: the student's]", panel=TEACHER,
        metavar="PIXELS",
    )] = None  # fmt: skip
    teacher_resize: Annotated[int | None, _option(
        "--teacher-resize", help="The side to which images are resized before their centre is cut out "
        "for it. [default: nothing is cut off]", panel=TEACHER, metavar="PIXELS",
    )] = None  # fmt: skip


@dataclass(frozen=True)
class FolderOptions:
    """How the images of `folder:PATH` are found, which is its identity, and where they are kept."""

    follow_links: Annotated[
        bool,
        _option("--follow-links", help="With folder:PATH, follow links that lead out of it.", panel=STORE),
    ] = False
    nested: Annotated[
        bool, _option("--nested", help="With folder:PATH, include folders inside class folders.", panel=STORE)
    ] = False
    memory_gb: Annotated[float | None, _option(
        "--memory-gb", help="Of folder:PATH, sets that would be larger once decoded stay in their files. "
        "[default: a quarter of the memory]", panel=STORE, metavar="GB", min=0.0,
    )] = None  # fmt: skip


@dataclass(frozen=True)
class JsonOption:
    """Output for scripts."""

    json: Annotated[bool, _option("--json", help="Print JSON.", panel=OUTPUT)] = False


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
