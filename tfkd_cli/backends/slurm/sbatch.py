"""One array through submitit: its sbatch options, an intent before sbatch, the job ids after it, refusals.

A dry run is the same sender with other programs called sbatch and scontrol (`recording`).
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.backends.slurm import client, job, queue, site, submissions
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.training import worker

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.site import Site
    from tfkd_cli.backends.slurm.submissions import Array

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
IN_FLIGHT_SECONDS = 300.0  # an sbatch whose slurmctld is busy tries for two minutes


class LimitReachedError(RunError):
    """SLURM takes no array of this size now."""


class RefusedError(RunError):
    """SLURM will not take this at all; `sentence` is its own, `lines` those of the profile to change."""

    def __init__(self, sentence: str, profile: Profile, lines: Sequence[str] = ()) -> None:
        self.sentence, self.lines = sentence, "; ".join(lines)
        super().__init__(
            f"sbatch refused: {sentence}",
            expected=self.lines,
            hint=f"`tfkd doctor --cluster {profile.name}` checks it; `sinfo -R` lists nodes that are down.",
        )


def check_limits(options: Mapping[str, Any], *, profile: Profile, here: Site) -> None:
    """RequestError for what is above its partition's limits: sbatch takes such a job, which never starts."""
    partition = here.partition(options.get("partition"))
    if partition is None:
        return
    asked = {
        "time": (site.minutes(options.get("time", 1)) or site.NO_LIMIT, partition.limit_minutes, "minutes"),
        "mem": (site.megabytes(options.get("mem", 1)), partition.limit_mb, "MB on a node"),
    }
    for option, (value, limit, unit) in asked.items():
        if limit is not None and value > limit:
            raise RequestError(
                f"the profile {profile.name} requests {option}={options[option]}; "
                f"its partition allows {limit} {unit}.",
                expected=profile.line_of(option),
                hint="change it there, or leave it out: what the partition allows is taken.",
            )


def judge(options: Mapping[str, Any], *, profile: Profile, here: Site) -> str:
    """What `sbatch --test-only` says of a job with these options.

    RequestError as from `check_limits`; RefusedError where SLURM refuses it, with the lines of those options
    without any one of which it would be taken, or refused in other words; of all where there is no such one.
    """
    check_limits(options, profile=profile, here=here)

    def test(options: Mapping[str, Any]) -> str:
        filled = site.fill_in(options, here)
        minutes = site.time_limit(None, filled, here)
        given = parameters(filled, setup=[], name="tfkd-doctor", minutes=minutes, at_once=1)
        return client.run(["sbatch", "--test-only"], text=script(given)).stderr

    def changes(sentence: str, options: Mapping[str, Any]) -> bool:
        try:
            test(options)
        except SlurmError as error:
            return error.sentence != sentence
        return True

    try:
        return test(options)
    except SlurmError as error:
        said = error.sentence
        without = {each: {key: options[key] for key in options if key != each} for each in options}
        wrong = [each for each in options if changes(said, without[each])]
        wrong = wrong or [each for each in options if changes(said, {})]
        raise RefusedError(said, profile, [profile.line_of(each) for each in wrong]) from error


def parameters(
    options: Mapping[str, Any],
    *,
    setup: Sequence[str],
    name: str,
    minutes: int,
    at_once: int,
    on_hold: bool = False,
) -> dict[str, Any]:
    """What submitit's SLURM executor is given: the profile's options, and what tfkd must set itself."""
    given = {option: value for option, value in options.items() if option != "python" and option[:2] != "--"}
    more = {option[2:]: value for option, value in options.items() if option[:2] == "--"}
    # Said outright, since SUBMITIT_PREEMPT_SIGNAL would change the signal.
    warning = {"signal": f"USR2@{given.pop('signal_delay_s', site.signal_delay(minutes))}"}
    more = {"requeue": True, **more, **warning, **({"hold": True} if on_hold else {})}
    if more["requeue"] is False:
        more["no-requeue"] = True
    if "gpus_per_task" in given:  # sbatch wants to know how many tasks
        more["ntasks"] = site.tasks(given)
    return {
        "comment": name,
        "time": minutes,
        **given,  # the profile's own time goes over unchanged, "1-00:00" too
        "job_name": name,
        "setup": [*setup, *given.get("setup", [])],
        "array_parallelism": at_once,
        "wckey": given.get("wckey"),  # submitit would send "submitit"; some sites refuse unknown ones
        "stderr_to_stdout": True,
        "srun_args": srun_arguments(given),
        "additional_parameters": {key: value for key, value in more.items() if value is not False},
    }


