"""Who waits for whom, in SLURM's words. Only unfinished runs that SLURM itself has may be waited for.

A dependency on an id that slurmctld has forgotten counts as satisfied (seen on 22.05), so it is never sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tfkd_cli.backends.slurm import client
from tfkd_cli.backends.slurm.groups import ranges

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.queue import QueueState
    from tfkd_cli.backends.slurm.records import Array


@dataclass(frozen=True)
class Element:
    """A job that will give a run's result: `12_3`, or `12`; packed with other runs or alone."""

    job_id: str
    packed: bool = False


def expression(parents: Iterable[Element], *, chain: str = "") -> str:
    """`afterok:12_0:12_3,afterany:13`; `chain` is an array that must have ended, however.

    A pack has ended when every member has, so its failure says nothing of one member: its children
    start after any end, and the worker itself looks for its teacher's result.
    """
    found = list(dict.fromkeys(parents))
    alone = [each.job_id for each in found if not each.packed]
    ended = [each.job_id for each in found if each.packed] + ([chain] if chain else [])
    parts = [":".join(["afterok", *alone])] if alone else []
    return ",".join([*parts, ":".join(["afterany", *ended])] if ended else parts)


def point(array: Array, wanted: Mapping[int, str]) -> int:
    """Set the dependency of each element in `wanted` (index → expression, "" for none); the number of calls.

    SlurmError where the site refuses it.
    """
    by_expression: dict[str, list[int]] = {}
    for index, text in wanted.items():
        by_expression.setdefault(text, []).append(index)
    for text, indices in by_expression.items():
        client.ask(["scontrol", "update", f"jobid={_elements(array, indices)}", f"dependency={text}"])
    return len(by_expression)


def _elements(array: Array, indices: Sequence[int]) -> str:
    """`12_3`, `12_[0-4,7]`, or `12` where the array is a single job."""
    if len(array.sent) == 1 and "_" not in array.sent[0]:
        return array.sent[0]
    base = array.sent[0].split("_")[0]
    inside = ranges(indices)
    return f"{base}_{inside}" if len(indices) == 1 else f"{base}_[{inside}]"


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
        for index, (job_id, pack, after) in enumerate(
            zip(array.sent, array.packs, array.after, strict=False)
        ):
            state = states.get(pack[0])
            if state is None or state.job_id != job_id or state.state != "PENDING" or not after:
                continue
            if not (state.stuck or renewed.intersection(after)):
                continue
            open_parents = [folder for folder in after if folder not in done]
            if all(folder in elements for folder in open_parents):
                wanted[index] = expression(elements[folder] for folder in open_parents)
        point(array, wanted)
        count += len(wanted)
    return count
