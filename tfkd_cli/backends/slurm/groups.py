"""Runs → jobs → arrays. Pure: what is unfinished and what SLURM already has come in as values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfkd_cli.spec import RunSpec

Pack = tuple[RunSpec, ...]
"""The runs of one job."""

Shape = tuple[tuple[str, Any], ...]
"""What a job asks of SLURM, as sorted (key, value) pairs that can be compared."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Jobs that ask for the same and wait for the same: one array."""

    shape: Shape
    packs: tuple[Pack, ...]
    parents: frozenset[str]  # keys of unfinished runs

    @property
    def runs(self) -> tuple[RunSpec, ...]:
        """All its runs, in order."""
        return tuple(run for pack in self.packs for run in pack)


def shape_of(submit: Mapping[str, Any]) -> Shape:
    """Lists and tables as tuples, so that two equal requests compare equal."""
    return tuple(sorted((key, _frozen(value)) for key, value in submit.items()))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return ("table", *shape_of(value))
    return ("list", *map(_frozen, value)) if isinstance(value, list | tuple) else value


def group_runs(
    specs: Sequence[RunSpec],
    *,
    shape: Callable[[RunSpec], Shape],
    waiting_for: Callable[[RunSpec], frozenset[str]],
    runs_per_job: int,
) -> list[Group]:
    """Groups by (resources, unfinished parents), in an order in which parents come first.

    `specs` are in topological order; runs with the same parents have the same depth, so a group never
    depends on a later one.
    """
    members: dict[tuple[Shape, frozenset[str]], list[RunSpec]] = {}
    for spec in specs:
        members.setdefault((shape(spec), waiting_for(spec)), []).append(spec)
    groups = [
        Group(shape=shape_, packs=tuple(_packs(runs, runs_per_job)), parents=parents)
        for (shape_, parents), runs in members.items()
    ]
    return _parents_first(groups)


def _packs(runs: Sequence[RunSpec], size: int) -> Iterator[Pack]:
    for start in range(0, len(runs), size):
        yield tuple(runs[start : start + size])


def _parents_first(groups: Sequence[Group]) -> list[Group]:
    depth: dict[str, int] = {}
    level: dict[int, list[Group]] = {}
    waiting = list(groups)
    members = {run.key for group in groups for run in group.runs}
    while waiting:
        later = []
        for group in waiting:
            if all(parent in depth or parent not in members for parent in group.parents):
                mine = 1 + max((depth.get(parent, -1) for parent in group.parents), default=-1)
                level.setdefault(mine, []).append(group)
                depth.update((run.key, mine) for run in group.runs)
            else:
                later.append(group)
        waiting = later
    return [group for mine in sorted(level) for group in level[mine]]


def split(groups: Sequence[Group], size: int) -> Iterator[Group]:
    """The same groups, none with more than `size` jobs."""
    for group in groups:
        for start in range(0, len(group.packs), size):
            yield Group(shape=group.shape, packs=group.packs[start : start + size], parents=group.parents)


def one_per_shape(groups: Sequence[Group]) -> list[Group]:
    """For a cap on runs at once: all jobs of one shape in one array, parents first."""
    merged: dict[Shape, list[Pack]] = {}
    for group in groups:
        merged.setdefault(group.shape, []).extend(group.packs)
    return [Group(shape=shape, packs=tuple(packs), parents=frozenset()) for shape, packs in merged.items()]


def ranges(indices: Sequence[int]) -> str:
    """`[0, 1, 2, 5]` → `0-2,5`, as SLURM writes indices."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and index == parts[-1][1] + 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in parts)
