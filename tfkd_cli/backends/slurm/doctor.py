"""Is this profile going to work here? Each check says what it found and what to change."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfkd_cli.backends.slurm import client, sbatch, site
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.backends.slurm.profile import Options, Profile, overlaid
from tfkd_cli.backends.slurm.site import Site
from tfkd_cli.errors import RequestError


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
    try:
        client.require()
    except RequestError as error:
        yield Check("commands", "bad", error.what, error.expected)
        return
    yield Check("commands", "ok", ", ".join(client.COMMANDS))
    try:
        here = site.read_site()
    except SlurmError as error:
        yield Check("slurmctld", "bad", error.sentence, "SLURM is down, or SLURM_CONF names another cluster.")
        return
    version, name = here.config.get("SLURM_VERSION", ""), here.config.get("ClusterName", "?")
    yield Check("slurmctld", "ok", f"SLURM {version} on {name}")
    told: list[str] = []
    profile = profile.in_this_environment(told.append)
    yield from (Check("environment", "note", text) for text in told)
    yield from _config(here)
    yield _partition(profile, here)
    yield from _account(profile)
    yield _shape("[submit]", profile.submit, profile=profile, here=here)
    for each in profile.resources:
        label = " ".join(filter(None, ("[[resources]]", each.dataset, each.student)))
        yield _shape(label, overlaid(profile.submit, each.submit), profile=profile, here=here)


def _config(here: Site) -> Iterator[Check]:
    many = here.max_array_size
    yield Check("arrays", "ok" if many > 1 else "note", f"up to {many} jobs each (MaxArraySize)")
    if here.config.get("JobRequeue") == "0":
        yield Check(
            "requeue",
            "note",
            "JobRequeue=0: a run at its time limit may not come back by itself.",
            "if it does not, the same `tfkd reproduce` goes on from its last state.",
        )
    preemption = here.config.get("PreemptMode", "OFF")
    if "CANCEL" in preemption:
        detail = f"PreemptMode={preemption}: preempted runs wait for the next `tfkd reproduce`."
        yield Check("preemption", "note", detail)


def _partition(profile: Profile, here: Site) -> Check:
    name = profile.submit.get("partition")
    partition = here.partition(name)
    if partition is None:
        known = ", ".join(f"{each.name} ({_described(each)})" for each in here.partitions)
        what = f'no partition "{name}"' if name else "no default partition"
        return Check("partition", "bad", f"{what}; there are {known}", profile.line_of("partition"))
    return Check("partition", "ok", f"{partition.name}: {_described(partition)}")


def _described(partition: site.Partition) -> str:
    minutes = partition.limit_minutes
    limit = (
        "no time limit" if minutes is None else f"{minutes} min" if minutes < 120 else f"{minutes / 60:g} h"
    )
    node = partition.least
    return f"{node.gpus} GPUs, {node.cpus} cores, {node.memory_mb / 1000:g} GB a node, {limit}"


def _account(profile: Profile) -> Iterator[Check]:
    if not client.present("sacctmgr"):
        return
    fields = ["show", "assoc", f"user={getpass.getuser()}", "format=Account,MaxSubmitJobs"]
    try:
        text = client.ask(["sacctmgr", "-nP", *fields], seconds=20)
    except SlurmError:
        return  # no accounting, nothing to check
    rows = [line.split("|") for line in text.splitlines() if "|" in line]
    accounts = sorted({row[0] for row in rows if row[0]})
    asked = profile.submit.get("account")
    if asked and accounts and asked not in accounts:
        detail = f'"{asked}" is not one of yours: {", ".join(accounts)}'
        yield Check("account", "bad", detail, profile.line_of("account"))
    elif accounts:
        yield Check("account", "ok", asked or f"the site's default of {', '.join(accounts)}")
    if limits := sorted(int(row[1]) for row in rows if row[1].isdigit()):
        detail = f"{limits[0]} jobs: what is beyond stays in the plan for the next time."
        yield Check("submit limit", "note", detail)


def _shape(label: str, options: Options, *, profile: Profile, here: Site) -> Check:
    """One request that the profile can make, judged by `sbatch --test-only`."""
    try:
        sbatch.check_time(options, profile=profile, here=here)
    except RequestError as error:
        return Check(label, "bad", error.what, error.expected)
    filled = site.fill_in(options, here)
    given = sbatch.parameters(
        filled, setup=[], name="tfkd-doctor", minutes=site.time_limit(None, filled, here), at_once=1
    )
    try:
        said = client.run(["sbatch", "--test-only"], text=sbatch.script(given)).stderr
    except SlurmError as error:
        return Check(label, "bad", error.sentence, sbatch.line_about(error.sentence, profile))
    start = re.search(r"to start at (\S+)", said)
    shown = ", ".join(f"{option}={value}" for option, value in filled.items()) or "the defaults"
    if (processes := site.tasks(filled)) > 1:
        shown += f"; each of {processes} processes of a run holds its network and a copy of the teacher"
    return Check(label, "ok", f"accepted ({shown})" + (f", would start at {start[1]}" if start else ""))


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
        filled = site.fill_in({"partition": partition.name}, here)
        lines += [
            f"slurm_{option} = {value if isinstance(value, int) else json.dumps(_plain(value))}"
            for option, value in filled.items()
        ]
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
