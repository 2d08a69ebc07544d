"""One array through submitit: its sbatch options, an intent before sbatch, the job's id after it, refusals.

A dry run is the same sender with other programs called sbatch and scontrol (`recording`).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.backends.slurm import client, job, queue, site
from tfkd_cli.backends.slurm.arrays import Array
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.errors import RequestError
from tfkd_cli.training import worker

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.site import Site

# A refusal that a smaller array, or a later try, may not get.
_LIMIT = re.compile(
    r"submit ?(?:job)?s? ?limit|MaxSubmit|MaxJobs?(?:Per|Count)|QOSMax|AssocMax|AssocGrp|QOSGrp"
    r"|Resource temporarily|job array spec|maximum.*(?:jobs|submitted)|violates accounting/QOS policy",
    re.IGNORECASE,
)
# sbatch failed, and yet slurmctld may have the job.
_UNCERTAIN = re.compile(
    r"unable to contact|timed? ?out|socket|communication|connection|zero bytes|Could not make sense",
    re.IGNORECASE,
)
OF_SUBMITIT = ("python", "setup", "srun_args", "signal_delay_s")  # options that sbatch does not know
IN_FLIGHT_SECONDS = 300.0  # an sbatch whose slurmctld is busy tries for two minutes


class RefusedError(SlurmError):
    """SLURM will not take this; `lines` are those of the profile to change."""

    def __init__(self, sentence: str, lines: Sequence[str] = ()) -> None:
        super().__init__("sbatch", sentence)
        self.what, self.expected = f"sbatch refused: {sentence}", "; ".join(lines)
        self.hint = "`tfkd doctor --cluster NAME` checks the profile; `sinfo -R` lists nodes that are down."
        self.is_limit = _LIMIT.search(sentence) is not None  # a smaller array may pass, or this one later


def check_limits(options: Mapping[str, Any], *, profile: Profile, here: Site) -> None:
    """RequestError for what is above its partition's limits: sbatch takes such a job, which never starts."""
    partition = here.partition(options.get("partition"))
    if partition is None:
        return
    for option, value, limit, unit in (
        ("time", site.minutes(options.get("time", 1)) or site.NO_LIMIT, partition.limit_minutes, "minutes"),
        ("mem", site.megabytes(options.get("mem", 1)), partition.limit_mb, "MB on a node"),
    ):
        if limit is not None and value > limit:
            raise RequestError(
                f"the profile {profile.name} requests {option}={options[option]}; "
                f"its partition allows {limit} {unit}.",
                expected=profile.line_of(option),
                hint="change it there, or leave it out: what the partition allows is taken.",
            )


def judge(options: Mapping[str, Any], *, profile: Profile, here: Site) -> None:
    """Let `sbatch --test-only` judge a job with these options.

    RequestError as from `check_limits`; RefusedError where SLURM refuses it, with the lines of those options
    without any one of which it would be taken, or refused in other words; of all where there is no such one.
    """
    check_limits(options, profile=profile, here=here)
    if said := _refusal(options, here):
        without = {each: {key: options[key] for key in options if key != each} for each in options}
        wrong = [each for each in options if _refusal(without[each], here) != said]
        if not wrong and _refusal({}, here) != said:
            wrong = [*options]
        raise RefusedError(said, [profile.line_of(each) for each in wrong])


def _refusal(options: Mapping[str, Any], here: Site) -> str:
    """What `sbatch --test-only` has against a job with these options; empty where it has nothing."""
    filled = site.fill_in(options, here)
    minutes = site.time_limit(0, filled, here)
    given = parameters(filled, setup=[], name="tfkd-doctor", minutes=minutes, at_once=1)
    try:
        client.ask(["sbatch", "--test-only"], text=script(given))
    except SlurmError as error:
        return error.sentence
    return ""


