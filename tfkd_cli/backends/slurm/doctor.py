"""Is this profile going to work here? Each check says what it found and what to change."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tfkd_cli.backends.slurm import client, scripts, sending, site
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.backends.slurm.profile import Profile, sbatch_parameters
from tfkd_cli.backends.slurm.site import Site
from tfkd_cli.errors import RequestError, RunError

PROGRAMS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")


@dataclass(frozen=True)
class Check:
    """One thing looked at: fine, a remark, or something to change (`hint` says what)."""

    name: str
    status: Literal["ok", "note", "bad"]
    detail: str
    hint: str = ""


def doctor(profile: Profile) -> list[Check]:
    """Check commands, partition, account and, with `sbatch --test-only`, each resource shape of a profile."""
    return list(_checks(profile))


def _checks(profile: Profile) -> Iterator[Check]:
    missing = [each for each in PROGRAMS if not client.present(each)]
    if missing:
        yield Check(
            "commands", "bad", f"not on PATH: {', '.join(missing)}", "go to a login node of the cluster."
        )
        return
    yield Check("commands", "ok", ", ".join(PROGRAMS))
    try:
        here = site.read_site()
    except SlurmError as error:
        yield Check("slurmctld", "bad", error.sentence, "SLURM is down, or SLURM_CONF names another cluster.")
        return
    yield Check(
        "slurmctld",
        "ok",
        f"SLURM {here.config.get('SLURM_VERSION', '')} on {here.config.get('ClusterName', '?')}",
    )
    yield from _config(here)
    yield _partition(profile, here)
    yield from _account(profile)
    for label, submit in shapes(profile):
        yield _shape(label, submit, profile=profile, here=here)


def _config(here: Site) -> Iterator[Check]:
    yield Check(
        "arrays", "ok" if here.arrays else "note", f"up to {here.max_array_size} jobs each (MaxArraySize)"
    )
    if here.config.get("JobRequeue") == "0":
        yield Check(
            "requeue",
            "note",
            "JobRequeue=0: a run at its time limit may not come back by itself.",
            "if it does not, the same `tfkd reproduce` goes on from its last state.",
        )
    preemption = here.config.get("PreemptMode", "OFF")
    if "CANCEL" in preemption:
        yield Check(
            "preemption",
            "note",
            f"PreemptMode={preemption}: preempted runs wait for the next `tfkd reproduce`.",
        )
    if here.config.get("AccountingStorageType", "").endswith("none"):
        yield Check(
            "accounting",
            "note",
            "none: jobs that SLURM has forgotten are judged by the results folder alone.",
        )


def _partition(profile: Profile, here: Site) -> Check:
    name = profile.submit.get("slurm_partition")
    partition = here.partition(name)
    known = ", ".join(f"{each.name} ({_described(each)})" for each in here.partitions)
    if partition is None:
        what = f'no partition "{name}"' if name else "no default partition"
        return Check("partition", "bad", f"{what}; there are {known}", profile.line_of("slurm_partition"))
    return Check("partition", "ok", f"{partition.name}: {_described(partition)}")


def _described(partition: site.Partition) -> str:
    minutes = partition.limit_minutes
    limit = (
        "no time limit" if minutes is None else f"{minutes} min" if minutes < 120 else f"{minutes / 60:g} h"
    )
    return f"{partition.gpus} GPUs, {partition.cpus} cores, {partition.memory_mb / 1000:g} GB a node, {limit}"


def _account(profile: Profile) -> Iterator[Check]:
    if not client.present("sacctmgr"):
        return
    try:
        user = (
            os.environ.get("USER")
            or subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        )
        text = client.ask(
            ["sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=Account,MaxSubmitJobs"], seconds=20
        )
    except (RunError, OSError, subprocess.SubprocessError):
        return  # no accounting, nothing to check
    rows = [line.split("|") for line in text.splitlines() if "|" in line]
    accounts = sorted({row[0] for row in rows if row[0]})
    asked = profile.submit.get("slurm_account")
    if asked and accounts and asked not in accounts:
        yield Check(
            "account",
            "bad",
            f'"{asked}" is not one of yours: {", ".join(accounts)}',
            profile.line_of("slurm_account"),
        )
    elif accounts:
        yield Check("account", "ok", asked or f"the site's default of {', '.join(accounts)}")
    limits = sorted({int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()})
    if limits:
        yield Check(
            "submit limit", "note", f"{limits[0]} jobs: what is beyond stays in the plan for the next time."
        )


def shapes(profile: Profile) -> list[tuple[str, dict[str, Any]]]:
    """The requests a profile can make: `[submit]`, and each `[[resources]]` on top of it."""
    found = [("[submit]", dict(profile.submit))]
    for each in profile.resources:
        name = " ".join(filter(None, (each.dataset, each.student)))
        found.append((f"[[resources]] {name}", {**profile.submit, **each.submit}))
    return found


def _shape(label: str, submit: dict[str, Any], *, profile: Profile, here: Site) -> Check:
    filled = site.fill_in(submit, here)
    parameters = {**sbatch_parameters(filled), "time": site.time_limit(None, filled, here)}
    parameters["wckey"] = parameters.get("wckey")
    try:
        script = scripts.script(parameters, folder=Path("/tmp"), elements=1)
        told = _test_only(script)
    except SlurmError as error:
        key = sending.key_about(error.sentence)
        return Check(
            label, "bad", error.sentence, profile.line_of(key) if key else f"{profile.path}, [submit]"
        )
    start = re.search(r"to start at (\S+)", told)
    asked = ", ".join(f"{key}={value}" for key, value in filled.items())
    return Check(
        label,
        "ok",
        f"accepted ({asked or 'the defaults'})" + (f", would start at {start[1]}" if start else ""),
    )


def _test_only(script: str) -> str:
    done = subprocess.run(
        ["sbatch", "--test-only"],
        input=script,
        capture_output=True,
        text=True,
        timeout=client.TIMEOUT_SECONDS,
        check=False,
        env=client.outside_environment(),
    )
    if done.returncode != 0:
        raise SlurmError("sbatch", client.sentence_of(done.stderr) or f"exit code {done.returncode}")
    return done.stderr


def starter(name: str, path: Path) -> Path:
    """Write a profile made from what this cluster says; RequestError when `path` exists."""
    here = site.read_site()
    partition = here.partition(None) or (here.partitions[0] if here.partitions else None)
    lines = [
        f"# A starting point for {here.config.get('ClusterName', 'this cluster')};",
        f"# `tfkd doctor --cluster {path}` checks it.",
        "",
        "runs_per_job = 1",
        'setup = [] # e.g. "module load cuda"',
        "",
        "[profile]",
        f'description = "{_plain(name)}"',
        "",
        "[submit]",
        *(f"# partition {_plain(each.name)}: {_described(each)}" for each in here.partitions),
    ]
    if partition is not None:
        filled = site.fill_in({"slurm_partition": partition.name}, here)
        lines += [f"{key} = {_toml(value)}" for key, value in filled.items()]
    lines += [
        '# slurm_account = "…"',
        "# timeout_min = 240 # left out: 1.5 × the estimate, at most the partition's limit",
    ]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
    except FileExistsError:
        raise RequestError(f"{path} exists.", hint="choose another name, or delete it first.") from None
    return path


def _plain(text: str) -> str:
    return re.sub(r'[\\"\x00-\x1f]', " ", text)


def _toml(value: Any) -> str:
    return str(value) if isinstance(value, int) else f'"{_plain(str(value))}"'
