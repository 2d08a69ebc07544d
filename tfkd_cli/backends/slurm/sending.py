"""Runs → arrays in SLURM, teachers before students; a dry run is the same with its calls noted, not sent."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli import backends
from tfkd_cli.backends.slurm import arrays, client, records, sbatch, site, staging
from tfkd_cli.backends.slurm.arrays import Element, Group
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.backends.slurm.records import Array
from tfkd_cli.backends.slurm.site import Site
from tfkd_cli.errors import RequestError
from tfkd_cli.store import Store

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.execution import Execution
    from tfkd_cli.spec import RunSpec

Tell = Callable[[str], None]
ONE_LIMIT_EACH = (
    "--jobs {jobs} holds for each of {arrays} arrays, not for all together: the runs differ in resources, "
    "are more than MaxArraySize, or this site refuses dependencies per array element."
)


@dataclass(frozen=True)
class Submitted:
    """What one `submit` did. `calls` counts sbatch; `left_in_plan` is what SLURM did not take."""

    submissions: tuple[str, ...] = ()
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


@dataclass(kw_only=True)
class Sender:
    """What it was given, and what it has sent so far."""

    store: Store
    profile: Profile
    site: Site
    execution: Execution
    costs: Mapping[str, float]  # seconds, by key
    jobs: int | None  # at most so many runs at once
    tell: Tell
    weights: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of `backends.submit`
    elements: dict[str, Element] = field(default_factory=dict)  # folder of a run → its active job; grows
    wanted: frozenset[str] = frozenset()  # folders of all runs to be sent
    name: str = ""  # of the submission
    calls: int = 0
    first: int = 0  # index of the next element in the submission's runs
    full: bool = False  # SLURM takes no more now
    arrays: list[Array] = field(default_factory=list)

    def send(self, new: Sequence[RunSpec]) -> Submitted:
        """Group, declare, send; what did not go stays in the plan."""
        self.wanted = frozenset(spec.folder for spec in new)
        unfinished = self.wanted | self.elements.keys()
        graph = arrays.group_runs(new, profile=self.profile, unfinished=unfinished)
        for group in graph:
            check_limits(group.options, profile=self.profile, here=self.site)
        code = staging.stage(self.store.code_path)
        on_hold = self.jobs is not None and any(group.parents for group in graph)
        if not (on_hold and self._send_all(arrays.one_per_shape(graph), on_hold=True, code=code)):
            self._send_all(graph, on_hold=False, code=code)
        left = tuple(spec for spec in new if spec.folder not in self.elements)
        if left:
            text = "runs stay in the plan: SLURM takes no more now; the same command sends them later."
            self.tell(f"{len(left)} {text}")
        sizes = tuple((array.base_id, sum(map(len, array.packs))) for array in self.arrays)
        return Submitted((self.name,), sizes, self.calls, left_in_plan=left)

    def _send_all(self, graph: Sequence[Group], *, on_hold: bool, code: Path) -> bool:
        """Everything as arrays, parents first; False where the site refuses dependencies per element."""
        planned = list(arrays.split(graph, self.site.max_array_size))
        self._declare(planned, code=code)
        if self.jobs is not None and len(planned) > 1:
            self.tell(ONE_LIMIT_EACH.format(jobs=self.jobs, arrays=len(planned)))
        for group in planned:
            for array in self._send_in_pieces(group, on_hold=on_hold, code=code):
                try:
                    if on_hold:
                        arrays.release(array, elements=self.elements, done=frozenset())
                except SlurmError as error:
                    if client.unreachable(error.sentence) or len(self.arrays) > 1:
                        raise
                    self._withdraw(array)
                    return False
        return True

    def _declare(self, planned: Sequence[Group], *, code: Path) -> None:
        """Everything a job will read, before any job exists."""
        packs = [pack for group in planned for pack in group.packs]
        self.first = 0
        self.name = backends.submit(
            [[spec.folder for spec in pack] for pack in packs],
            store=self.store,
            execution=replace(self.execution, threads=self.execution.threads or self._threads(planned[0])),
            teacher_logits=backends.sharing_logits([spec for pack in packs for spec in pack]),
            backend=records.BACKEND,
            weights=self.weights,
            profile=self.profile.name,
            code=code.name,
        )
        records.write_specs(self.store.submission_path(self.name), packs)

    def _threads(self, group: Group) -> int:
        """Threads of a run: the job's cores ÷ its runs; one where a GPU does the work."""
        options = site.fill_in(group.options, self.site)
        cores = str(options.get("cpus_per_task", 1))
        if site.asks_gpu(options) or not cores.isdigit():
            return 1
        return max(1, int(cores) // self.profile.runs_per_job)

    def _withdraw(self, array: Array) -> None:
        client.ask(["scancel", array.base_id])
        array.mark_released()
        self.arrays.remove(array)
        for folder in chain.from_iterable(array.packs):
            self.elements.pop(folder, None)

    def _send_in_pieces(self, group: Group, *, on_hold: bool, code: Path) -> Iterator[Array]:
        """The group as one array; where SLURM's limits refuse it, as much of it as they allow."""
        rest, size = group.packs, len(group.packs)
        while rest and not self.full:
            piece = replace(group, packs=rest[:size])
            if not self._parents_are_in_slurm(piece):
                break
            try:
                array = self._send(piece, on_hold=on_hold, code=code)
            except sbatch.LimitReachedError as error:
                waited = "temporarily" in error.what  # for two minutes: not again with half of it
                if size == 1 and not self.elements and not waited:
                    raise sbatch.RefusedError(error.what, self.profile) from error
                self.full = size == 1 or waited
                size = max(1, size // 2)
                continue
            rest = rest[len(piece.packs) :]
            yield array
        self.first += len(rest)  # indices of what was not sent

    def _parents_are_in_slurm(self, piece: Group) -> bool:
        """A student whose teacher could not be sent is not sent either: SLURM would start it at once."""
        known = self.elements.keys() | {run.folder for run in piece.runs}
        return all(known >= set(self._after(pack)) for pack in piece.packs)

    def _after(self, pack: Sequence[RunSpec]) -> tuple[str, ...]:
        """Folders of the unfinished parents of a pack."""
        parents = (parent.folder for run in pack for parent in run.parents)
        return tuple(dict.fromkeys(each for each in parents if each in self.elements or each in self.wanted))

    def _send(self, piece: Group, *, on_hold: bool, code: Path) -> Array:
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
        waits = [] if on_hold else [self.elements[each] for each in chain.from_iterable(array.after)]
        options = site.fill_in(piece.options, self.site)
        given = sbatch.parameters(
            options,
            setup=sbatch.setup_lines(self.profile, code=code.absolute()),
            name=array.name,
            dependency=arrays.dependency(waits),
            minutes=site.time_limit(_longest(piece, self.costs), options, self.site),
            at_once=max(1, (self.jobs or len(piece.runs)) // self.profile.runs_per_job),
            on_hold=on_hold,
        )
        sbatch.send(array, given, store=self.store.root.absolute(), profile=self.profile)
        for job_id, pack in zip(array.ids, piece.packs, strict=True):
            self.elements.update((run.folder, Element(job_id, packed=len(pack) > 1)) for run in pack)
        self.first += len(piece.packs)
        self.arrays.append(array)
        return array


def _longest(group: Group, costs: Mapping[str, float]) -> float | None:
    """Seconds of the longest job (runs of a pack share a device, so theirs add up); None when unknown."""
    if any(run.key not in costs for run in group.runs):
        return None
    return max(math.fsum(costs[run.key] for run in pack) for pack in group.packs)


def check_limits(options: Mapping[str, object], *, profile: Profile, here: Site) -> None:
    """RequestError where the partition can never give what is requested; it names the line of the profile."""
    for option, sentence in site.beyond(options, here):
        raise RequestError(
            f"the profile {profile.name} {sentence}.",
            expected=profile.line_of(option),
            hint="change it there, or leave it out: the cluster is asked for what is open.",
        )


def in_this_environment(profile: Profile, tell: Tell) -> Profile:
    """The profile, completed by the user's SBATCH_ACCOUNT and the like; tells what is used or ignored."""
    completed, used = profile.with_environment()
    if used:
        tell(f"from your environment: {', '.join(used)}.")
    if ignored := client.ignored_variables(used):
        tell(f"ignored in your environment, for it would win over the profile: {', '.join(ignored)}.")
    return completed


def dry_run(
    specs: Sequence[RunSpec],
    *,
    store: Store,
    execution: Execution,
    profile: Profile,
    jobs: int | None = None,
    costs: Mapping[str, float] | None = None,
    on_event: Tell = lambda text: None,
) -> list[str]:
    """What would be given to sbatch and scontrol, one text per call; job 1 stands for the first one's id.

    The records go to a temporary folder. Runs that SLURM has already are shown too. What a profile leaves
    open is asked of the cluster where there is one.
    """
    with tempfile.TemporaryDirectory(prefix="tfkd-dry-") as folder:
        # Below the folder stands the whole path of the store, so that scripts are quoted as they will be.
        copy = Store.open(Path(f"{folder}{store.root.absolute()}"), create=True)
        sender = Sender(
            store=copy, profile=in_this_environment(profile, on_event), site=_site_if_any(),
            execution=execution, costs=costs or {}, jobs=jobs, tell=on_event,
        )  # fmt: skip
        with sbatch.recording(Path(folder) / "recorded") as calls:
            sender.send(specs)
        about = {array.job_folder: _described(array) for array in sender.arrays}
        texts = []
        for call in calls.read_text().splitlines():
            command, _, arguments = call.partition(" ")
            script = Path(arguments)
            texts.append(
                script.read_text().replace("\n", f"\n# {about[script.parent]}\n", 1)
                if command == "sbatch"
                else f"# then: {call}"
            )
        return [text.replace(folder, "").replace(sender.name, "SUBMISSION") for text in texts]


def _described(array: Array) -> str:
    count = sum(map(len, array.packs))
    runs = array.packs[0][0] if count == 1 else f"{count} runs, {array.packs[0][0]} …"
    return f"sbatch call {array.number}: {runs}"


def _site_if_any() -> Site:
    if client.present("sinfo"):
        with contextlib.suppress(SlurmError):
            return site.read_site()
    return Site()
