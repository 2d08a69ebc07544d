"""The runs of a plan → SLURM, each once, whatever crashed before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.backends.slurm import arrays, client, queue, sbatch, site, submissions
from tfkd_cli.backends.slurm.arrays import Element
from tfkd_cli.backends.slurm.sending import Sender, Tell
from tfkd_cli.errors import RequestError
from tfkd_cli.locks import held
from tfkd_cli.store import files

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.queue import QueueState
    from tfkd_cli.backends.slurm.submissions import Array
    from tfkd_cli.execution import Execution
    from tfkd_cli.plan import Plan, PlannedRun
    from tfkd_cli.spec import RunSpec
    from tfkd_cli.store import Store


@dataclass(frozen=True)
class Submitted:
    """What one `submit` did. `calls` counts sbatch; `left_in_plan` is what SLURM did not take."""

    submission: str = ""
    arrays: tuple[tuple[str, int], ...] = ()  # (SLURM id, runs)
    calls: int = 0
    queued: Mapping[str, str] = field(default_factory=dict)  # folders of runs that SLURM had before → job
    repointed: int = 0
    left_in_plan: tuple[RunSpec, ...] = ()
    elsewhere: tuple[RunSpec, ...] = ()  # another process is at work on them, or on their teachers

    @property
    def runs(self) -> int:
        """How many runs were submitted now."""
        return sum(count for _, count in self.arrays)

    @property
    def already(self) -> int:
        """How many runs SLURM had before."""
        return len(self.queued)


def submit(
    runs: Sequence[PlannedRun],
    *,
    store: Store,
    execution: Execution,
    profile: Profile,
    jobs: int | None = None,
    on_event: Tell = lambda text: None,
) -> Submitted:
    """Submit those of the planned `runs` (teachers first) that SLURM does not have yet; returns at once.

    `jobs` limits the runs at once. RequestError where there is no SLURM, SlurmError when slurmctld does not
    answer, sbatch.RefusedError with SLURM's own sentence.
    """
    client.require()
    _check_path(store.root)
    profile = profile.in_this_environment(on_event)
    with _one_at_a_time(store.root / "submissions", tell=on_event):
        here = site.read_site()
        before = _look(store, tell=on_event)
        new, elsewhere = before.to_send([run for run in runs if not _ended_meanwhile(run, store)])
        if jobs is not None and (count := len(before.active)):
            on_event(f"{count} runs submitted before are in the queue; --jobs {jobs} does not count them.")
        sender = Sender(
            store=store, profile=profile, site=here, execution=execution, jobs=jobs, tell=on_event,
            elements=dict(before.active),
        )  # fmt: skip
        if new:
            sender.send(new)
        repointed = before.repoint(sender.elements)
        queue.forget(store)
    return Submitted(
        submission=sender.name,
        arrays=tuple((each.base_id, each.count(sender.elements)) for each in sender.arrays),
        calls=sender.calls,
        queued=before.queued(runs),
        repointed=repointed,
        left_in_plan=tuple(run.spec for run in new if run.spec.folder not in sender.elements),
        elsewhere=tuple(run.spec for run in elsewhere),
    )


def retry(spec: RunSpec, plan: Plan, *, store: Store, **more: Any) -> Submitted:
    """`submit` one run of a plan again, with a fresh count of attempts; its waiting students wait for the
    new job.

    Unfinished teachers of its own go before it. RequestError when it is done, or in SLURM's queue.
    """
    runs = [run for run in plan.todo if run.spec in spec.lineage]
    if spec not in [run.spec for run in runs]:
        raise RequestError(
            f"{spec.folder} is done.", expected="a run without a result.", hint="`tfkd status` shows them."
        )
    sent = submit(runs, store=store, **more)
    if not sent.runs:
        raise RequestError(
            f"{spec.folder} was not submitted: {_why_not(spec, sent)}.",
            expected="a run that failed or was cancelled, and a place in the queue.",
            hint="`tfkd status` says what it waits for; `tfkd cancel` takes it out of the queue.",
        )
    return sent


def _ended_meanwhile(run: PlannedRun, store: Store) -> bool:
    """Whether a run was finished since it was planned, by a job that has left the queue."""
    return run.state.status != "done" and store.folder(run.spec.folder).state().status == "done"


def _why_not(spec: RunSpec, sent: Submitted) -> str:
    if job := sent.queued.get(spec.folder):
        return f"it is in SLURM's queue already, as job {job}"
    if sent.elsewhere:
        return "another process is at work on it, or on its teacher"
    return "SLURM takes no more jobs now"


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
    told = False

    def while_waiting() -> None:
        nonlocal told
        if not told:
            tell("another tfkd is submitting; waiting for it (Ctrl-C ends this; nothing is submitted twice).")
            told = True

    with held(submissions / "lock", while_waiting=while_waiting) as locked:
        if not locked:
            tell("this file system has no locks: do not submit from two terminals at the same time.")
        yield


@dataclass(frozen=True)
class _Before:
    """What SLURM has before anything is sent."""

    arrays: Sequence[Array]
    states: Mapping[str, QueueState]
    active: Mapping[str, Element]  # folder of a run → the job that is going to give its result
    done: frozenset[str]  # folders of parents

    def queued(self, runs: Sequence[PlannedRun]) -> dict[str, str]:
        """The runs that SLURM has (folders) → their jobs."""
        folders = (run.spec.folder for run in runs)
        return {folder: self.active[folder].job_id for folder in folders if folder in self.active}

    def to_send(self, runs: Sequence[PlannedRun]) -> tuple[list[PlannedRun], list[PlannedRun]]:
        """The runs that SLURM does not have, and those that wait for a process outside SLURM.

        The heartbeat of a job that SLURM does not know any more is not believed.
        """
        new: list[PlannedRun] = []
        elsewhere: list[PlannedRun] = []
        keys: set[str] = set()  # of those elsewhere
        for run in runs:  # teachers first
            queued = run.spec.folder in self.active
            outside = run.state.status == "running" and run.state.slurm is None and not queued
            if outside or any(parent.key in keys for parent in run.spec.parents):
                keys.add(run.spec.key)
                elsewhere.append(run)
            elif not queued:
                new.append(run)
        return new, elsewhere

    def repoint(self, elements: Mapping[str, Element]) -> int:
        """Point waiting jobs of earlier submissions to their parents' new jobs; how many."""
        renewed = frozenset(elements.keys() - self.active.keys())
        return arrays.repoint(
            self.arrays, states=self.states, elements=elements, done=self.done - renewed, renewed=renewed
        )


