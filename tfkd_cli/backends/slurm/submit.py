"""A graph of runs → arrays in SLURM, each run once, whatever crashes in between."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tfkd_cli.backends import taught_with
from tfkd_cli.backends.slurm import client, dependencies, held, queue, records, sending, site
from tfkd_cli.backends.slurm.dependencies import Element
from tfkd_cli.backends.slurm.submission import Submission, Submitted
from tfkd_cli.backends.slurm.turn import my_turn
from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.queue import QueueState
    from tfkd_cli.backends.slurm.records import Array
    from tfkd_cli.execution import Execution
    from tfkd_cli.spec import RunSpec
    from tfkd_cli.store import RunState, Store

Tell = Callable[[str], None]


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

    `jobs` caps the runs at once; `costs` are seconds by key. Raises RequestError where there is no SLURM,
    SlurmError when slurmctld does not answer, sending.RefusedError with SLURM's own sentence.
    """
    client.require()
    _check_path(store.root)
    with my_turn(store.root / "submissions", tell=on_event) as still_mine:
        here = site.read_site()
        before = _look(store, specs, tell=on_event)
        new, elsewhere, already = before.to_send(specs)
        if jobs is not None and before.active:
            on_event(_not_counted(len(before.active), jobs))
        sent = Submission(
            store=store,
            profile=profile,
            site=here,
            execution=execution,
            costs=costs or {},
            tell=on_event,
            still_mine=still_mine,
            elements=dict(before.active),
            needed=before.needed,
        )
        result = sent.send(new, cap=jobs) if new else Submitted()
        count = before.repoint(sent.elements)
        queue.forget(store)
        left = (*result.left_in_plan, *elsewhere)
        return replace(result, already=already, repointed=count, left_in_plan=left)


def _not_counted(active: int, jobs: int) -> str:
    return f"{active} runs submitted before are in the queue; --jobs {jobs} does not count them."


@dataclass(frozen=True)
class _Before:
    """What store and queue say before anything is sent."""

    arrays: Sequence[Array]
    states: Mapping[str, QueueState]
    found: Mapping[str, RunState]
    active: Mapping[str, Element]
    done: frozenset[str]
    needed: Mapping[str, list[str]]

    def to_send(self, specs: Sequence[RunSpec]) -> tuple[list[RunSpec], list[RunSpec], int]:
        """The runs to send, those that wait for a run elsewhere, and how many SLURM has already."""
        missing = [spec for spec in specs if not _is_done(self.found[spec.key], self.needed[spec.folder])]
        new, elsewhere = _to_send(missing, self.found, self.states)
        return new, elsewhere, len(missing) - len(new) - len(elsewhere)

    def repoint(self, elements: Mapping[str, Element]) -> int:
        """Point waiting jobs of earlier submissions to their parents' new jobs; gives how many."""
        renewed = frozenset(elements.keys() - self.active.keys())
        return dependencies.repoint(
            self.arrays, states=self.states, elements=elements, done=self.done - renewed, renewed=renewed
        )


def _look(store: Store, specs: Sequence[RunSpec], *, tell: Tell) -> _Before:
    """Look at queue and store; held arrays that were forgotten are released."""
    arrays = _recover(store, tell)
    states = queue.look([each for each in arrays if each.sent]) if arrays else {}
    # The store after the queue: a run that ended before the queue was asked is seen as done.
    found = store.scan([spec.key for spec in specs])
    active = active_elements(arrays, states)
    done = _done(store, arrays)
    held.release_forgotten(arrays, states=states, elements=active, done=done)
    return _Before(arrays, states, found, active, done, needed_weights(specs))


def _check_path(root: Path) -> None:
    if "%" in str(root.absolute()) or any(ord(each) < 32 for each in str(root)):
        raise RequestError(
            f"the results folder is {root}.",
            expected="a path without % and control characters: sbatch replaces %j, %A and %a in it.",
            hint="--results another/folder.",
        )


def _recover(store: Store, tell: Tell) -> list[Array]:
    """All arrays of the store; those whose sender died are looked up by name first."""
    arrays = records.known_arrays(store)
    for array in arrays:
        if not array.sent and not array.refused and sending.adopt(array, store=store.root.absolute()):
            tell(f"found {array.name} of an interrupted submission in SLURM as job {array.base_id}.")
    return arrays


def active_elements(arrays: Sequence[Array], states: Mapping[str, QueueState]) -> dict[str, Element]:
    """Folder of a run → the job that is going to give its result."""
    found = {}
    for array in arrays:
        for job_id, pack in zip(array.sent, array.packs, strict=False):
            for folder in pack:
                state = states.get(folder)
                if state is not None and state.active and state.job_id == job_id:
                    found[folder] = Element(job_id, packed=len(pack) > 1)
    return found


def needed_weights(specs: Sequence[RunSpec]) -> dict[str, list[str]]:
    """Folder → the weights it must have. Who hands in a finished run with no student wants its best ones."""
    taught = taught_with(specs)
    return {spec.folder: taught.get(spec.folder, ["best.pt"]) for spec in specs}


def _is_done(state: RunState, needed: Collection[str]) -> bool:
    return state.status == "done" and not set(needed) & set(state.missing)


def _done(store: Store, arrays: Sequence[Array]) -> frozenset[str]:
    """Folders of parents that have a result and can teach."""
    needed: dict[str, set[str]] = {}
    for array in arrays:
        weights = records.needed_weights(array)
        for folder in {folder for after in array.after for folder in after}:
            needed.setdefault(folder, set()).update(weights.get(folder, ()))
    return frozenset(
        folder for folder, names in needed.items() if _is_done(store.folder(folder).state(), names)
    )


def _to_send(
    missing: Sequence[RunSpec], found: Mapping[str, RunState], states: Mapping[str, QueueState]
) -> tuple[list[RunSpec], list[RunSpec]]:
    """The runs to send, and those that wait for one that a process outside SLURM is working on."""
    new: list[RunSpec] = []
    elsewhere: list[RunSpec] = []
    outside = {spec.key for spec in missing if _is_outside(spec, found[spec.key], states)}
    for spec in missing:  # parents first
        if any(parent.key in outside for parent in spec.parents):
            outside.add(spec.key)
            elsewhere.append(spec)
        elif spec.key not in outside and not _in_queue(spec, states):
            new.append(spec)
    return new, elsewhere


def _in_queue(spec: RunSpec, states: Mapping[str, QueueState]) -> bool:
    return spec.folder in states and states[spec.folder].active


def _is_outside(spec: RunSpec, seen: RunState, states: Mapping[str, QueueState]) -> bool:
    """Whether a process outside SLURM works on this run.

    The heartbeat of a SLURM job that SLURM does not know any more is not believed.
    """
    return seen.status == "running" and seen.slurm is None and not _in_queue(spec, states)
