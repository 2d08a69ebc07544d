"""Arrays on hold: one array for all, with a true cap on runs at once and a dependency for each element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfkd_cli.backends.slurm import client, dependencies
from tfkd_cli.backends.slurm.dependencies import Element

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.queue import QueueState
    from tfkd_cli.backends.slurm.records import Array


def release(array: Array, *, elements: Mapping[str, Element], done: frozenset[str], link: str = "") -> None:
    """Give each element its own dependency, then let the array go; `link` is an array that must end before.

    SlurmError where the site refuses dependencies per element.
    """
    wanted = {}
    for index, after in enumerate(array.after):
        parents = [elements[folder] for folder in after if folder not in done and folder in elements]
        if parents:
            wanted[index] = dependencies.expression(parents, chain=link)
    dependencies.point(array, wanted)
    client.ask(["scontrol", "release", array.sent[0].split("_")[0]])
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
        if array.sent and not array.released:
            if any(states[pack[0]].state == "PENDING" for pack in array.packs if pack[0] in states):
                release(array, elements=elements, done=done)
            array.mark_released()
