"""A cluster's TOML: what is asked of SLURM for a run. Its `[submit]` keys are submitit's own, unchanged."""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from tfkd_cli.backends.slurm.site import asked_minutes
from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.spec import RunSpec

DEFAULT = "default"
ALIAS = "slurm"  # `--cluster slurm` is slurm/default.toml

# submitit's names that need no "slurm_" before them, and what SLURM's executor calls them.
GENERIC: Mapping[str, str] = {
    "timeout_min": "time",
    "mem_gb": "mem",
    "nodes": "nodes",
    "cpus_per_task": "cpus_per_task",
    "gpus_per_node": "gpus_per_node",
    "tasks_per_node": "ntasks_per_node",
}
# Keys of submitit that tfkd sets itself, and why a profile may not.
OURS: Mapping[str, str] = {
    "name": "tfkd finds its jobs by their name",
    "slurm_job_name": "tfkd finds its jobs by their name",
    "slurm_dependency": "tfkd knows which student needs which teacher",
    "slurm_teardown": "its last line would hide the exit code of a failed run",
    "slurm_use_srun": "without srun the warning before the time limit never reaches a run",
    "slurm_array_parallelism": "use --jobs",
    "slurm_num_gpus": "use gpus_per_node",
    "stderr_to_stdout": "one ordered log is always written",
    "slurm_stderr_to_stdout": "one ordered log is always written",
}
# The same for options of sbatch: with another name, tfkd would send a run again that SLURM has.
OUR_OPTIONS = ("job-name", "dependency", "array", "output", "error", "hold", "signal", "nodes", "ntasks")
_OPTIONS = 'a table of options of sbatch: { "mail-type" = "FAIL" }.'
_TOP = ("profile", "submit", "setup", "runs_per_job", "resources")
_PROFILE = ("description", "contact", "url")
_RESOURCES = ("dataset", "student", "submit")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Other `[submit]` values for some runs: those of a data set, of a network, or of both."""

    dataset: str | None
    student: str | None
    submit: Mapping[str, Any]

    def fit(self, spec: RunSpec) -> bool:
        """Whether these are for `spec`; a data set's content hash (`@…`) does not count."""
        of_dataset = self.dataset in (None, spec.dataset, spec.dataset.split("@")[0])
        return of_dataset and self.student in (None, spec.student)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One cluster, or one way to use it."""

    name: str
    path: Path
    submit: Mapping[str, Any] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    runs_per_job: int = 1
    resources: tuple[Resources, ...] = ()
    description: str = ""
    contact: str = ""
    url: str = ""

    def submit_for(self, spec: RunSpec) -> dict[str, Any]:
        """The `[submit]` values for one run; a later `[[resources]]` wins."""
        merged = dict(self.submit)
        for each in self.resources:
            if each.fit(spec):
                merged.update(each.submit)
        return merged

    def line_of(self, key: str) -> str:
        """`slurm/a100.toml, line 7: slurm_partition = "gpu"`, or where to add it."""
        for number, line in enumerate(self.path.read_text(errors="replace").splitlines(), 1):
            if re.match(rf"\s*{re.escape(key)}\s*=", line):
                return f"{self.path}, line {number}: {line.strip()}"
        return f"{self.path}, [submit]: {key} = …  (not set so far)"


def find(name: str) -> Profile:
    """The profile `name` means: a path, or in ./slurm, the user's folder, the package; else RequestError."""
    if "/" in name or name.endswith(".toml"):
        return read(Path(name).expanduser())
    paths = _known_paths()
    return read(
        paths[
            canonical(DEFAULT if name == ALIAS else name, paths, kind="cluster", hint="`tfkd list clusters`.")
        ]
    )


def clusters() -> list[Profile]:
    """All profiles there are; one that cannot be read says why in its description."""
    return [_read_or_say(path) for _, path in sorted(_known_paths().items())]


def _read_or_say(path: Path) -> Profile:
    try:
        return read(path)
    except RequestError as error:
        return Profile(name=path.stem, path=path, description=f"not usable: {error.what}")


def _known_paths() -> dict[str, Path]:
    """Name → file; an earlier folder hides a later one."""
    paths: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*.toml")):
            paths.setdefault(path.stem, path)
    return paths


def folders() -> Iterator[Path]:
    """Where profiles are looked for, the first wins."""
    yield Path("slurm")
    yield user_folder()
    package = Path(__file__).resolve().parents[2]
    shipped = package / "slurm"  # in a wheel; in an editable install the folder beside the package
    yield shipped if shipped.is_dir() else package.parent / "slurm"


