"""Calling SLURM's own commands: with a time limit, in an environment that changes nothing, never a shell."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence

from tfkd_cli.errors import RequestError, RunError

TIMEOUT_SECONDS = 60.0  # clients give up by themselves after 9 s when slurmctld is down; a busy one is slower
COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")

# Variables that name the cluster; every other variable that SLURM's commands read describes a surrounding
# job (SLURM_MEM_PER_CPU of salloc), wins over the script (SBATCH_TIMELIMIT) or hides jobs (SQUEUE_PARTITION).
_OF_THE_CLUSTER = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS", "SLURM_JWT"})
_OF_THE_USER = ("SBATCH_", "SRUN_", "SQUEUE_", "SINFO_", "SCANCEL_", "SCONTROL_")
_READ_BY_SLURM = ("SLURM_", "SLURMD_", "SUBMITIT_", *_OF_THE_USER)

# The signal that ends a job reaches all its processes, including a scontrol that it has just started.
KILLED_PAUSES = (0.2, 0.5, 1.0, 0.0)


class SlurmError(RunError):
    """A SLURM command failed; `sentence` is its own message."""

    def __init__(self, command: str, sentence: str) -> None:
        self.sentence = sentence
        # slurmctld is down, or no cluster is configured here.
        if re.search("unable to contact|connection refused|could not establish|timed out", sentence, re.I):
            what = f"SLURM does not answer: {sentence}"
            hint = "nothing was lost; give the same command again later."
        else:
            what, hint = f"{command} failed: {sentence}", "`tfkd doctor --cluster NAME` checks a profile."
        super().__init__(what, hint=hint)


def require() -> None:
    """RequestError where SLURM's commands are missing."""
    missing = [each for each in COMMANDS if shutil.which(each) is None]
    if missing:
        raise RequestError(
            f"no {' and no '.join(missing)} on this machine.",
            expected="SLURM's commands on PATH: submit from a login node of the cluster.",
            hint="--cluster local runs here; --dry-run shows what would be sent.",
        )


def ask(command: Sequence[str], *, text: str | None = None) -> str:
    """What a command prints, given `text` as input; SlurmError with its own message when it fails."""
    for pause in KILLED_PAUSES:
        try:
            with clean_environment():
                done = subprocess.run(
                    command,
                    input=text,
                    timeout=TIMEOUT_SECONDS,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    check=False,
                )
        except (FileNotFoundError, subprocess.TimeoutExpired) as error:
            raise SlurmError(command[0], str(error)) from error
        if done.returncode >= 0:
            break
        time.sleep(pause)
    if done.returncode != 0:
        sentence = sentence_of(done.stderr or done.stdout) or f"exit code {done.returncode}"
        raise SlurmError(command[0], sentence)
    return done.stdout


def sentence_of(text: str) -> str:
    """The part of SLURM's stderr that says what is wrong, without `sbatch: error: ` and the like."""
    lead = rf"^((?:{'|'.join(COMMANDS)}|allocation failure|error|fatal): )+"
    lines = (re.sub(lead, "", line.strip()) for line in text.splitlines())
    return " ".join(dict.fromkeys(filter(None, lines)))


@contextlib.contextmanager
def clean_environment() -> Iterator[None]:
    """`os.environ` without what SLURM's commands would read from it (submitit calls sbatch with os.environ).

    `submitit.helpers.clean_env` would also take SLURM_CONF, without which no cluster is found here.
    """
    names = [key for key in os.environ if key.startswith(_READ_BY_SLURM) and key not in _OF_THE_CLUSTER]
    hidden = {key: os.environ.pop(key) for key in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


def ignored_variables(used: Sequence[str] = ()) -> list[str]:
    """The user's own variables that `clean_environment` hides; SLURM_* may be those of a surrounding job."""
    return sorted(key for key in os.environ if key.startswith(_OF_THE_USER) and key not in used)
