"""Runs → arrays in SLURM, teachers before students; a dry run is the same with its calls noted, not sent."""

from __future__ import annotations

import contextlib
import math
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tfkd_cli.backends.slurm import arrays, sbatch, site, staging
from tfkd_cli.backends.slurm.arrays import Array, Pack
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.backends.slurm.site import Site
from tfkd_cli.store import Store
from tfkd_cli.training import submission

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.execution import Execution
    from tfkd_cli.plan import PlannedRun
    from tfkd_cli.spec import RunSpec

Tell = Callable[[str], None]
FILLED_IN = f"""
# what the script leaves open is filled in on the cluster: a GPU where the
# partition has any, a GPU's share of the node's memory (at most {site.MOST_MEMORY_MB:,} MB) and
# cores (at most {site.MOST_CPUS}; one without GPUs), and a time that the partition allows"""


@dataclass(kw_only=True)
class Submission:
    """What is given to SLURM at once, and what has become of it so far."""

    store: Store
    profile: Profile
    site: Site = field(default_factory=Site)
    execution: Execution
    limit: int | None  # at most so many runs at once
    tell: Tell
    jobs: dict[str, str] = field(default_factory=dict)  # folder of a run → its active job; grows
    name: str = ""
    calls: int = 0  # of sbatch; they number the arrays, so that the name of a refused one is not used again
    arrays: list[Array] = field(default_factory=list)
    queued: Mapping[str, str] = field(default_factory=dict)  # folders of runs that SLURM had before → job
    elsewhere: Sequence[RunSpec] = ()  # another process is at work on them, or on their teachers
    left_in_plan: Sequence[RunSpec] = ()  # SLURM did not take them
    repointed: int = 0  # waiting jobs of earlier submissions

    @property
    def by_array(self) -> dict[str, int]:
        """SLURM's id of each array → how many runs it was given."""
        return {
            array.job: sum(folder in self.jobs for pack in array.packs for folder in pack)
            for array in self.arrays
        }

    @property
    def runs(self) -> int:
        """How many runs were submitted."""
        return sum(self.by_array.values())

    def send(self, runs: Sequence[PlannedRun]) -> None:
        """Group, write down what the jobs will read, send, set what waits for what, release."""
        unfinished = {run.spec.folder for run in runs} | self.jobs.keys()
        groups = arrays.group_runs(
            runs,
            profile=self.profile,
            unfinished=unfinished,
            size=self.site.max_array_size,
            by_length=self.limit is None,  # a cap on jobs holds within an array
        )
        for packs in groups:
            options = self.profile.submit_for(packs[0][0].spec)  # all request the same
            sbatch.check_limits(options, profile=self.profile, here=self.site)
        if self.limit is not None and len(groups) > 1:
            self.tell(
                f"--jobs {self.limit} holds for each of {len(groups)} arrays, not for all together: the runs "
                "differ in resources, or are more than MaxArraySize."
            )
        code = staging.stage(self.store.code_path)
        self.name = submission.write(
            [pack for packs in groups for pack in packs],
            store=self.store,
            execution=self.execution,
            backend="slurm",
            profile=self.profile.name,
            code=code.name,
        )
        self._send_what_fits(groups, unfinished=unfinished, code=code)
        for array in self.arrays:
            if array.on_hold:
                arrays.release(array, range(len(array.packs)), jobs=self.jobs, store=self.store)
        self.left_in_plan = [run.spec for run in runs if run.spec.folder not in self.jobs]

    def judge(self, runs: Sequence[PlannedRun]) -> None:
        """RequestError for what SLURM would refuse; a note where no line of the profile is the cause."""
        shapes = {repr(each): each for each in (self.profile.submit_for(run.spec) for run in runs)}
        for options in shapes.values() if self.site.partitions else ():
            try:
                sbatch.judge(options, profile=self.profile, here=self.site)
            except sbatch.RefusedError as error:
                if error.expected:
                    raise
                self.tell(f"{error.what}. {error.hint}")

    def _send_what_fits(self, groups: Sequence[Sequence[Pack]], *, unfinished: Set[str], code: Path) -> None:
        """Each group as one array; above a limit of SLURM as much of it as that allows, and then no more."""
        for packs in groups:
            size = len(packs)
            while packs:
                try:
                    self._send(packs[:size], unfinished=unfinished, code=code)
                    packs = packs[size:]
                except sbatch.RefusedError as error:
                    waited = "temporarily" in error.sentence  # for two minutes: not again with half of it
                    if not error.is_limit or (size == 1 and not self.jobs and not waited):
                        raise
                    if size == 1 or waited:
                        return
                    size //= 2

    def _send(self, packs: Sequence[Pack], *, unfinished: Set[str], code: Path) -> None:
        self.calls += 1
        array = Array(
            folder=self.store.submission_path(self.name).absolute(),
            number=self.calls,
            packs=tuple(tuple(run.spec.folder for run in pack) for pack in packs),
            after=tuple(  # the runs of a pack have the same unfinished parents
                tuple(each.folder for each in pack[0].spec.parents if each.folder in unfinished)
                for pack in packs
            ),
            first=sum(len(each.packs) for each in self.arrays),
        )
        asked = self.profile.submit_for(packs[0][0].spec)
        options = site.fill_in(asked, self.site)
        # Runs of a job share a device, so their times add up.
        longest = max(math.fsum(run.seconds_left_alone for run in pack) for pack in packs)
        given = sbatch.parameters(
            options,
            # The staged code comes first on the path; the working folder is not on it.
            setup=[
                *self.profile.setup,
                f"export PYTHONPATH={shlex.quote(str(code.absolute()))}${{PYTHONPATH:+:$PYTHONPATH}}",
                "export PYTHONSAFEPATH=1",
            ],
            name=array.name,
            minutes=site.time_limit(longest, options, self.site),
            at_once=max(1, (self.limit or sum(map(len, packs))) // self.profile.runs_per_job),
            on_hold=array.on_hold,
        )
        try:
            sbatch.send(array, given)
        except sbatch.RefusedError as error:
            if not error.is_limit:
                sbatch.judge(asked, profile=self.profile, here=self.site)  # names the lines
            raise
        for job_id, folders in zip(array.ids, array.packs, strict=True):
            self.jobs.update(dict.fromkeys(folders, job_id))
        self.arrays.append(array)


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
        sent = Submission(
            store=copy, profile=profile.in_this_environment(on_event), site=here,
            execution=execution, limit=jobs, tell=on_event,
        )  # fmt: skip
        sent.judge(runs)
        if not here.partitions:
            on_event("No SLURM answers here: what the profile leaves open is read from the cluster itself.")
        with sbatch.recording(Path(folder) / "recorded") as calls:
            sent.send(runs)
        texts, of_calls = [], iter(sent.arrays)
        for call in calls.read_text().splitlines():
            command, _, arguments = call.partition(" ")
            if command == "sbatch":
                about = _about(next(of_calls)) + ("" if here.partitions else FILLED_IN)
                texts.append(Path(arguments).read_text().replace("\n", f"\n# {about}\n", 1))
            else:
                texts.append(f"# then: {call}")
        return [text.replace(folder, "").replace(sent.name, "SUBMISSION") for text in texts]


def _about(array: Array) -> str:
    count = sum(map(len, array.packs))
    runs = array.packs[0][0] if count == 1 else f"{count} runs, {array.packs[0][0]} …"
    return f"sbatch call {array.number}: {runs}"
