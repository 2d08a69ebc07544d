"""One array through submitit: an intent before sbatch, the job ids after it, and what a refusal means."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfkd_cli.backends.slurm import client, job, queue
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.errors import RunError

if TYPE_CHECKING:
    from pathlib import Path

    from tfkd_cli.backends.slurm.profile import Profile
    from tfkd_cli.backends.slurm.records import Array

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
# SLURM's sentence → the key of the profile it is about.
_ABOUT = (
    (r"partition", "slurm_partition"),
    (r"account", "slurm_account"),
    (r"qos|quality of service", "slurm_qos"),
    (r"wckey", "slurm_wckey"),
    (r"time limit", "timeout_min"),
    (r"feature|constraint", "slurm_constraint"),
    (r"generic resource|gres", "gpus_per_node"),
    (r"memory", "mem_gb"),
    (r"reservation", "slurm_additional_parameters"),
    (r"node configuration|nodes? count", "gpus_per_node"),
    (r"cpu count|cpus", "cpus_per_task"),
)


class LimitReachedError(RunError):
    """SLURM takes no array of this size now."""


class RefusedError(RunError):
    """SLURM will not take this at all; `sentence` is its own."""

    def __init__(self, sentence: str, profile: Profile) -> None:
        self.sentence = sentence
        key = key_about(sentence)
        where = profile.line_of(key) if key else f"{profile.path}, [submit]"
        super().__init__(
            f"sbatch refused: {sentence}",
            expected=where,
            hint=f"`tfkd doctor --cluster {profile.name}` checks a profile.",
        )


def key_about(sentence: str) -> str | None:
    """The `[submit]` key that a refusal speaks of."""
    return next((key for pattern, key in _ABOUT if re.search(pattern, sentence, re.IGNORECASE)), None)


def send(array: Array, parameters: Mapping[str, Any], *, store: Path, profile: Profile) -> tuple[str, ...]:
    """sbatch `array`, declared before and marked after; the ids of its elements.

    LimitReachedError when a smaller one may pass, RefusedError when none will, SlurmError when SLURM does
    not answer; in that last case the intent stays, and the next submission looks the name up.
    """
    array.declare()
    try:
        ids = _submit(array, parameters, store=store, python=profile.submit.get("slurm_python"))
    except RunError as error:
        sentence = getattr(error, "sentence", error.what)
        if _UNCERTAIN.search(sentence):
            ids = adopt(array, store=store)  # raises SlurmError when slurmctld is silent
            if not ids:
                raise
        else:
            array.mark_refused(sentence)
            shutil.rmtree(array.job_folder, ignore_errors=True)
            if _LIMIT.search(sentence):
                raise LimitReachedError(sentence) from error
            raise RefusedError(sentence, profile) from error
    array.mark_sent(ids)
    return ids


def _submit(
    array: Array, parameters: Mapping[str, Any], *, store: Path, python: str | None
) -> tuple[str, ...]:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    payloads = _payloads(array, store)
    noise = io.StringIO()  # submitit prints sbatch's stderr; our error has it too
    with client.outside_a_job(), contextlib.redirect_stderr(noise):
        # A fresh executor and folder: submitit sleeps 0.2 s between the submissions of one.
        executor = submitit.SlurmExecutor(folder=array.job_folder, python=python)
        executor.update_parameters(**parameters)
        try:
            jobs = executor.map_array(job.main, *zip(*payloads, strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError("sbatch", client.sentence_of(str(error)) or "no reason given") from error
    return tuple(each.job_id for each in jobs)


def adopt(array: Array, *, store: Path) -> tuple[str, ...]:
    """The ids of an array whose sender died before it could write them down; () when SLURM never got it.

    Pickles that were not yet given their job's name are written again: a job waits 60 s for its own.
    """
    found = queue.find_by_name(array.name)
    if not found:
        array.mark_refused("not known to SLURM by its name")
        return ()
    base = found[0].split("_")[0]
    single = len(array.packs) == 1 and "_" not in found[0]
    ids = (base,) if single else tuple(f"{base}_{index}" for index in range(len(array.packs)))
    _restore_pickles(array, ids, store=store)
    array.mark_sent(ids)
    return ids


def _restore_pickles(array: Array, ids: Sequence[str], *, store: Path) -> None:
    from submitit.core.utils import DelayedSubmission, JobPaths

    array.job_folder.mkdir(parents=True, exist_ok=True)
    for job_id, payload in zip(ids, _payloads(array, store), strict=True):
        path = JobPaths(array.job_folder, job_id).submitted_pickle
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            DelayedSubmission(job.main, *payload).dump(temporary)
            temporary.replace(path)


def _payloads(array: Array, store: Path) -> list[tuple[str, str, str]]:
    """Three strings per job; everything else is JSON in the store."""
    return [(str(store), array.submission, str(array.first + offset)) for offset in range(len(array.packs))]