def parameters(
    options: Mapping[str, Any],
    *,
    setup: Sequence[str],
    name: str,
    minutes: int,
    at_once: int,
    on_hold: bool = False,
) -> dict[str, Any]:
    """What submitit's SLURM executor is given: the profile's options, and what tfkd must set itself.

    sbatch's own options go among submitit's additional parameters, which win over all that it sets itself.
    """
    # Seconds before the limit at which a run is warned: SLURM's slack of 60 s, a step, and a save.
    warning = options.get("signal_delay_s", min(120, minutes * 60 // 5))
    sbatchs = {
        "comment": name,
        "time": minutes,
        "requeue": True,
        **{option: value for option, value in options.items() if option not in OF_SUBMITIT},
        "job_name": name,
        "signal": f"USR2@{warning}",  # said outright: SUBMITIT_PREEMPT_SIGNAL would change it
        "hold": on_hold,
        "no_requeue": options.get("requeue") is False,
        "ntasks": "gpus_per_task" in options and site.tasks(options),  # sbatch wants to know how many
    }
    return {
        "python": options.get("python"),
        "setup": [*setup, *options.get("setup", [])],
        "array_parallelism": at_once,
        "wckey": None,  # submitit would send "submitit"; some sites refuse unknown ones
        "stderr_to_stdout": True,
        "srun_args": [*srun_arguments(options), *options.get("srun_args", [])],
        "additional_parameters": {key: value for key, value in sbatchs.items() if value is not False},
    }


def srun_arguments(options: Mapping[str, Any]) -> list[str]:
    """`--export=ALL`: where the job has `--export=NONE`, srun would not hand on the script's own variables.

    Since SLURM 22.05 srun does not inherit --cpus-per-task: without it a run may sit on one core. Of a job's
    tasks the others are killed some time after the first has ended; --kill-on-bad-exit would kill them
    at once, before rank 0 has written down what happened.
    """
    cores = [f"--cpus-per-task={options['cpus_per_task']}"] if "cpus_per_task" in options else []
    several = [f"--wait={worker.RANK_SECONDS}"] if site.tasks(options) > 1 else []
    return ["--export=ALL", *cores, *several]


def send(array: Array, given: Mapping[str, Any]) -> None:
    """sbatch `array`, recorded before and after.

    RefusedError when SLURM does not take it, SlurmError when SLURM does not answer; in that last case the
    intent stays, and the next submission looks the name up.
    """
    array.record_intent()
    try:
        array.record_job(submit(array, given))
    except SlurmError as error:
        if not _UNCERTAIN.search(error.sentence):
            array.withdraw()
            raise RefusedError(error.sentence) from error
        jobs = queue.ask_jobs()  # raises SlurmError when slurmctld is silent
        found = [job_id for job_id, (name, _) in jobs.items() if name == array.name]
        if not found:
            raise
        adopt(array, found[0])


def submit(array: Array, given: Mapping[str, Any]) -> str:
    """The id of the array, from sbatch through submitit; SlurmError with sbatch's message."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    options = {**given}
    noise = io.StringIO()  # submitit prints sbatch's stderr; our error has it too
    with client.clean_environment(), contextlib.redirect_stderr(noise):
        # A fresh executor and folder: submitit sleeps 0.2 s between the submissions of one.
        executor = submitit.SlurmExecutor(folder=array.job_folder, python=options.pop("python", None))
        executor.update_parameters(**options)
        try:
            jobs = executor.map_array(job.main, *zip(*_arguments(array), strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError("sbatch", client.sentence_of(str(error)) or "no reason given") from error
    return str(jobs[0].job_id).split("_")[0]


def script(given: Mapping[str, Any]) -> str:
    """The text that sbatch would get for one job with these parameters."""
    with tempfile.TemporaryDirectory() as name, recording(Path(name) / "recorded") as calls:
        submit(Array(folder=Path(name), number=1, packs=(("run",),)), given)
        return Path(calls.read_text().split(maxsplit=1)[1].strip()).read_text()


def adopt(array: Array, job_id: str) -> None:
    """Take over an array that SLURM has under this id, and whose sender died before it could write that down.

    Pickles that were not yet given their job's name are written again: a job waits 60 s for its own.
    """
    import submitit

    array.job = job_id.split("_")[0]
    array.job_folder.mkdir(parents=True, exist_ok=True)
    for each, arguments in zip(array.ids, _arguments(array), strict=True):
        path = submitit.SlurmJob(folder=array.job_folder, job_id=each).paths.submitted_pickle
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            submitit.helpers.DelayedSubmission(job.main, *arguments).dump(temporary)
            temporary.replace(path)
    array.record_job(array.job)


def _arguments(array: Array) -> list[tuple[str, str, str]]:
    """Store, submission and index of each job; everything else is JSON in the store."""
    store, name = array.folder.absolute().parents[1], array.folder.name
    return [(str(store), name, str(array.first + offset)) for offset in range(len(array.packs))]


def wait_in_flight(submissions: Path) -> None:
    """Wait for an sbatch that a tfkd of this machine left behind when it died; it names the script."""
    folder, deadline = str(submissions.absolute()).encode(), time.monotonic() + IN_FLIGHT_SECONDS
    while time.monotonic() < deadline:
        commands = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                commands.append(path.read_bytes())
        if not any(b"sbatch" in each and folder in each for each in commands):
            return
        time.sleep(0.2)


@contextlib.contextmanager
def recording(folder: Path) -> Iterator[Path]:
    """Let `sbatch` and `scontrol` be programs that note their arguments, one call a line, in the file given.

    Everything else, submitit included, works as it does when jobs are sent.
    """
    calls, programs = folder / "calls", folder / "programs"
    programs.mkdir(parents=True)
    calls.touch()
    note = f'#!/bin/sh\necho "${{0##*/}} $*" >> {shlex.quote(str(calls))}\n'
    count = 'while read -r name _; do [ "$name" = sbatch ] && n=$((n + 1)); done'
    number = f"n=0; {count} < {shlex.quote(str(calls))}; echo Submitted batch job $n\n"
    for name, text in (("sbatch", note + number), ("scontrol", note), ("srun", note)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = f"{programs}{os.pathsep}{before}"
    try:
        yield calls
    finally:
        os.environ["PATH"] = before
