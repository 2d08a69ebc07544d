"""Runs → jobs → arrays, and which job waits for which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfkd_cli.backends.slurm import client
from tfkd_cli.spec import RunSpec

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.queue import QueueState
    from tfkd_cli.backends.slurm.records import Array

Pack = tuple[RunSpec, ...]
"""The runs of one job."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Jobs that request the same resources and wait for the same runs: one array."""

    options: Mapping[str, Any]  # of sbatch
    packs: tuple[Pack, ...]
    parents: frozenset[str] = frozenset()  # folders of unfinished runs

    @property
    def runs(self) -> tuple[RunSpec, ...]:
        """All its runs, in order."""
        return tuple(run for pack in self.packs for run in pack)


def group_runs(specs: Sequence[RunSpec], *, profile: Profile, unfinished: frozenset[str]) -> list[Group]:
    """Groups by (resources, parents in `unfinished`), such that a group never waits for a later one.

    `specs` are in topological order. Runs with the same parents have the same depth, so ordering groups by
    depth puts parents first.
    """
    depth: dict[str, int] = {}
    members: dict[tuple[int, str, frozenset[str]], list[RunSpec]] = {}
    for spec in specs:
        parents = frozenset(parent.folder for parent in spec.parents) & unfinished
        depth[spec.folder] = 1 + max((depth.get(parent, -1) for parent in parents), default=-1)
        shape = repr(sorted(profile.submit_for(spec).items()))
        members.setdefault((depth[spec.folder], shape, parents), []).append(spec)
    size = profile.runs_per_job
    return [
        Group(
            options=profile.submit_for(runs[0]),
            packs=tuple(tuple(runs[start : start + size]) for start in range(0, len(runs), size)),
            parents=parents,
        )
        for (_, _, parents), runs in sorted(members.items(), key=lambda item: item[0][0])
    ]


def split(groups: Sequence[Group], size: int) -> Iterator[Group]:
    """The same groups, none with more than `size` jobs."""
    for group in groups:
        for start in range(0, len(group.packs), size):
            packs = group.packs[start : start + size]
            yield Group(options=group.options, packs=packs, parents=group.parents)


def one_per_shape(groups: Sequence[Group]) -> list[Group]:
    """For a limit on runs at once: all jobs with the same resources in one array, parents first."""
    merged: dict[str, list[Group]] = {}
    for group in groups:
        merged.setdefault(repr(sorted(group.options.items())), []).append(group)
    return [
        Group(options=each[0].options, packs=tuple(pack for group in each for pack in group.packs))
        for each in merged.values()
    ]


def ranges(indices: Iterable[int]) -> str:
    """`[0, 1, 2, 5]` → `0-2,5`, as SLURM writes indices."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)


@dataclass(frozen=True)
class Element:
    """A job that will give a run's result: `12_3`, or `12`; packed with other runs or alone."""

    job_id: str
    packed: bool = False


def dependency(parents: Iterable[Element]) -> str:
    """`afterok:12_0:12_3,afterany:13`, in SLURM's words. Only jobs that SLURM has may be named.

    A dependency on an id that slurmctld has forgotten counts as satisfied (seen on 22.05). A pack has ended
    when every member has, so its failure says nothing of one member: its children start after any end, and
    the worker itself looks for its teacher's result.
    """
    found = list(dict.fromkeys(parents))
    alone = [each.job_id for each in found if not each.packed]
    packed = [each.job_id for each in found if each.packed]
    named = (("afterok", alone), ("afterany", packed))
    return ",".join(":".join([kind, *ids]) for kind, ids in named if ids)


def release(array: Array, *, elements: Mapping[str, Element], done: frozenset[str]) -> None:
    """Give each element of a held array its own dependency, then let the array go.

    SlurmError where the site refuses dependencies per element.
    """
    wanted = {}
    for index, after in enumerate(array.after):
        parents = [elements[folder] for folder in after if folder not in done and folder in elements]
        if parents:
            wanted[index] = dependency(parents)
    _update(array, wanted)
    client.ask(["scontrol", "release", array.base_id])
    array.mark_released()


def release_forgotten(
    arrays: Sequence[Array],
    *,
    states: Mapping[str, QueueState],
    elements: Mapping[str, Element],
    done: frozenset[str],
) -> None:
    """A sender that died between sbatch and release left an array on hold: finish its work."""
    for array in arrays:
        if array.ids and not array.released:
            if any(states[pack[0]].state == "PENDING" for pack in array.packs if pack[0] in states):
                release(array, elements=elements, done=done)
            array.mark_released()


def repoint(
    arrays: Sequence[Array],
    *,
    states: Mapping[str, QueueState],
    elements: Mapping[str, Element],
    done: frozenset[str],
    renewed: frozenset[str],
) -> int:
    """Let waiting students wait for the new job of a teacher that was sent again; how many were re-pointed.

    `elements` are the active jobs, `done` and `renewed` folders of runs. A student that waits for a failed
    teacher waits for ever otherwise: SLURM does not revive it when the teacher is requeued.
    """
    count = 0
    for array in arrays:
        wanted = {}
        for index, job_id, pack, after in array.jobs():
            state = states.get(pack[0])
            if state is None or state.job_id != job_id or state.state != "PENDING" or not after:
                continue
            if not (state.stuck or renewed.intersection(after)):
                continue
            unfinished = [folder for folder in after if folder not in done]
            if all(folder in elements for folder in unfinished):
                wanted[index] = dependency(elements[folder] for folder in unfinished)
        _update(array, wanted)
        count += len(wanted)
    return count


def _update(array: Array, wanted: Mapping[int, str]) -> None:
    """Set the dependency of each element in `wanted` (index → expression, "" for none)."""
    by_expression: dict[str, list[int]] = {}
    for index, text in wanted.items():
        by_expression.setdefault(text, []).append(index)
    for text, indices in by_expression.items():
        client.ask(["scontrol", "update", f"jobid={array.named(indices)}", f"dependency={text}"])
