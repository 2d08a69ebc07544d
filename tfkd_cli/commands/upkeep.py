"""`tfkd clean`, `pack`, `doctor`: the results folder kept small, packed, and the machine looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from tfkd_cli import console
from tfkd_cli.commands import printing, session
from tfkd_cli.errors import Check
from tfkd_cli.options import ExecutionOptions, JsonOption, PlaceOptions, StoreOptions
from tfkd_cli.reproduction import health
from tfkd_cli.reproduction.campaign import with_specs
from tfkd_cli.spec import RunSpec, Teacher

MARKS = {"ok": "ok", "warn": "WARN", "fail": "FAIL"}


def clean(
    store: StoreOptions,
    output: JsonOption,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete; without it, only show.")] = False,
) -> int:
    """Show, or delete, what is safe to delete: snapshots, teacher logits and report files, never a result.

    Example: tfkd clean --yes
    """
    from tfkd_cli.report.staging import outdated
    from tfkd_cli.store import cleaning

    opened = session.open_existing(store, write=yes)
    made, notes = session.campaigns(opened, session.execution(store))
    for note in notes:
        console.say(f"Note: {note}")
    if notes:  # a request that cannot be read may need any of them
        console.say("Snapshots, cached teacher logits and report files are kept until it can be read.")
    states = opened.scan()
    open_states = [each for each in states.values() if each.status not in ("done", "todo")]
    begun = [spec for spec, _ in with_specs(opened, open_states)]  # whoever asked for them
    wanted = [spec for each in made for spec in each.request.specs]
    missing = [spec for each in made for spec in each.plan(states).unfinished]
    teachers = {spec.teacher.cache_prefix for spec in (*begun, *missing) if spec.teacher is not None}
    needed = None if notes else _needed_snapshots([*begun, *wanted])
    found = opened.cleanable(needed=needed, teachers=teachers)
    found = cleaning.inside([*found, *([] if notes else outdated(opened.root))], opened.root)
    if output.json:
        rows = [{"path": str(each.path), "bytes": each.bytes, "why": each.why} for each in found]
        console.print_json({"bytes": sum(each.bytes for each in found), "deleted": yes, "items": rows})
    else:
        for each in found:
            console.show(f"{console.size(each.bytes):>9}  {each.path.relative_to(opened.root)}: {each.why}")
    freed = cleaning.free(found, opened.root) if yes else sum(each.bytes for each in found)
    if not output.json and not found:
        print("There is nothing to delete.")
    elif not output.json:
        size = console.size(freed)
        print(f"Freed {size}." if yes else f"Would free {size}. Add --yes to delete.")
    return 0


def _needed_snapshots(runs: Iterable[RunSpec]) -> dict[str, set[str]]:
    """Key of a teacher → the files of its snapshots that teach some student among these."""
    needed: dict[str, set[str]] = {}
    for spec in runs:
        if isinstance(spec.teacher, Teacher) and isinstance(spec.teacher.checkpoint, int):
            needed.setdefault(spec.teacher.run.key, set()).add(spec.teacher.weights)
    return needed


def pack(
    store: StoreOptions,
    out: Annotated[Path, typer.Option("--out", help="The file to write, ending in .tar.gz.", metavar="FILE")],
    items: Annotated[
        list[str] | None,
        typer.Argument(help="Tables, figures and grids. [default: all runs]", metavar="ITEM..."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file even if it is no pack.")] = False,
) -> int:
    """Pack the records of runs, without weights, into one file that every reading command takes as --results.

    Example: tfkd pack table1 --out table1.tar.gz
    """
    opened = session.open_existing(store)
    keys = None
    if items:
        made, _ = session.campaigns(opened, session.execution(store))
        keys = list(session.runs_of(made, session.names_of(items, made)))
    if not (opened.scan() if keys is None else keys):
        raise printing.nothing_of(" ".join(items or ["run"]), opened.source, items or ["demo"])
    size = opened.pack(keys, out, force=force)
    console.show(f"{out}: {console.size(size)}. Read it with --results {out}")
    return 0


def doctor(
    store: StoreOptions,
    where: PlaceOptions,
    output: JsonOption,
) -> int:
    """Check the installation, and with --cluster a profile: each line is ok, WARN or FAIL, and what to do.

    Example: tfkd doctor --cluster slurm
    """
    checks = []
    for check in _checks(store, where):
        checks.append(check)
        if not output.json:
            todo = f"\n{'':6}→ {check.todo}" if check.todo else ""
            console.show(f"{MARKS[check.status]:5} {check.name}: {check.detail}{todo}")
    if output.json:
        console.print_json([asdict(check) for check in checks])
    return 1 if any(check.status == "fail" for check in checks) else 0


def _checks(store: StoreOptions, where: PlaceOptions) -> Iterable[Check]:
    execution = session.execution(store, ExecutionOptions(**vars(where)))
    yield from health.examine(execution, store.results, cluster=where.cluster != "local", say=console.say)
    if where.cluster != "local":
        from tfkd_cli.backends.slurm import doctor as cluster_doctor
        from tfkd_cli.backends.slurm import profile

        for check in cluster_doctor.doctor(profile.find(where.cluster)):
            yield replace(check, name=f"{where.cluster}: {check.name}")
