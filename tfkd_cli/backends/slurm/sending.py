"""Runs → arrays in SLURM, teachers before students; a dry run is the same with its calls noted, not sent."""

from __future__ import annotations

import contextlib
import math
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.backends.slurm import arrays, sbatch, site, staging
from tfkd_cli.backends.slurm.arrays import Element, Pack
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.backends.slurm.site import Site
from tfkd_cli.backends.slurm.submissions import Array
from tfkd_cli.store import Store
from tfkd_cli.training import submission

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.execution import Execution
    from tfkd_cli.plan import PlannedRun

Tell = Callable[[str], None]
WOULD_FILL_IN = textwrap.wrap(site.WOULD_FILL_IN, 76)
"""Lines of a comment in the scripts of a dry run."""


@dataclass(kw_only=True)
class Sender:
    """What it was given, and what it has sent so far."""

    store: Store
    profile: Profile
    site: Site
    execution: Execution
    jobs: int | None  # at most so many runs at once
    tell: Tell
    elements: dict[str, Element] = field(default_factory=dict)  # folder of a run → its active job; grows
    name: str = ""  # of the submission
    calls: int = 0  # of sbatch
    arrays: list[Array] = field(default_factory=list)
    full: bool = False  # SLURM takes no more now

    def send(self, runs: Sequence[PlannedRun]) -> None:
        """Group, write down what the jobs will read, send, set what waits for what, release."""
        unfinished = frozenset(run.spec.folder for run in runs) | self.elements.keys()
        groups = arrays.group_runs(
            runs,
            profile=self.profile,
            unfinished=unfinished,
            size=self.site.max_array_size,
            by_length=self.jobs is None,  # a cap on jobs holds within an array
        )
        for jobs in groups:
            sbatch.check_limits(self._options(jobs), profile=self.profile, here=self.site)
        if self.jobs is not None and len(groups) > 1:
            self.tell(
                f"--jobs {self.jobs} holds for each of {len(groups)} arrays, not for all together: the runs "
                "differ in resources, or are more than MaxArraySize."
            )
        code = staging.stage(self.store.code_path)
        self.name = submission.write(
            [pack for jobs in groups for pack in jobs],
            store=self.store,
            execution=replace(self.execution, threads=self.execution.threads or self._threads(groups[0])),
            backend="slurm",
            profile=self.profile.name,
            code=code.name,
        )
        first = 0
        for jobs in groups:
            self._send_in_pieces(jobs, first=first, unfinished=unfinished, code=code)
            first += len(jobs)
        for array in self.arrays:
            if array.on_hold:
                every = range(len(array.packs))
                arrays.release(array, every, elements=self.elements, done=frozenset())

    def judge(self, runs: Sequence[PlannedRun]) -> None:
        """RequestError for what SLURM would refuse; a note where no line of the profile is the cause."""
        shapes = {repr(each): each for each in (self.profile.submit_for(run.spec) for run in runs)}
        for options in shapes.values() if self.site.partitions else ():
            try:
                sbatch.judge(options, profile=self.profile, here=self.site)
            except sbatch.RefusedError as error:
                if error.lines:
                    raise
                self.tell(f"{error.what}. {error.hint}")

    def _options(self, jobs: Sequence[Pack]) -> dict[str, Any]:
        """What the profile requests for these jobs, all of which request the same."""
        return self.profile.submit_for(jobs[0][0].spec)

    def _threads(self, jobs: Sequence[Pack]) -> int:
        """Threads of a run: the job's cores ÷ its runs; one where a GPU does the work."""
        options = site.fill_in(self._options(jobs), self.site)
        cores = str(options.get("cpus_per_task", 1))
        if site.asks_gpu(options) or not cores.isdigit():
            return 1
        return max(1, int(cores) // self.profile.runs_per_job)

    def _send_in_pieces(
        self, jobs: Sequence[Pack], *, first: int, unfinished: frozenset[str], code: Path
    ) -> None:
        """The jobs as one array; where SLURM's limits refuse it, as much of it as they allow."""
        rest, size = jobs, len(jobs)
        while rest and not self.full:
            piece = rest[:size]
            try:
                self._send(piece, first=first, unfinished=unfinished, code=code)
            except sbatch.LimitReachedError as error:
                waited = "temporarily" in error.what  # for two minutes: not again with half of it
                if size == 1 and not self.elements and not waited:
                    raise sbatch.RefusedError(error.what, self.profile) from error
                self.full = size == 1 or waited
                size = max(1, size // 2)
                continue
            rest, first = rest[size:], first + len(piece)

    def _send(self, jobs: Sequence[Pack], *, first: int, unfinished: frozenset[str], code: Path) -> None:
        self.calls += 1
        array = Array(
            submission=self.name,
            number=self.calls,
            packs=tuple(tuple(run.spec.folder for run in pack) for pack in jobs),
            after=tuple(_parents(pack, unfinished) for pack in jobs),
            first=first,
            folder=self.store.submission_path(self.name).absolute(),
        )
        options = site.fill_in(self._options(jobs), self.site)
        # Runs of a job share a device, so their times add up.
        longest = max(math.fsum(run.seconds_left_alone for run in pack) for pack in jobs)
        runs = sum(map(len, jobs))
        given = sbatch.parameters(
            options,
            setup=sbatch.setup_lines(self.profile, code=code.absolute()),
            name=array.name,
            minutes=site.time_limit(longest, options, self.site),
            at_once=max(1, (self.jobs or runs) // self.profile.runs_per_job),
            on_hold=array.on_hold,
        )
        try:
            sbatch.send(array, given, store=self.store.root.absolute(), profile=self.profile)
        except sbatch.RefusedError:
            sbatch.judge(self._options(jobs), profile=self.profile, here=self.site)  # names the lines
            raise
        for job_id, pack in zip(array.ids, array.packs, strict=True):
            self.elements.update((folder, Element(job_id, packed=len(pack) > 1)) for folder in pack)
        self.arrays.append(array)


def _parents(pack: Pack, unfinished: frozenset[str]) -> tuple[str, ...]:
    """Folders of the unfinished parents of a job's runs."""
    parents = (parent.folder for run in pack for parent in run.spec.parents)
    return tuple(dict.fromkeys(each for each in parents if each in unfinished))


def dry_run(
    runs: Sequence[PlannedRun],
    *,
    store: Store,
    execution: Execution,
    profile: Profile,
    jobs: int | None = None,
    on_event: Tell = lambda text: None,
) -> list[str]:
    """What would be given to sbatch and scontrol, one text per call; job 1 stands for the first one's id.

    The records go to a temporary folder. Runs that SLURM has already are shown too. What a profile leaves
    open is asked of the cluster where there is one.
    """
    with tempfile.TemporaryDirectory(prefix="tfkd-dry-") as folder:
        # Below the folder stands the whole path of the store, so that scripts are quoted as they will be.
        copy, here = Store.open(Path(f"{folder}{store.root.absolute()}"), create=True), Site()
        with contextlib.suppress(SlurmError):
            here = site.read_site()
        sender = Sender(
            store=copy, profile=profile.in_this_environment(on_event), site=here,
            execution=execution, jobs=jobs, tell=on_event,
        )  # fmt: skip
        sender.judge(runs)
        with sbatch.recording(Path(folder) / "recorded") as calls:
            sender.send(runs)
        about = {array.job_folder: _described(array) for array in sender.arrays}
        if not here.partitions:
            on_event("No SLURM answers here: what the profile leaves open is read from the cluster itself.")
            about = {folder: "\n# ".join([words, *WOULD_FILL_IN]) for folder, words in about.items()}
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
