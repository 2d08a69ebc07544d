"""Calling SLURM's own commands: with a time limit, without our traces of a surrounding job, never a shell."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence

from tfkd_cli.errors import RequestError, RunError

TIMEOUT_SECONDS = 60.0  # clients give up by themselves after 9 s when slurmctld is down; a busy one is slower

# What a job's environment says about the site and not about the job.
_OF_THE_SITE = ("SLURM_CONF", "SLURM_CLUSTERS")


# The signal that ends a job reaches all its processes, a scontrol that it has just started too.
KILLED_PAUSES = (0.2, 0.5, 1.0)


class SlurmError(RunError):
    """A SLURM command failed; `sentence` is what it said itself."""

    def __init__(self, command: str, sentence: str) -> None:
        self.sentence = sentence
        if unreachable(sentence):
            what, hint = (
                f"SLURM does not answer: {sentence}",
                "nothing was lost; give the same command again later.",
            )
        else:
            what, hint = f"{command} failed: {sentence}", "`tfkd doctor --cluster NAME` checks a profile."
        super().__init__(what, hint=hint)


def unreachable(sentence: str) -> bool:
    """Whether a sentence of SLURM means that slurmctld is down, or no cluster is configured here."""
    told = sentence.lower()
    return any(
        each in told
        for each in ("unable to contact", "connection refused", "could not establish", "timed out")
    )


def present(command: str = "sbatch") -> bool:
    """Whether this machine has SLURM's commands."""
    return shutil.which(command) is not None


def require() -> None:
    """RequestError where SLURM's commands are missing."""
    missing = [each for each in ("sbatch", "squeue", "scontrol", "srun") if not present(each)]
    if missing:
        raise RequestError(
            f"no {' and no '.join(missing)} on this machine.",
            expected="SLURM's commands on PATH: submit from a login node of the cluster.",
            hint="--cluster local runs here; --dry-run shows what would be sent.",
        )


def ask(command: Sequence[str], *, seconds: float = TIMEOUT_SECONDS) -> str:
    """What a command prints; SlurmError with its own sentence when it fails or is silent for `seconds`."""
    try:
        done = _run(command, seconds=seconds)
        for pause in KILLED_PAUSES:
            if done.returncode >= 0:
                break
            time.sleep(pause)
            done = _run(command, seconds=seconds)
    except FileNotFoundError as error:
        raise SlurmError(command[0], f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(command[0], f"{command[0]} timed out after {seconds:.0f} s") from error
    if done.returncode != 0:
        raise SlurmError(
            command[0], sentence_of(done.stderr or done.stdout) or f"exit code {done.returncode}"
        )
    return done.stdout


def _run(command: Sequence[str], *, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
        env=outside_environment(),
    )


def sentence_of(text: str) -> str:
    """The part of SLURM's stderr that says what is wrong: `sbatch: error: ` and its like taken off."""
    lines = []
    for line in text.splitlines():
        told = line.strip()
        while any(told.startswith(lead := f"{head}: ") for head in (*_HEADS, "error", "fatal")):
            told = told.removeprefix(lead)
        if told and told not in lines:
            lines.append(told)
    return " ".join(lines)


_HEADS = ("sbatch", "squeue", "scontrol", "sacct", "scancel", "sinfo", "sacctmgr", "allocation failure")


def outside_environment() -> dict[str, str]:
    """This environment as it would be outside the job we may be in: a nested sbatch inherits nothing."""
    return {key: value for key, value in os.environ.items() if not _of_a_job(key)}


@contextlib.contextmanager
def outside_a_job() -> Iterator[None]:
    """The same for submitit, which calls sbatch with os.environ."""
    hidden = {key: os.environ.pop(key) for key in list(os.environ) if _of_a_job(key)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _of_a_job(key: str) -> bool:
    # submitit.helpers.clean_env would also take SLURM_CONF, without which no cluster is found here.
    inside = "SLURM_JOB_ID" in os.environ
    return inside and key.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) and key not in _OF_THE_SITE
