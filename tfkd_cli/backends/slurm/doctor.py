"""Is this profile going to work here? Each check says what it found and what to change."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
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
    """Check commands, partition and, with `sbatch --test-only`, each resource shape of a profile."""
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
    yield _shape("[submit]", profile.submit, profile=profile, here=here)
    for each in profile.resources:
        label = " ".join(filter(None, ("[[resources]]", each.dataset, each.student)))
        yield _shape(label, overlaid(profile.submit, each.submit), profile=profile, here=here)


def _config(here: Site) -> Iterator[Check]:
    many = here.max_array_size
    yield Check("arrays", "ok" if many > 1 else "note", f"up to {many} jobs each (MaxArraySize)")
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


def _shape(label: str, options: Options, *, profile: Profile, here: Site) -> Check:
    """One request that the profile can make, judged by `sbatch --test-only`."""
    try:
        said = sbatch.judge(options, profile=profile, here=here)
    except (RequestError, sbatch.RefusedError) as error:
        return Check(label, "bad", error.what, error.expected or error.hint)
    filled = site.fill_in(options, here)
    start = re.search(r"to start at (\S+)", said)
    shown = ", ".join(f"{option}={value}" for option, value in filled.items()) or "the defaults"
    if (processes := site.tasks(filled)) > 1:
        shown += f"; each of {processes} processes of a run holds its network and a copy of the teacher"
    return Check(label, "ok", f"accepted ({shown})" + (f", would start at {start[1]}" if start else ""))
