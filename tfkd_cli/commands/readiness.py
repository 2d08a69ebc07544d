"""Before runs start: the device is checked, data sets and networks are made ready."""

from __future__ import annotations

import multiprocessing
import os
import platform
import shutil
import sys
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection

from tfkd_cli import console, data, models
from tfkd_cli.backends import processes
from tfkd_cli.commands import session
from tfkd_cli.data import DataSet, ResolvedData
from tfkd_cli.errors import RequestError, TfkdError
from tfkd_cli.options import LaunchOptions
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import ForeignTeacher, RunSpec
from tfkd_cli.training import provenance


def device_kind(device: str) -> str:
    """`cpu`, `cuda` or `mps` without importing torch; `auto` looks for a driver, not for a free GPU."""
    if device != "auto":
        return device.partition(":")[0]
    if os.path.exists("/proc/driver/nvidia/version") or shutil.which("nvidia-smi"):  # noqa: PTH110
        return "cuda"
    return "mps" if platform.system() == "Darwin" and platform.machine() == "arm64" else "cpu"


def check_device(device: str, *, gpus: int = 1) -> None:
    """RequestError when the device that was asked for, or so many of them, are not on this machine."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise RequestError(
            f"torchrun has started this command {os.environ.get('WORLD_SIZE')} times.",
            expected="one command, which starts the processes of each run itself.",
            hint="without torchrun: tfkd run … --gpus 2.",
        )
    kind, _, number = device.partition(":")
    kind = device_kind("auto") if kind == "auto" and gpus > 1 else kind
    if kind in ("auto", "cpu"):
        return
    there = provenance.device_count(kind)
    if gpus > 1 and (number or gpus > there):
        raise RequestError(
            f"--gpus {gpus} asks for more GPUs than there are: {1 if number else there}.",
            expected="a GPU for each process of a run.",
            hint="--device cpu trains in as many processes on the processor; --cluster on other machines.",
        )
    if int(number or 0) >= there:
        cause = f": {provenance.why_no_gpu()}" if kind == "cuda" and not there else ""
        raise RequestError(
            f'the device "{device}" is not on this machine: torch sees {there} of its kind{cause}.',
            expected="auto, cpu, cuda, cuda:1 or mps.",
            hint="--device auto takes what there is; --cluster sends the runs to other machines.",
        )


def check_place(where: LaunchOptions) -> None:
    """RequestError, before anything has started, when there is no such device, or no SLURM, here."""
    if where.cluster == "local":
        return check_device(where.device, gpus=where.gpus or 1)
    from tfkd_cli.backends.slurm import client

    return client.require()


def unready(request: Request, runs: Sequence[RunSpec]) -> list[ResolvedData]:
    """The data sets of these runs that are not decoded yet."""
    used = {spec.dataset for spec in runs}
    return [each for each in request.data.values() if each.name in used and not each.ready]


def make_data_ready(
    campaign: Campaign, runs: Sequence[RunSpec], where: LaunchOptions, *, before_plan: bool = False
) -> None:
    """Decode, and fetch where that is accepted, what these runs need; what is decoded already is checked.

    RequestError before anything has started. `before_plan`: what is found is not said, since the plan that
    follows does.
    """
    from tfkd_cli import progress

    used = {spec.dataset for spec in runs}
    for each in (found for found in campaign.request.data.values() if found.name in used):
        fetch = not each.available and each.download is not None and _accepts(each.download, where)
        made = data.prepare(
            each.name,
            execution=campaign.execution,
            source=None,
            allow_download=fetch,
            progress=progress.steps(),
        )
        if made.name != each.name:
            raise RequestError(
                f"the data set {each.name} turned out to be {made.name}.",
                expected="the content that the plan was made for.",
                hint="give the same command again: it now plans with what is there.",
            )
        check_corrupt(made.facts, [spec for spec in runs if spec.dataset == made.name])
        for note in made.facts.notes:
            if not before_plan and note not in each.facts.notes:  # those were shown with the plan
                console.say(f"{made.facts.called}: {note}")


def _accepts(what: str, where: LaunchOptions) -> bool:
    """Whether to fetch: `--yes`, or asked on a terminal; a script without `--yes` never fetches."""
    if where.yes or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return where.yes
    import typer

    return typer.confirm(f"Fetch {what} now?", default=False, err=True)


def check_corrupt(facts: DataSet, runs: Sequence[RunSpec]) -> None:
    """RequestError where files could not be decoded, and these runs do not leave them out by their recipe."""
    if facts.corrupt and any(spec.recipe.corrupt == "fail" for spec in runs):
        named = ", ".join(map(repr, facts.corrupt[:5])) + ", …" * (len(facts.corrupt) > 5)
        raise RequestError(
            f"{facts.name} has image files that cannot be read: {named}.",
            expected="files that are whole, or runs without them.",
            hint="replace them; or --set data.corrupt=skip leaves them out, which each run records.",
        )


def make_networks_ready(campaign: Campaign, runs: Sequence[RunSpec], where: LaunchOptions) -> None:
    """Build each network of another library once, before anything is trained: what fails, fails once.

    Pretrained weights that are not here are fetched where that is accepted, else a RequestError. A dry run
    fetches nothing, and builds neither networks that wait for their weights nor those of the paper's tables.
    """
    facts = campaign.facts()
    foreign = {spec.teacher: spec.dataset for spec in runs if isinstance(spec.teacher, ForeignTeacher)}
    for name in [teacher.network for teacher in foreign if teacher.published]:
        words = models.published_to_fetch(name)
        hint = "--set teacher.weights=trained trains the teachers here."
        if words is not None and _fetches(words, name, where, hint=hint):
            from tfkd_cli.models import borrowed  # with torch

            borrowed.fetch_published(name)
    used: list[tuple[str, str, int | None]] = [(spec.student, spec.dataset, None) for spec in runs]
    used += [(each.network, dataset, each.size or each.resize) for each, dataset in foreign.items()]
    for name, dataset, own_size in dict.fromkeys(used):
        known = ":" not in name or (where.dry_run and name in models.PUBLISHED_NETWORKS)
        if known or dataset not in facts:
            continue
        from tfkd_cli.models import borrowed

        words = borrowed.weights_to_fetch(name)
        hint = "without `:pretrained` the network is trained from scratch."
        if words is None:
            console.say(f"Trying {name} …")
        elif not _fetches(words, name, where, hint=hint):
            continue
        build = _build_apart if name.startswith("python:") else models.build
        shape = facts[dataset]
        build(name, classes=shape.classes, channels=shape.channels, size=own_size or shape.size)


def _fetches(words: str, name: str, where: LaunchOptions, *, hint: str) -> bool:
    """Whether weights are to be fetched: not in a dry run; RequestError where that is not accepted."""
    if where.dry_run:
        console.say(f"{name}: its pretrained weights are not here; would fetch {words}.")
    elif not _accepts(words, where):
        raise RequestError(
            f'the pretrained weights of "{name}" are not on this machine.',
            expected=f"{words}.",
            hint=f"--yes fetches them; {hint}",
        )
    else:
        console.say(f"Fetching {words} …")
    return not where.dry_run


def show_foreign_teacher(campaign: Campaign, runs: Sequence[RunSpec]) -> None:
    """How the teacher from a file does on each data set of these runs; RequestError when it is no teacher."""
    from tfkd_cli.reproduction import foreign

    for dataset, teacher in dict.fromkeys((spec.dataset, spec.teacher) for spec in runs):
        if isinstance(teacher, ForeignTeacher) and not teacher.published:
            console.say("Evaluating the teacher from the file …")
            console.say(foreign.judge(teacher, dataset=dataset, execution=campaign.execution))


def check_what_runs_need(campaign: Campaign, runs: Sequence[RunSpec], where: LaunchOptions) -> None:
    """What these runs would find in their first seconds, for a dry run: nothing is written or fetched.

    RequestError for what would stop them. A device that is not here is said: it may be elsewhere.
    """
    missing = unready(campaign.request, runs)
    if missing:
        cache = campaign.execution.cache_path
        session.check_writable(cache, "the cache folder", "--cache-dir DIR (or TFKD_CACHE)")
    for each in campaign.request.data.values():
        used = [spec for spec in runs if spec.dataset == each.name]
        check_corrupt(each.facts, used)
        if used and each.ready:
            data.check_files(each.name, execution=campaign.execution)
    make_networks_ready(campaign, runs, where)
    decoded = {each.name for each in campaign.request.data.values() if each.ready}
    show_foreign_teacher(campaign, [spec for spec in runs if spec.dataset in decoded])
    if where.cluster == "local":
        try:
            check_device(where.device, gpus=where.gpus or 1)
        except RequestError as error:
            return console.say(f"Warning: {error.what}")
    if runs and all(each.available for each in missing):
        console.say("Checked: what these runs need is here. Nothing was trained.")
    return None


def _build_apart(name: str, *, classes: int, channels: int, size: int) -> None:
    """Build a network in a process of its own, which the user's code may end (os._exit) without harm here."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    try:
        process = processes.start(processes.make(_build, sender, name, classes, channels, size))
        sender.close()
        try:
            error = receiver.recv()
        finally:
            process.kill()
    except EOFError:
        raise RequestError(
            f'"{name}" ended the process that built it.',
            expected="code that returns a network, or raises an exception.",
            hint="look for os._exit in its module, and for a lack of memory.",
        ) from None
    if error is not None:
        raise error


def _build(sender: Connection, name: str, classes: int, channels: int, size: int) -> None:
    from tfkd_cli.training import preload

    error: TfkdError | None = preload.failure
    try:
        if error is None:
            models.build(name, classes=classes, channels=channels, size=size)
    except TfkdError as raised:
        raised.add_note(traceback.format_exc())  # for --debug: the traceback itself stays here
        error = raised
    except KeyboardInterrupt:  # raised by the network's own code
        return
    sender.send(error)
