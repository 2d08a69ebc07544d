"""One submission while it is being sent: groups become arrays, students wait for their teachers' jobs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING

from tfkd_cli.backends import sharing_logits
from tfkd_cli.backends.slurm import (
    client,
    dependencies,
    groups,
    held,
    queue,
    records,
    scripts,
    sending,
    staging,
)
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.backends.slurm.dependencies import Element
from tfkd_cli.backends.slurm.groups import Group
from tfkd_cli.backends.slurm.records import Array

if TYPE_CHECKING:
    from pathlib import Path

    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.site import Site
    from tfkd_cli.execution import Execution
    from tfkd_cli.spec import RunSpec
    from tfkd_cli.store import Store


@dataclass(frozen=True)
class Submitted:
    """What one `submit` did. `calls` counts sbatch; `left_in_plan` is for the next time."""

    submissions: tuple[str, ...] = ()
    arrays: tuple[tuple[str, int], ...] = ()  # (SLURM id, runs)
    calls: int = 0
    already: int = 0  # runs that SLURM, or another process, had before
    repointed: int = 0
    left_in_plan: tuple[RunSpec, ...] = ()

    @property
    def runs(self) -> int:
        """How many runs were submitted now."""
        return sum(count for _, count in self.arrays)


@dataclass(kw_only=True)
class Submission:
    """What it was given, and what it has sent so far."""

    store: Store
    profile: Profile
    site: Site
    execution: Execution
    costs: Mapping[str, float]
    tell: Callable[[str], None]
    still_mine: Callable[[], None]
    elements: dict[str, Element]  # folder of a run → its active job; grows
    name: str = ""
    calls: int = 0
    first: int = 0  # index of the next element in the submission's runs
    full: bool = False  # SLURM takes no more now
    room: int = 0  # jobs that slurmctld can take
    needed: Mapping[str, Sequence[str]] = field(default_factory=dict)  # the weights of `backends.submit`
    wanted: frozenset[str] = frozenset()  # folders of all runs to be sent
    arrays: list[Array] = field(default_factory=list)

    def send(self, new: Sequence[RunSpec], *, cap: int | None) -> Submitted:
        """Group, declare, send; what did not go stays in the plan."""
        self.wanted = frozenset(spec.folder for spec in new)
        graph = plan_groups(new, profile=self.profile, active=self.elements)
        self.room = queue.room(sum(len(group.packs) for group in graph), self.site)
        code = staging.stage(self.store.code_path)
        one_array = cap is not None and any(group.parents for group in graph)
        if one_array and not self._send_held(groups.one_per_shape(graph), cap=cap or 1, code=code):
            self.tell(
                f"this site refuses dependencies per array element: --jobs {cap} is divided among arrays."
            )
            one_array = False
        if not one_array:
            self._send_groups(graph, cap=cap, code=code)
        left = tuple(spec for spec in new if spec.folder not in self.elements)
        if left:
            text = "runs stay in the plan: SLURM takes no more now; the same command sends them later."
            self.tell(f"{len(left)} {text}")
        sizes = tuple((array.base_id, sum(map(len, array.packs))) for array in self.arrays)
        return Submitted((self.name,), sizes, self.calls, left_in_plan=left)

    def _declare(self, planned: Sequence[Group], *, code: Path) -> None:
        """Everything a job will read, before any job exists."""
        runs = [run for group in planned for run in group.runs]
        threads = self.execution.threads or scripts.threads(planned[0], profile=self.profile, site=self.site)
        self.first = 0
        self.name = self.store.add_submission(
            {
                "schema": 1,
                "backend": records.BACKEND,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "profile": self.profile.name,
                "code": code.name,
                "execution": replace(self.execution, threads=threads).to_json(),
                "runs": [[spec.folder for spec in pack] for group in planned for pack in group.packs],
                "teacher_logits": list(sharing_logits(runs)),
                "weights": {folder: list(names) for folder, names in self.needed.items()},
            }
        )
        records.write_specs(
            self.store.submission_path(self.name), [[*pack] for g in planned for pack in g.packs]
        )

    def _send_groups(self, graph: Sequence[Group], *, cap: int | None, code: Path) -> None:
        """One array a group; with a cap, as lanes."""
        planned = list(groups.split(graph, self.site.max_array_size))
        self._declare(planned, code=code)
        lanes = Lanes.of(cap, len(planned))
        for number, group in enumerate(planned):
            for array in self._send_in_pieces(group, lanes=lanes, number=number, on_hold=False, code=code):
                lanes.follow(number, array.base_id)

    def _send_held(self, merged: Sequence[Group], *, cap: int, code: Path) -> bool:
        """One held array per shape with `%cap`; False where the site refuses dependencies per element."""
        planned = list(groups.split(merged, self.site.max_array_size))
        self._declare(planned, code=code)
        lanes = Lanes.of(cap, len(planned))
        for number, group in enumerate(planned):
            for array in self._send_in_pieces(group, lanes=lanes, number=number, on_hold=True, code=code):
                try:
                    held.release(array, elements=self.elements, done=frozenset(), link=lanes.link(number))
                except SlurmError as error:
                    if client.unreachable(error.sentence) or len(self.arrays) > 1:
                        raise
                    self._withdraw(array)
                    return False
                lanes.follow(number, array.base_id)
        if len(planned) > 1:
            self.tell(
                f"--jobs {cap} is divided among {len(planned)} arrays (resources differ, or MaxArraySize)."
            )
        return True

    def _withdraw(self, array: Array) -> None:
        client.ask(["scancel", array.base_id])
        array.mark_released()
        self.arrays.remove(array)
        self.room += len(array.packs)
        for folder in chain.from_iterable(array.packs):
            self.elements.pop(folder, None)

    def _send_in_pieces(
        self, group: Group, *, lanes: Lanes, number: int, on_hold: bool, code: Path
    ) -> Iterator[Array]:
        """The group as one array; where SLURM's limits refuse it, as much of it as they allow."""
        rest, size = group.packs, len(group.packs)
        while rest and self.room and not self.full:
            piece = Group(shape=group.shape, packs=rest[: min(size, self.room)], parents=group.parents)
            if not self._parents_are_in_slurm(piece):
                break
            try:
                array = self._send(
                    piece, cap=lanes.share(number), link=lanes.link(number), on_hold=on_hold, code=code
                )
            except sending.LimitReachedError as error:
                waited = "temporarily" in error.what  # for two minutes: not again with half of it
                if size == 1 and not self.elements and not waited:
                    raise sending.RefusedError(error.what, self.profile) from error
                self.full = size == 1 or waited
                size = max(1, size // 2)
                continue
            rest = rest[len(piece.packs) :]
            self.room -= len(piece.packs)
            yield array
        self.first += len(rest)  # indices of what was not sent

    def _parents_are_in_slurm(self, piece: Group) -> bool:
        """A student whose teacher could not be sent is not sent either: SLURM would start it at once."""
        inside = {run.folder for run in piece.runs}
        return all(
            folder in self.elements or folder in inside
            for pack in piece.packs
            for folder in self._after(pack)
        )

    def _after(self, pack: Sequence[RunSpec]) -> tuple[str, ...]:
        """Folders of the unfinished parents of a pack."""
        parents = (parent.folder for run in pack for parent in run.parents)
        return tuple(dict.fromkeys(each for each in parents if each in self.elements or each in self.wanted))

    def _send(self, piece: Group, *, cap: int | None, link: str, on_hold: bool, code: Path) -> Array:
        self.still_mine()
        self.calls += 1
        array = Array(
            submission=self.name,
            number=self.calls,
            packs=tuple(tuple(run.folder for run in pack) for pack in piece.packs),
            after=tuple(self._after(pack) for pack in piece.packs),
            first=self.first,
            held=on_hold,
            folder=self.store.submission_path(self.name).absolute(),
        )
        parents = [] if on_hold else [self.elements[each] for each in chain.from_iterable(array.after)]
        parameters = scripts.parameters(
            piece,
            profile=self.profile,
            site=self.site,
            name=array.name,
            code=code.absolute(),
            dependency=dependencies.expression(parents, chain=link),
            seconds=longest(piece, self.costs),
            cap=cap,
            on_hold=on_hold,
        )
        ids = sending.send(array, parameters, store=self.store.root.absolute(), profile=self.profile)
        for job_id, pack in zip(ids, piece.packs, strict=True):
            self.elements.update((run.folder, Element(job_id, packed=len(pack) > 1)) for run in pack)
        self.first += len(piece.packs)
        self.arrays.append(array)
        return array


class Lanes:
    """How n arrays keep a cap K: K/n runs at once each; with n > K, K lanes of one, array after array."""

    def __init__(self, caps: Sequence[int]) -> None:
        self._caps = caps
        self._last = [""] * len(caps)

    @classmethod
    def of(cls, cap: int | None, arrays: int) -> Lanes:
        """The lanes for so many arrays; none without a cap."""
        if cap is None:
            return cls([])
        number = min(cap, arrays)
        return cls([cap // number + (lane < cap % number) for lane in range(number)])

    def share(self, number: int) -> int | None:
        """How many runs of array `number` may go at once."""
        return self._caps[number % len(self._caps)] if self._caps else None

    def link(self, number: int) -> str:
        """The id of the array that must have ended before array `number` starts."""
        return self._last[number % len(self._caps)] if self._caps else ""

    def follow(self, number: int, job_id: str) -> None:
        """The next array of this lane starts after the array `job_id`."""
        if self._caps:
            self._last[number % len(self._caps)] = job_id


def plan_groups(new: Sequence[RunSpec], *, profile: Profile, active: Mapping[str, Element]) -> list[Group]:
    """The groups of `new`: by what they ask for and the unfinished runs they wait for."""
    keys = {spec.key for spec in new}

    def waiting_for(spec: RunSpec) -> frozenset[str]:
        return frozenset(
            parent.key for parent in spec.parents if parent.key in keys or parent.folder in active
        )

    return groups.group_runs(
        new,
        shape=lambda spec: groups.shape_of(profile.submit_for(spec)),
        waiting_for=waiting_for,
        runs_per_job=profile.runs_per_job,
    )


def longest(group: Group, costs: Mapping[str, float]) -> float | None:
    """Seconds of the longest job (runs of a pack share a device, so theirs add up); None when unknown."""
    if any(run.key not in costs for run in group.runs):
        return None
    return max(math.fsum(costs[run.key] for run in pack) for pack in group.packs)