def user_folder() -> Path:
    """`~/.config/tfkd/slurm`, or XDG_CONFIG_HOME's."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "tfkd" / "slurm"


def read(path: Path) -> Profile:
    """A profile from its file; RequestError naming file, key and valid keys on anything unexpected."""
    data = _parse(path)
    _check_keys(path, data, _TOP, where="the file")
    about = _table(path, data, "profile")
    _check_keys(path, about, _PROFILE, where="[profile]")
    submit = _submit(path, _table(path, data, "submit"), where="[submit]")
    return Profile(
        name=path.stem,
        path=path,
        submit=submit,
        setup=_lines(path, data.get("setup", [])),
        runs_per_job=_count(path, "runs_per_job", data.get("runs_per_job", 1)),
        resources=tuple(_resources(path, each) for each in _list(path, data.get("resources", []))),
        **{key: _text(path, key, value) for key, value in about.items()},
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RequestError(
            f"no profile {path}.", hint="`tfkd list clusters` shows those there are."
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        _refuse(path, f"cannot be read: {error}", expected="a TOML file with a [submit] table.")


def _resources(path: Path, data: Any) -> Resources:
    if not isinstance(data, dict):
        _refuse(path, "resources is no list of tables", expected="[[resources]]")
    _check_keys(path, data, _RESOURCES, where="[[resources]]")
    named = {key: _text(path, key, data[key]) for key in ("dataset", "student") if key in data}
    if not named:
        _refuse(path, "[[resources]] names no run", expected='dataset = "…" or student = "…" in it.')
    submit = _submit(path, _table(path, data, "submit"), where="[resources.submit]")
    return Resources(dataset=named.get("dataset"), student=named.get("student"), submit=submit)


def _submit(path: Path, data: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    for key, value in data.items():
        if key in OURS:
            _refuse(path, f"{where} sets {key}", expected=f"no {key}: {OURS[key]}.")
        if key in ("nodes", "tasks_per_node", "slurm_nodes", "slurm_ntasks_per_node") and value != 1:
            _refuse(
                path, f"{key} is {value}", expected="1: a run is one process; runs_per_job packs several."
            )
        _check_value(path, key, value)
        _check_ours(path, key, value)
    known = known_submit_keys()
    _check_keys(path, data, known or tuple(data), where=where)
    return dict(data)


@cache
def known_submit_keys() -> tuple[str, ...]:
    """The keys a `[submit]` may have: submitit's, less those tfkd sets itself; none known without submitit.

    Profiles can be listed without submitit, and without it nothing can be submitted.
    """
    try:
        from submitit.slurm.slurm import SlurmExecutor
    except ModuleNotFoundError:
        return ()
    of_slurm = {f"slurm_{each}" for each in SlurmExecutor._valid_parameters()}
    return tuple(sorted(({*GENERIC, "slurm_python"} | of_slurm) - set(OURS)))


def sbatch_parameters(submit: Mapping[str, Any]) -> dict[str, Any]:
    """`[submit]` under the names of submitit's SLURM executor: mem_gb = 8 → mem = "8GB"."""
    named = {
        GENERIC.get(key, key.removeprefix("slurm_")): value
        for key, value in submit.items()
        if key != "slurm_python"
    }
    if "mem_gb" in submit:
        gigabytes = float(submit["mem_gb"])
        named["mem"] = f"{gigabytes:.0f}GB" if gigabytes.is_integer() else f"{gigabytes * 1024:.0f}MB"
    return named


def _check_keys(path: Path, data: Mapping[str, Any], known: tuple[str, ...], *, where: str) -> None:
    for key in data:
        if key not in known:
            try:
                canonical(key, known, kind="key")
                hint = "names are written exactly."
            except RequestError as error:
                hint = error.hint
            _refuse(path, f'unknown key "{key}" in {where}', expected="Known: " + ", ".join(known), hint=hint)


def _check_value(path: Path, key: str, value: Any) -> None:
    """Nothing that could end a line of the sbatch script; the only shell a profile has is `setup`."""
    if not isinstance(value, str | int | float | list | dict):
        _refuse(path, f"{key} is a date or time to TOML", expected="text in quotes, or a number.")
    if isinstance(value, str) and not key.endswith("setup") and any(ord(each) < 32 for each in value):
        _refuse(path, f"{key} holds a control character", expected="one line of text.")
    if isinstance(value, list):
        for each in value:
            _check_value(path, key, each)
    if isinstance(value, dict):
        for name, each in value.items():
            _check_value(path, name, name)
            _check_value(path, name, each)


def _check_ours(path: Path, key: str, value: Any) -> None:
    """The values we calculate with, or add to, ourselves; the others are for sbatch to judge."""
    if key in ("timeout_min", "slurm_time"):
        try:
            asked_minutes(value)
        except ValueError:
            _refuse(path, f"{key} is {value}", expected='minutes, or a time of sbatch: "1-12:00:00".')
    whole = isinstance(value, int) and not isinstance(value, bool)
    if key in ("cpus_per_task", "slurm_cpus_per_task") and not (whole and value >= 1):
        _refuse(path, f"{key} is {value!r}", expected="a whole number of cores.")
    if key == "mem_gb" and not ((whole or isinstance(value, float)) and 0 < value < math.inf):
        _refuse(path, f"mem_gb is {value!r}", expected='a number; slurm_mem = "500MB" takes units.')
    if key in ("slurm_setup", "slurm_srun_args") and not isinstance(value, list):
        _refuse(path, f"{key} is {value!r}", expected="a list of texts.")
    if key == "slurm_additional_parameters":
        for option in (
            value if isinstance(value, dict) else _refuse(path, f"{key} is {value!r}", expected=_OPTIONS)
        ):
            if option in OUR_OPTIONS:
                _refuse(path, f"{key} sets {option}", expected="tfkd sets it itself.")


def _table(path: Path, data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key, {})
    if not isinstance(value, dict):
        _refuse(path, f"{key} is {value!r}", expected=f"a table [{key}].")
    return value


def _list(path: Path, value: Any) -> list[Any]:
    return (
        value if isinstance(value, list) else _refuse(path, "resources is no list", expected="[[resources]]")
    )


def _lines(path: Path, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        _refuse(path, f"setup is {value!r}", expected='a list of shell lines: setup = ["module load cuda"].')
    return tuple(value)


def _count(path: Path, key: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 64:
        _refuse(path, f"{key} is {value!r}", expected="a whole number from 1 to 64.")
    return value


def _text(path: Path, key: str, value: Any) -> str:
    return (
        value if isinstance(value, str) else _refuse(path, f"{key} is {value!r}", expected="text in quotes.")
    )


def _refuse(path: Path, what: str, *, expected: str, hint: str = "") -> NoReturn:
    raise RequestError(f"{path}: {what}.", expected=expected, hint=hint or "slurm/README.md has the keys.")
