"""The runs of a plan → SLURM, each once, whatever crashed before; and out of its queue again."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli.backends.slurm import arrays, client, queue, sbatch, site
from tfkd_cli.backends.slurm.sending import Submission, Tell
from tfkd_cli.errors import RequestError
from tfkd_cli.locks import held
from tfkd_cli.store import files

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.arrays import Array
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.execution import Execution
    from tfkd_cli.plan import PlannedRun
    from tfkd_cli.spec import RunSpec
    from tfkd_cli.store import Store


def submit(
    runs: Sequence[PlannedRun],
    *,
    store: Store,
    execution: Execution,
    profile: Profile,
    jobs: int | None = None,
    on_event: Tell = lambda text: None,
) -> Submission:
    """Submit those of the planned `runs` (teachers first) that SLURM does not have yet; returns at once.

    `jobs` limits the runs at once. RequestError where there is no SLURM, SlurmError when slurmctld does not
    answer, sbatch.RefusedError with SLURM's own sentence.
    """
    client.require()
    _check_path(store.root)
    profile = profile.in_this_environment(on_event)
    sent = Submission(store=store, profile=profile, execution=execution, limit=jobs, tell=on_event)
    with _one_at_a_time(store.root / "submissions", tell=on_event):
        sent.site = site.read_site()
        known = arrays.known_arrays(store)
        states = _look(store, known, tell=on_event)
        active = {folder: state.job_id for folder, state in states.items() if state.active}
        for array in known:
            if array.job and array.on_hold:  # its sender died before it could release it
                arrays.release(array, array.pending(states), jobs=active, store=store)
        sent.queued = {run.spec.folder: active[run.spec.folder] for run in runs if run.spec.folder in active}
        new, sent.elsewhere = _to_send(runs, active, store)
        if jobs is not None and active:
            on_event(
                f"{len(active)} runs submitted before are in the queue; --jobs {jobs} does not count them."
            )
        sent.jobs = {**active}
        if new:
            sent.send(new)
        renewed = sent.jobs.keys() - active.keys()
        sent.repointed = arrays.repoint(known, states=states, jobs=sent.jobs, renewed=renewed, store=store)
        queue.forget(store)
    return sent


def cancel(store: Store, folders: Iterable[str]) -> int:
    """Cancel the waiting and running jobs of the runs in these folders; the number of jobs.

    What they have trained stays: the worker saves and does not come back. A job that holds other runs too
    (`runs_per_job`) goes as a whole. SlurmError when SLURM does not answer.
    """
    known = [each for each in arrays.known_arrays(store) if each.job]
    states = queue.look(store, known, queue.ask_jobs()) if known else {}
    jobs = {states[folder].job_id for folder in folders if folder in states and states[folder].active}
    elements = [(array, [i for i, job_id in enumerate(array.ids) if job_id in jobs]) for array in known]
    wanted = [array.named(indices) for array, indices in elements if indices]
    if wanted:
        client.ask(["scancel", *wanted])
    queue.forget(store)
    return len(jobs)


def _check_path(root: Path) -> None:
    if "%" in str(root) or any(ord(each) < 32 for each in str(root)):
        raise RequestError(
            f"the results folder is {root}.",
            expected="a path without % and control characters: sbatch replaces %j, %A and %a in it.",
            hint="--results another/folder.",
        )


@contextlib.contextmanager
def _one_at_a_time(submissions: Path, *, tell: Tell) -> Iterator[None]:
    """Of two terminals that ask for the same, the second sees what the first has submitted."""
    files.make_folder(submissions)

    @functools.cache  # said once
    def while_waiting() -> None:
        tell("another tfkd is submitting; waiting for it (Ctrl-C ends this; nothing is submitted twice).")

    with held(submissions / "lock", while_waiting=while_waiting) as locked:
        if not locked:
            tell("this file system has no locks: do not submit from two terminals at the same time.")
        yield


def _to_send(
    runs: Sequence[PlannedRun], active: Mapping[str, str], store: Store
) -> tuple[list[PlannedRun], list[RunSpec]]:
    """The runs that SLURM does not have, and those that wait for a process outside SLURM.

    The heartbeat of a job that SLURM does not know any more is not believed. A run that was finished since it
    was planned, by a job that has left the queue, is in neither.
    """
    new: list[PlannedRun] = []
    elsewhere: list[RunSpec] = []
    for run in runs:  # teachers first
        if run.spec.folder in active:
            continue
        if run.state.status != "done" and store.folder(run.spec.folder).state().status == "done":
            continue
        outside = run.state.status == "running" and run.state.slurm is None
        if outside or any(parent in elsewhere for parent in run.spec.parents):
            elsewhere.append(run.spec)
        else:
            new.append(run)
    return new, elsewhere


def _look(store: Store, known: Sequence[Array], *, tell: Tell) -> queue.Queue:
    """Look at the queue, and take over arrays that SLURM has and whose sender died before it wrote that down.

    One that reached SLURM so late that its runs were sent again meanwhile is cancelled.
    """
    if not all(array.job for array in known):
        sbatch.wait_in_flight(store.root / "submissions")
    jobs = queue.ask_jobs() if known else {}
    at_work = {job_id for job_id, (_, state) in jobs.items() if state.active}
    by_name = {name: job_id for job_id, (name, _) in jobs.items()}
    sent = {
        folder for each in known if not at_work.isdisjoint(each.ids) for pack in each.packs for folder in pack
    }
    for array in known:
        job_id = by_name.get(array.name)
        if array.job or job_id is None:  # or SLURM never got it
            continue
        base = job_id.split("_")[0]
        if job_id in at_work and any(folder in sent for pack in array.packs for folder in pack):
            client.ask(["scancel", base])
            tell(f"cancelled job {base}: its runs were sent again before SLURM had it.")
        else:
            sbatch.adopt(array, job_id)
            tell(f"found {array.name} of an interrupted submission in SLURM as job {base}.")
    return queue.look(store, known, jobs)