def _look(store: Store, *, tell: Tell) -> _Before:
    """Look at the queue; what a dead sender left is adopted, its arrays on hold are released."""
    known = submissions.known_arrays(store)
    if not all(array.ids for array in known):
        sbatch.wait_in_flight(store.root / "submissions")
    jobs = queue.ask_jobs() if known else {}
    _adopt(store, known, jobs, tell)
    states = queue.look(store, known, jobs)
    active = {
        folder: Element(job_id, packed=len(pack) > 1)
        for array in known
        for _, job_id, pack, _ in array.jobs()
        for folder in pack
        if states[folder].active and states[folder].job_id == job_id
    }
    parents = {folder for array in known for after in array.after for folder in after}
    done = frozenset(folder for folder in parents if store.folder(folder).state().status == "done")
    for array in known:
        if array.ids and array.on_hold:
            arrays.release(array, array.pending(states), elements=active, done=done)
    return _Before(known, states, active, done)


def _adopt(store: Store, known: Sequence[Array], jobs: queue.Jobs, tell: Tell) -> None:
    """Take over arrays that SLURM has and whose sender died before it could write that down.

    One that reached SLURM so late that its runs were sent again meanwhile is cancelled.
    """
    by_name = {name: job_id for job_id, (name, _) in jobs.items()}
    at_work = {each.name for each in known if each.ids and any(_is_active(jobs, job) for job in each.ids)}
    sent = {folder for each in known if each.name in at_work for pack in each.packs for folder in pack}
    for array in (each for each in known if not each.ids):
        job_id = by_name.get(array.name)
        if job_id is None:  # SLURM never got it, or refused it
            continue
        if _is_active(jobs, job_id) and any(folder in sent for pack in array.packs for folder in pack):
            client.ask(["scancel", job_id.split("_")[0]])
            tell(f"cancelled job {job_id.split('_')[0]}: its runs were sent again before SLURM had it.")
        else:
            sbatch.adopt(array, job_id, store=store.root.absolute())
            tell(f"found {array.name} of an interrupted submission in SLURM as job {array.base_id}.")


def _is_active(jobs: queue.Jobs, job_id: str) -> bool:
    return job_id in jobs and jobs[job_id][1].active
