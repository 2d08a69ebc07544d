"""What every command does first: open the store, read the options, build the request."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from paper_tables.spec import UnknownNameError
from tfkd_cli import grid, schema
from tfkd_cli.compare import comparison
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.grid import Axes
from tfkd_cli.methods import imported
from tfkd_cli.options import ExecutionOptions, FolderOptions, RunOptions, StoreOptions, TeacherOptions
from tfkd_cli.regular_files import expanded
from tfkd_cli.reproduction import overrides, overview, requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher, RunSpec
from tfkd_cli.store import Store

T = TypeVar("T")
TAKEN_OVER = ("device", "threads", "sync_batch_norm", "data_workers", "teacher_cache_gb", "tensorboard")
"""Options that an Execution has under the same names."""
STORED = (grid.UNNAMED, "compare")
"""Commands whose tables have their name, where no other was given, and stand in the results folder only."""


def open_store(options: StoreOptions, *, write: bool) -> Store:
    """The store; an empty one when there is no folder yet and nothing is to be written."""
    return Store.open(options.results, create=write, writable=write)


def open_existing(options: StoreOptions, *, write: bool = False) -> Store:
    """The store, for commands that are about what is in it; RequestError where there is no such folder."""
    return Store.existing(options.results, writable=write)


def open_folder(options: StoreOptions, what: str) -> Store:
    """The store, to read `what` of its runs; RequestError for a packed file, which has none of it."""
    opened = open_existing(options)
    if opened.source != opened.root:
        raise RequestError(
            f"{opened.source} is a file of records, which holds no {what}.",
            expected="the results folder that it was made of.",
            hint="--results DIR (or TFKD_RESULTS).",
        )
    return opened


def campaigns(store: Store, execution: Execution, *, device: str = "cpu") -> tuple[list[Campaign], list[str]]:
    """A campaign for each distinct request in the store, newest first, and notes on unreadable ones."""
    made, notes = overview.campaigns(store, execution, device=device)
    return comparison.with_tables(made, store), notes


def called(store: Store) -> dict[str, str]:
    """Data set as runs name it → as the commands did: `folder32@47a3460ef20f` → `folder32:tiles`.

    A name that commands gave to several contents stands for none of them.
    """
    found = {
        resolved: given
        for record in store.requests()
        for given, resolved in (record.get("data") or {}).items()
    }
    contents = Counter(found.values())
    return {resolved: given for resolved, given in found.items() if contents[given] == 1}


def names_of(words: Iterable[str], made: Iterable[Campaign]) -> list[str]:
    """The tables, figures, grids and comparisons that these words mean, in the campaigns `made` or the paper.

    `run` stands for the grids of `tfkd run`, `compare` for all comparisons, and `compare-photos` for those
    whose name begins so. UnknownNameError for what is none of these.
    """
    stored = list(dict.fromkeys(name for each in made for name in each.request.names))
    found: dict[str, None] = {}
    for word in words:
        named = [name for name in stored if word == name or (word[:7] == "compare" and name.startswith(word))]
        if not named:
            named = [word] if word in STORED else _of_paper(word, stored)
        found.update(dict.fromkeys(named))
    return list(found)


def _of_paper(word: str, stored: list[str]) -> list[str]:
    """The tables and figures of the paper that a word means; the error also knows the names in the store."""
    try:
        return [each.name for each in paper().expand([word])]
    except UnknownNameError as error:
        near = difflib.get_close_matches(word, stored, n=1)
        here = f" In the results folder: {', '.join(stored)}." if stored else ""
        hint = f'did you mean "{near[0]}"?' if near else error.hint
        raise UnknownNameError(error.what, expected=error.expected + here, hint=hint) from error


def names_or_run(word: str, made: Iterable[Campaign], run: Callable[[str], T]) -> list[str] | T:
    """What `names_of` finds for this word, else the run that it means; RequestError for what is neither."""
    try:
        return names_of([word], made)
    except UnknownNameError as unknown:
        try:
            return run(word)
        except RequestError as error:
            if error.expected:  # it means several runs
                raise
            raise RequestError(
                f'"{word}" is neither a table, a figure, a grid, a comparison nor a run here.',
                expected=f"{unknown.expected} Or a run's key or folder.",
                hint=unknown.hint or error.hint,
            ) from error


def runs_of(made: Iterable[Campaign], names: Collection[str] | None = None) -> dict[str, RunSpec]:
    """Key → run, teachers included, of what these campaigns ask for under these names; None: of all."""
    return {
        each.key: each
        for campaign in made
        for name, specs in campaign.request.wanted.items()
        if names is None or name in names
        for spec in specs
        for each in spec.lineage
    }


def check_name(campaign: Campaign) -> None:
    """RequestError where the name of a grid means something else, in the paper or in the results folder."""
    (name,) = campaign.request.names
    if name == grid.UNNAMED:
        return
    taken = name.startswith((*STORED, "errata", "claims")) or not re.fullmatch(
        r"[a-z0-9][a-z0-9_.-]{0,39}", name
    )
    with contextlib.suppress(UnknownNameError):
        taken = taken or bool(paper().expand([name]))
    if taken:
        raise RequestError(
            f'--name "{name}" cannot be the name of a grid.',
            expected="up to 40 small letters, digits, dots, dashes and underscores; no table or figure.",
            hint="--name tf-reg-on-photos",
        )
    for other in campaigns(campaign.store, campaign.execution)[0]:
        if name in other.request.names and requests.identity(other.request) != requests.identity(
            campaign.request
        ):
            raise RequestError(
                f'"{name}" is the name of another grid in {campaign.store.root}.',
                expected="the same command as before (with more seeds, if you like), or a new name.",
                hint=f"`tfkd show {name}` shows the other one.",
            )


def check_writable(
    folder: Path, what: str = "the results folder", option: str = "--results DIR (or TFKD_RESULTS)"
) -> None:
    """RequestError when a folder can be neither written nor made; makes nothing."""
    nearest = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise RequestError(
            f"cannot write {what} {folder}: {nearest} is not a folder you may write to.",
            expected="a folder you may write to.",
            hint=f"choose another with {option}.",
        )


def execution(
    options: StoreOptions,
    run: ExecutionOptions | None = None,
    folder: FolderOptions | None = None,
    *,
    sources: Mapping[str, str] | None = None,
) -> Execution:
    """How runs execute, from the options and the environment; `sources`: of a teacher from a file."""
    run, folder = run or ExecutionOptions(), folder or FolderOptions()
    if run.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise RequestError(
            "--tensorboard needs the package tensorboard, which is not installed.",
            expected="the package tensorboard, an optional extra of tfkd.",
            hint="pip install 'tfkd[tensorboard]'; metrics.jsonl and `tfkd report` hold the same curves.",
        )
    return Execution(
        cache=str(cache_folder(options.cache_dir)),
        data_dir=str(options.data_dir) if options.data_dir else None,
        processes=run.gpus,
        tf32=not run.no_tf32,
        verbose=run.verbose,
        sources=sources or {},
        **{name: getattr(run, name) for name in TAKEN_OVER},
        **vars(folder),
    )


def cache_folder(given: Path | None) -> Path:
    """`--cache-dir`, else the user's cache folder: XDG's on Linux, ~/Library/Caches on a Mac."""
    linux = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = given or Path("~/Library/Caches" if sys.platform == "darwin" else linux, "tfkd")
    return expanded(folder, hint="name a folder with --cache-dir DIR (or TFKD_CACHE).")


def bare_request(options: RunOptions, seeds: str, methods: Iterable[str] = ()) -> Request:
    """A request of nothing yet: seeds, scale, form and overrides, checked; `methods`: those it will name."""
    losses = [imported(each).loss for each in methods]
    return Request(
        seeds=grid.parse_seeds(seeds),
        scale=options.scale,  # type: ignore[arg-type]  # checked by Request
        form=options.form,  # type: ignore[arg-type]
        fast=options.fast,
        teacher_seeds=options.teacher_seeds,  # type: ignore[arg-type]
        overrides=overrides.parse(
            options.set_ or (), options.shorthands(), losses=losses, recipe=options.recipe
        ),
    )


def as_asked_now(
    name: str,
    store: Store,
    execution: Execution,
    *,
    how: RunOptions = RunOptions(),  # noqa: B008 - it is frozen
    seeds: str | None = None,
) -> Campaign:
    """A table or figure of the paper that no command in the store has asked for, as if one did now."""
    bare = bare_request(how, seeds or requests.usual_seeds([name]))
    return Campaign(requests.for_names([name], bare, execution=execution), store, execution)


def foreign_teacher(given: TeacherOptions, axes: Axes) -> tuple[ForeignTeacher | None, dict[str, str]]:
    """The teacher of `--teacher-checkpoint`, and its digest → its file; None when it was not given."""
    path = given.teacher_checkpoint
    if path is None:
        if given != TeacherOptions():
            raise RequestError(
                "--teacher-mean, --teacher-std, --teacher-size and --teacher-resize are for a teacher from a "
                "file, and none was given.",
                expected="--teacher-checkpoint FILE beside them.",
                hint="leave them out: teachers that tfkd trains see the images as their students do.",
            )
        return None, {}
    if axes.teacher_epochs or "de-kd" in axes.methods:
        raise RequestError(
            "a teacher from a file has no epochs to choose from.",
            expected="--method kd or re-kd with --teacher-checkpoint.",
            hint="leave out de-kd and --teacher-epoch.",
        )
    from tfkd_cli.reproduction import foreign

    mean, std = (
        text and schema.convert(text.split(","), tuple[float, ...], lax=True, of=option)
        for option, text in (("--teacher-mean", given.teacher_mean), ("--teacher-std", given.teacher_std))
    )
    teacher = foreign.identify(
        path, axes.teachers, mean=mean, std=std, size=given.teacher_size, resize=given.teacher_resize
    )
    return teacher, {teacher.digest: str(path.resolve())}


def split(names: str | None) -> list[str]:
    """`a,b` → [a, b]."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]
