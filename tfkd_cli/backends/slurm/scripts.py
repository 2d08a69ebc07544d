"""The sbatch script of an array: `--dry-run` shows, without SLURM, what submitit would send."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfkd_cli.backends.slurm.groups import Group
from tfkd_cli.backends.slurm.profile import Profile, sbatch_parameters
from tfkd_cli.backends.slurm.site import Site, fill_in, signal_delay, time_limit


def parameters(
    group: Group,
    *,
    profile: Profile,
    site: Site,
    name: str,
    code: Path,
    dependency: str,
    seconds: float | None,
    cap: int | None = None,
    on_hold: bool = False,
) -> dict[str, Any]:
    """What submitit's SLURM executor is given: the profile's values, and what tfkd must set itself."""
    submit = request(group, profile=profile, site=site)
    named = sbatch_parameters(submit)
    limit = time_limit(seconds, submit, site)
    additional = {"requeue": True, **(named.get("additional_parameters") or {})}
    additional = {key: value for key, value in additional.items() if value is not False}  # else --key=False
    return {
        "signal_delay_s": signal_delay(limit),
        "comment": name,
        **named,
        "time": named.get("time", limit),  # the profile's own, "1-00:00" too, goes over unchanged
        "job_name": name,
        "setup": setup_lines([*profile.setup, *(named.get("setup") or [])], code=code),
        "dependency": dependency or None,
        "array_parallelism": cap or len(group.packs),
        "wckey": named.get("wckey"),  # submitit would send "submitit"; some sites refuse unknown ones
        "stderr_to_stdout": True,
        "use_srun": True,
        "srun_args": srun_arguments(named),
        "additional_parameters": {**additional, **({"hold": True} if on_hold else {})},
    }


def request(group: Group, *, profile: Profile, site: Site) -> dict[str, Any]:
    """The `[submit]` values of a group, completed by what the site has."""
    return fill_in(profile.submit_for(group.runs[0]), site)


def threads(group: Group, *, profile: Profile, site: Site) -> int:
    """Threads of a run: the job's cores ÷ its runs; one where a GPU does the work."""
    asked = sbatch_parameters(request(group, profile=profile, site=site))
    if any(asked.get(key) for key in ("gpus_per_node", "gpus_per_task", "gres")):
        return 1
    return max(1, int(asked.get("cpus_per_task") or 1) // profile.runs_per_job)


def srun_arguments(named: Mapping[str, Any]) -> list[str]:
    """Since SLURM 22.05 srun no longer inherits --cpus-per-task: without it a run may sit on one core."""
    given = list(named.get("srun_args") or [])
    cpus = named.get("cpus_per_task")
    return given if cpus is None else [f"--cpus-per-task={cpus}", *given]


def setup_lines(given: Sequence[str], *, code: Path) -> list[str]:
    """The profile's lines, then the staged code first on the path; the working folder is not on it."""
    return [
        *given,
        f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
    ]


def script(parameters: Mapping[str, Any], *, folder: Path, elements: int, python: str | None = None) -> str:
    """The text that sbatch gets (submitit 1.5's private function; a golden file guards it)."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = (
        f"{python or shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    )
    map_count = elements if elements > 1 else None
    text: str = _make_sbatch_string(command=command, folder=folder, map_count=map_count, **parameters)
    return text
