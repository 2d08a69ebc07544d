"""Taking runs out of SLURM's queue. What they have trained stays; the worker saves and does not come back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tfkd_cli.backends.slurm import client, queue, submissions

if TYPE_CHECKING:
    from tfkd_cli.store import Store

IDS_PER_CALL = 100


def cancel(store: Store, keys: Iterable[str]) -> int:
    """Cancel the waiting and running jobs of these runs (keys, or their first 12 digits); the number of jobs.

    A job that holds other runs too (`runs_per_job`) goes as a whole. SlurmError when SLURM does not answer.
    """
    short = {key[:12] for key in keys}
    arrays = [each for each in submissions.known_arrays(store) if each.ids]
    states = queue.look(store, arrays, queue.ask_jobs()) if arrays else {}
    wanted: list[str] = []
    count = 0
    for array in arrays:
        indices = [
            index
            for index, job_id, pack, _ in array.jobs()
            if any(folder[-12:] in short and states[folder].active for folder in pack)
            and states[pack[0]].job_id == job_id
        ]
        count += len(indices)
        if indices:
            wanted.append(array.named(indices))
    for start in range(0, len(wanted), IDS_PER_CALL):
        client.ask(["scancel", *wanted[start : start + IDS_PER_CALL]])
    queue.forget(store)
    return count
