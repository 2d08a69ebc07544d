"""What a request lacks → SLURM, each run once, whatever crashed before."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli import backends
from tfkd_cli.backends.slurm import arrays, client, queue, records, sbatch, site
from tfkd_cli.backends.slurm.arrays import Element
from tfkd_cli.backends.slurm.sending import Sender, Submitted, Tell, in_this_environment
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.locks import held
from tfkd_cli.spec import Teacher
from tfkd_cli.store import files

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.queue import QueueState
    from tfkd_cli.backends.slurm.records import Array
    from tfkd_cli.execution import Execution
    from tfkd_cli.spec import RunSpec
    from tfkd_cli.store import RunState, Store

PATIENCE_SECONDS = 900.0  # a submission takes seconds; with a slurmctld that is down, minutes


def submit(
    specs: Sequence[RunSpec],
    *,
    store: Store,
    execution: Execution,
    profile: Profile,
    jobs: int | None = None,
    costs: Mapping[str, float] | None = None,
    on_event: Tell = lambda text: None,
) -> Submitted:
    """Submit the unfinished runs `specs` (parents first) that SLURM does not have yet; returns at once.

    `jobs` limits the runs at once; `costs` are seconds by key. RequestError where there is no SLURM or the
    profile requests more than there is, SlurmError when slurmctld does not answer, sbatch.RefusedError
    with SLURM's own sentence.
    """
    client.require()
    _check_path(store.root)
    profile = in_this_environment(profile, on_event)
    with _one_at_a_time(store.root / "submissions", tell=on_event):
        here = site.read_site()
        before = _look(store, specs, tell=on_event)
        new, elsewhere, queued = before.to_send(specs)
        if jobs is not None and before.active:
            count = len(before.active)
            on_event(f"{count} runs submitted before are in the queue; --jobs {jobs} does not count them.")
        sender = Sender(
            store=store, profile=profile, site=here, execution=execution, costs=costs or {}, jobs=jobs,
            tell=on_event, weights=before.needed, elements=dict(before.active),
        )  # fmt: skip
        sent = sender.send(new) if new else Submitted()
        count = before.repoint(sender.elements)
        queue.forget(store)
        return replace(sent, queued=queued, repointed=count, elsewhere=tuple(elsewhere))


def retry(spec: RunSpec, *, store: Store, **more: Any) -> Submitted:
    """`submit` one run again, with a fresh count of attempts; its waiting students wait for the new job.

    Unfinished teachers of its own go before it. RequestError when it is done, or in SLURM's queue.
    """
    if store.run(spec).state().can_teach():
        raise RequestError(
            f"{spec.folder} is done.", expected="a run without a result.", hint="`tfkd status` shows them."
        )
    wanted = [spec]
    while isinstance(teacher := wanted[0].teacher, Teacher):
        if store.run(teacher.run).state().can_teach(teacher.checkpoint):
            break
        wanted.insert(0, teacher.run)
    sent = submit(wanted, store=store, **more)
    if not sent.runs:
        raise RequestError(
            f"{spec.folder} was not submitted: {_why_not(spec, sent)}.",
            expected="a run that failed or was cancelled, and a place in the queue.",
            hint="`tfkd status` says what it waits for; `tfkd cancel` takes it out of the queue.",
        )
    return sent


def _why_not(spec: RunSpec, sent: Submitted) -> str:
    if job := sent.queued.get(spec.folder):
        return f"it is in SLURM's queue already, as job {job}"
    if sent.elsewhere:
        return "another process is at work on it, or on its teacher"
    return "SLURM takes no more jobs now" if sent.left_in_plan else "it was finished meanwhile"


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
    deadline, told = time.monotonic() + PATIENCE_SECONDS, False

    def while_waiting() -> None:
        nonlocal told
        if time.monotonic() > deadline:
            raise RunError(
                f"another tfkd has been submitting for {PATIENCE_SECONDS / 60:.0f} minutes.",
                hint="end it, then give the same command again; nothing is submitted twice.",
            )
        if not told:
            tell("another tfkd is submitting; waiting for it.")
            told = True

    with held(submissions / "lock", while_waiting=while_waiting) as locked:
        if not locked:
            tell("this file system has no locks: do not submit from two terminals at the same time.")
        yield


@dataclass(frozen=True)
class _Before:
    """What store and queue say before anything is sent."""

    arrays: Sequence[Array]
    states: Mapping[str, QueueState]
    found: Mapping[str, RunState]
    active: Mapping[str, Element]  # folder of a run → the job that is going to give its result
    done: frozenset[str]  # folders of parents
    needed: Mapping[str, list[str]]

    def to_send(self, specs: Sequence[RunSpec]) -> tuple[list[RunSpec], list[RunSpec], dict[str, str]]:
        """The runs to send; those that wait for a process elsewhere; those that SLURM has, with their job."""
        missing = [spec for spec in specs if not _is_done(self.found[spec.key], self.needed[spec.folder])]
        queued = {s.folder: self.active[s.folder].job_id for s in missing if s.folder in self.active}
        new: list[RunSpec] = []
        elsewhere: list[RunSpec] = []
        outside = {spec.key for spec in missing if spec.folder not in queued and self._is_outside(spec)}
        for spec in missing:  # parents first
            if any(parent.key in outside for parent in spec.parents):
                outside.add(spec.key)
            if spec.key in outside:
                elsewhere.append(spec)
            elif spec.folder not in queued:
                new.append(spec)
        return new, elsewhere, queued

    def _is_outside(self, spec: RunSpec) -> bool:
        """Whether a process that is none of our jobs works on this run.

        The heartbeat of a job that SLURM does not know any more is not believed.
        """
        seen = self.found[spec.key]
        return seen.status == "running" and seen.slurm is None

    def repoint(self, elements: Mapping[str, Element]) -> int:
        """Point waiting jobs of earlier submissions to their parents' new jobs; how many."""
        renewed = frozenset(elements.keys() - self.active.keys())
        return arrays.repoint(
            self.arrays, states=self.states, elements=elements, done=self.done - renewed, renewed=renewed
        )


def _look(store: Store, specs: Sequence[RunSpec], *, tell: Tell) -> _Before:
    """Look at queue and store; what a dead sender left is adopted, its held arrays are released."""
    known = records.known_arrays(store)
    if not all(array.ids for array in known):
        sbatch.wait_in_flight(store.root / "submissions")
    jobs = queue.ask_jobs() if known else {}
    _adopt(store, known, jobs, tell)
    states = queue.look(store, known, jobs)
    # The store after the queue: a run that ended before the queue was asked is seen as done.
    found = store.scan([spec.key for spec in specs])
    active = {
        folder: Element(job_id, packed=len(pack) > 1)
        for array in known
        for _, job_id, pack, _ in array.jobs()
        for folder in pack
        if states[folder].active and states[folder].job_id == job_id
    }
    parents = {folder for array in known for after in array.after for folder in after}
    done = frozenset(folder for folder in parents if store.folder(folder).state().status == "done")
    arrays.release_forgotten(known, states=states, elements=active, done=done)
    taught = backends.taught_with(specs)
    needed = {spec.folder: taught.get(spec.folder, ["best.pt"]) for spec in specs}
    return _Before(known, states, found, active, done, needed)


def _is_done(state: RunState, needed: Collection[str]) -> bool:
    return state.status == "done" and not set(needed) & set(state.missing)


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
