"""Is this profile going to work here? Each check says what it found and what to change."""

from __future__ import annotations

from collections.abc import Iterator

from tfkd_cli.backends.slurm import client, sbatch, site
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.backends.slurm.profile import Options, Profile, overlaid
from tfkd_cli.backends.slurm.site import Site
from tfkd_cli.errors import Check, RequestError


def doctor(profile: Profile) -> Iterator[Check]:
    """Check commands, partition and, with `sbatch --test-only`, each resource shape of a profile."""
    try:
        client.require()
    except RequestError as error:
        yield Check("commands", "fail", error.what, error.expected)
        return
    yield Check("commands", "ok", ", ".join(client.COMMANDS))
    try:
        here = site.read_site()
    except SlurmError as error:
        yield Check(
            "slurmctld", "fail", error.sentence, "SLURM is down, or SLURM_CONF names another cluster."
        )
        return
    version, name = here.config.get("SLURM_VERSION", ""), here.config.get("ClusterName", "?")
    yield Check("slurmctld", "ok", f"SLURM {version} on {name}")
    told: list[str] = []
    profile = profile.in_this_environment(told.append)
    yield from (Check("environment", "warn", text) for text in told)
    preemption = here.config.get("PreemptMode", "OFF")
    if "CANCEL" in preemption:
        detail = f"PreemptMode={preemption}: preempted runs wait for the next `tfkd reproduce`."
        yield Check("preemption", "warn", detail)
    partitions = "; ".join(map(_described, here.partitions))
    yield Check("partitions", "ok" if partitions else "fail", partitions or "sinfo shows none")
    yield _shape("[submit]", profile.submit, profile=profile, here=here)
    for each in profile.resources:
        label = " ".join(filter(None, ("[[resources]]", each.dataset, each.student)))
        yield _shape(label, overlaid(profile.submit, each.submit), profile=profile, here=here)


def _described(partition: site.Partition) -> str:
    minutes = partition.limit_minutes
    limit = f"{minutes / 60:g} h" if minutes else "no time limit"
    memory = f"{partition.memory_mb / 1000:g} GB"
    name = partition.name + " (the default)" * partition.default
    return f"{name}: {partition.gpus} GPUs, {partition.cpus} cores, {memory} a node, {limit}"


def _shape(label: str, options: Options, *, profile: Profile, here: Site) -> Check:
    """One request that the profile can make, judged by `sbatch --test-only`."""
    try:
        sbatch.judge(options, profile=profile, here=here)
    except (RequestError, sbatch.RefusedError) as error:
        return Check(label, "fail", error.what, error.expected or error.hint)
    filled = site.fill_in(options, here)
    shown = ", ".join(f"{option}={value}" for option, value in filled.items()) or "the defaults"
    if (processes := site.tasks(filled)) > 1:
        shown += f"; each of {processes} processes of a run holds its network and a copy of the teacher"
    return Check(label, "ok", f"accepted ({shown})")
