"""The sbatch scripts a submission would send, in order, without SLURM and without writing anything."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from tfkd_cli.backends.slurm import client, dependencies, groups, scripts, site, staging
from tfkd_cli.backends.slurm.dependencies import Element
from tfkd_cli.backends.slurm.groups import Group
from tfkd_cli.backends.slurm.site import Site
from tfkd_cli.backends.slurm.submission import Lanes, longest, plan_groups

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.execution import Execution
    from tfkd_cli.spec import RunSpec
    from tfkd_cli.store import Store


def dry_run(
    specs: Sequence[RunSpec],
    *,
    store: Store,
    execution: Execution,
    profile: Profile,
    jobs: int | None = None,
    costs: Mapping[str, float] | None = None,
) -> list[str]:
    """One text per sbatch call. `<1>` stands for the id that the first call will give.

    What a profile leaves open is asked of the cluster where there is one.
    """
    here = _site()
    graph = plan_groups(specs, profile=profile, active={})
    on_hold = jobs is not None and any(group.parents for group in graph)
    planned = list(groups.split(groups.one_per_shape(graph) if on_hold else graph, here.max_array_size))
    lanes = Lanes.of(jobs, len(planned))
    elements = _elements(planned)
    code, python = store.code_path.absolute() / staging.name(), profile.submit.get("slurm_python")
    texts = []
    for number, group in enumerate(planned):
        waits = [] if on_hold else _parents([group.runs], elements)
        parameters = scripts.parameters(
            group,
            profile=profile,
            site=here,
            name=f"tfkd-<id>-{number + 1:04d}",
            code=code,
            dependency=dependencies.expression(waits, chain=lanes.link(number)),
            seconds=longest(group, costs or {}),
            cap=lanes.share(number),
            on_hold=on_hold,
        )
        folder = store.root.absolute() / "submissions" / "<id>" / f"array-{number + 1:04d}"
        text = scripts.script(parameters, folder=folder, elements=len(group.packs), python=python)
        about = f"sbatch call {number + 1} of {len(planned)}: {_described(group)}"
        texts.append(_headed(text, about) + (_updates(f"<{number + 1}>", group, elements) if on_hold else ""))
        lanes.follow(number, f"<{number + 1}>")
    return texts


def _headed(script: str, about: str) -> str:
    """The script, with what it is about below its first line."""
    return script.replace("\n", f"\n# {about}\n", 1)


def _elements(planned: Sequence[Group]) -> dict[str, Element]:
    """Folder of a run → its job, by the number of the sbatch call."""
    found: dict[str, Element] = {}
    for number, group in enumerate(planned, 1):
        for index, pack in enumerate(group.packs):
            job_id = f"<{number}>_{index}" if len(group.packs) > 1 else f"<{number}>"
            found.update((run.folder, Element(job_id, packed=len(pack) > 1)) for run in pack)
    return found


def _parents(packs: Iterable[Iterable[RunSpec]], elements: Mapping[str, Element]) -> list[Element]:
    folders = (parent.folder for run in chain.from_iterable(packs) for parent in run.parents)
    return [elements[folder] for folder in dict.fromkeys(folders) if folder in elements]


def _site() -> Site:
    if not client.present("sinfo"):
        return Site()
    with contextlib.suppress(client.SlurmError):
        return site.read_site()
    return Site()


def _described(group: Group) -> str:
    first = group.runs[0].folder
    return first if len(group.runs) == 1 else f"{len(group.runs)} runs, {first} …"


def _updates(base: str, group: Group, elements: Mapping[str, Element]) -> str:
    """The scontrol calls that follow a held array."""
    by_expression: dict[str, list[int]] = {}
    for index, pack in enumerate(group.packs):
        if parents := _parents([pack], elements):
            by_expression.setdefault(dependencies.expression(parents), []).append(index)
    calls = [
        f"# then: scontrol update jobid={base}_[{groups.ranges(indices)}] dependency={text}"
        for text, indices in by_expression.items()
    ]
    return "\n".join([*calls, f"# then: scontrol release {base}", ""])