def srun_arguments(options: Mapping[str, Any]) -> list[str]:
    """`--export=ALL`: where the job has `--export=NONE`, srun would not hand on the script's own variables.

    Since SLURM 22.05 srun does not inherit --cpus-per-task: without it a run may sit on one core. Of a job's
    tasks the others are killed some time after the first has ended; --kill-on-bad-exit would kill them
    at once, before rank 0 has written down what happened.
    """
    cores = [f"--cpus-per-task={options['cpus_per_task']}"] if "cpus_per_task" in options else []
    several = [f"--wait={worker.RANK_SECONDS}"] if site.tasks(options) > 1 else []
    return ["--export=ALL", *cores, *several, *options.get("srun_args", [])]


def setup_lines(profile: Profile, *, code: Path) -> list[str]:
    """The profile's lines, then the staged code first on the path; the working folder is not on it."""
    return [
        *profile.setup,
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
    ]


def send(array: Array, given: Mapping[str, Any], *, store: Path, profile: Profile) -> None:
    """sbatch `array`, recorded before and after.

    LimitReachedError when a smaller one may pass, RefusedError when none will, SlurmError when SLURM does
    not answer; in that last case the intent stays, and the next submission looks the name up.
    """
    array.record_intent()
    try:
        ids = submit(array, given, store=store, python=profile.submit.get("python"))
    except SlurmError as error:
        if _UNCERTAIN.search(error.sentence):
            jobs = queue.ask_jobs()  # raises SlurmError when slurmctld is silent
            found = [job_id for job_id, (name, _) in jobs.items() if name == array.name]
            if not found:
                raise
            return adopt(array, found[0], store=store)
        shutil.rmtree(array.job_folder, ignore_errors=True)
        if _LIMIT.search(error.sentence):
            raise LimitReachedError(error.sentence) from error
        raise RefusedError(error.sentence, profile) from error
    array.record_ids(ids)


def submit(
    array: Array, given: Mapping[str, Any], *, store: Path, python: str | None = None
) -> tuple[str, ...]:
    """The ids of the array's elements, from sbatch through submitit; SlurmError with sbatch's message."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    noise = io.StringIO()  # submitit prints sbatch's stderr; our error has it too
    with client.clean_environment(), contextlib.redirect_stderr(noise):
        # A fresh executor and folder: submitit sleeps 0.2 s between the submissions of one.
        executor = submitit.SlurmExecutor(folder=array.job_folder, python=python)
        executor.update_parameters(**given)
        try:
            jobs = executor.map_array(job.main, *zip(*_arguments(array, store), strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError("sbatch", client.sentence_of(str(error)) or "no reason given") from error
    return tuple(each.job_id for each in jobs)


def script(given: Mapping[str, Any]) -> str:
    """The text that sbatch would get for one job with these parameters."""
    with tempfile.TemporaryDirectory() as name, recording(Path(name) / "recorded") as calls:
        one = submissions.Array(submission="doctor", number=1, packs=(("run",),), folder=Path(name))
        submit(one, given, store=Path(name))
        return Path(calls.read_text().split(maxsplit=1)[1].strip()).read_text()


def adopt(array: Array, job_id: str, *, store: Path) -> None:
    """Take over an array that SLURM has under this id, and whose sender died before it could write that down.

    Pickles that were not yet given their job's name are written again: a job waits 60 s for its own.
    """
    import submitit

    base, count = job_id.split("_")[0], len(array.packs)
    single = count == 1 and "_" not in job_id
    ids = [base] if single else [f"{base}_{index}" for index in range(count)]
    array.job_folder.mkdir(parents=True, exist_ok=True)
    for each, arguments in zip(ids, _arguments(array, store), strict=True):
        path = submitit.SlurmJob(folder=array.job_folder, job_id=each).paths.submitted_pickle
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            submitit.helpers.DelayedSubmission(job.main, *arguments).dump(temporary)
            temporary.replace(path)
    array.record_ids(ids)


def _arguments(array: Array, store: Path) -> list[tuple[str, str, str]]:
    """Three strings per job; everything else is JSON in the store."""
    return [(str(store), array.submission, str(array.first + offset)) for offset in range(len(array.packs))]


def wait_in_flight(submissions: Path, *, seconds: float = IN_FLIGHT_SECONDS) -> None:
    """Wait for an sbatch that a tfkd of this machine left behind when it died; it names the script."""
    folder, deadline = str(submissions.absolute()).encode(), time.monotonic() + seconds
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
