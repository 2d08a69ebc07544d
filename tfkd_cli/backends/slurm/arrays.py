"""Runs → jobs → arrays, and which job waits for which."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfkd_cli.backends.slurm import client
from tfkd_cli.backends.slurm.site import LEAST_MINUTES
from tfkd_cli.plan import PlannedRun

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.queue import QueueState
    from tfkd_cli.backends.slurm.submissions import Array

Pack = tuple[PlannedRun, ...]
"""The runs of one job."""


def group_runs(
    runs: Sequence[PlannedRun],
    *,
    profile: Profile,
    unfinished: frozenset[str],
    size: int,
    by_length: bool = True,
) -> list[tuple[Pack, ...]]:
    """The jobs of each array: at most `size` that request the same resources, teachers first as in `runs`.

    An array has one time limit. `by_length`: each holds runs of like length, so that none asks for more than
    about twice what it needs. The runs of a job wait for the same parents (those in `unfinished`), so that it
    has one dependency.
    """
    alike: dict[tuple[str, frozenset[str]], list[PlannedRun]] = {}
    for run in runs:
        options = profile.submit_for(run.spec)
        length = 0 if "time" in options or not by_length else _time_class(run.seconds_left_alone)
        shape = repr((sorted(options.items()), length))
        parents = frozenset(parent.folder for parent in run.spec.parents) & unfinished
        alike.setdefault((shape, parents), []).append(run)
    packs: dict[str, list[Pack]] = {}
    for (shape, _), members in alike.items():
        step = profile.runs_per_job
        jobs = [tuple(members[start : start + step]) for start in range(0, len(members), step)]
        packs.setdefault(shape, []).extend(jobs)
    return [
        tuple(jobs[start : start + size]) for jobs in packs.values() for start in range(0, len(jobs), size)
    ]


def _time_class(seconds: float) -> int:
    """Runs of a class take at most twice as long as each other; all up to LEAST_MINUTES are alike."""
    return max(0, math.ceil(math.log2(max(1.0, seconds) / (60 * LEAST_MINUTES))))


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


def set_dependencies(
    array: Array, pending: Iterable[int], *, elements: Mapping[str, Element], done: frozenset[str]
) -> tuple[list[int], list[int]]:
    """Let these jobs of an array wait for their unfinished parents: indices set, and those that cannot be.

    `elements` are the active jobs by the folders of their runs, `done` the folders of finished runs. A job
    whose parent is in neither has nothing to wait for.
    """
    by_expression: dict[str, list[int]] = {}
    orphans = []
    for index in pending:
        parents = [folder for folder in array.after[index] if folder not in done]
        if all(folder in elements for folder in parents):
            text = dependency(elements[folder] for folder in parents)
            by_expression.setdefault(text, []).append(index)
        else:
            orphans.append(index)
    for text, indices in by_expression.items():
        client.ask(["scontrol", "update", f"jobid={array.named(indices)}", f"dependency={text}"])
    return [index for indices in by_expression.values() for index in indices], orphans


def release(
    array: Array, pending: Sequence[int], *, elements: dict[str, Element], done: frozenset[str]
) -> None:
    """Give each pending job of an array on hold its dependency, then let the array go.

    Jobs whose parent SLURM did not take are cancelled, and their runs leave `elements`.
    """
    _, orphans = set_dependencies(
        array, [index for index in pending if array.after[index]], elements=elements, done=done
    )
    if orphans:
        client.ask(["scancel", array.named(orphans)])
        for index in orphans:
            for folder in array.packs[index]:
                elements.pop(folder, None)
    if len(pending) > len(orphans):
        client.ask(["scontrol", "release", array.base_id])
    array.record_release()


def repoint(
    arrays: Sequence[Array],
    *,
    states: Mapping[str, QueueState],
    elements: Mapping[str, Element],
    done: frozenset[str],
    renewed: frozenset[str],
) -> int:
    """Let waiting students wait for the new job of a teacher that was sent again; how many were re-pointed.

    `renewed` are the folders of runs sent again. A student that waits for a failed teacher waits for ever
    otherwise: SLURM does not revive it when the teacher is requeued.
    """
    count = 0
    for array in arrays:
        waiting = [
            index
            for index in array.pending(states)
            if array.after[index]
            and (states[array.packs[index][0]].stuck or renewed.intersection(array.after[index]))
        ]
        count += len(set_dependencies(array, waiting, elements=elements, done=done)[0])
    return count
