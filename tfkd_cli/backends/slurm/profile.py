"""A cluster's TOML: what is requested of SLURM for a run. The keys of `[submit]` are submitit's own.

After reading, each option has the name that sbatch has for it, with underscores, however it was written:
`timeout_min = 60`, `slurm_time = 60` and `slurm_additional_parameters = { time = 60 }` are all `time`.
"""

from __future__ import annotations

import contextlib
import os
import re
import tomllib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from tfkd_cli import schema
from tfkd_cli.backends.slurm import client
from tfkd_cli.backends.slurm.site import CPUS, GPUS, MEMORY, tasks
from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.execution import GPUS_OF_A_RUN
from tfkd_cli.regular_files import expanded, open_regular
from tfkd_cli.schema import Meta, Positive, Record
from tfkd_cli.spec import RunSpec

# submitit's names for all its executors → sbatch's, where they differ.
GENERIC = {"timeout_min": "time", "mem_gb": "mem", "tasks_per_node": "ntasks_per_node"}
KEYS = "timeout_min, mem_gb, nodes, tasks_per_node, cpus_per_task, gpus_per_node"
FAMILIES = (MEMORY, CPUS, GPUS)
# What tfkd calculates with or adds to; submitit and sbatch judge the values of all other options.
_TYPES: Mapping[str, Any] = {
    "nodes": Positive,  # each run has as many
    "ntasks_per_node": Positive,
    "setup": list[str],
    "srun_args": list[str],
}
# Why a profile may not set an option → such options.
_OURS = {
    "tfkd knows which student needs which teacher": "dependency",
    "its last line would hide the exit code of a failed run": "teardown",
    "without srun the warning before the time limit never reaches a run": "use_srun",
    "use --jobs": "array_parallelism",
    "write requeue = false": "no_requeue",
    "tfkd finds its jobs by their name": "name job_name",
    "use nodes and tasks_per_node": "ntasks ntasks_per_gpu ntasks_per_socket ntasks_per_core",
    "set SLURM_CLUSTERS, which squeue reads too": "clusters cluster",
    "tfkd reads the job's id from what sbatch prints": "parsable quiet test_only",
    "tfkd sets it itself": "array output error hold signal wrap wait",
}
OURS = {option: reason for reason, options in _OURS.items() for option in options.split()}
# What a user has set for all submissions (SBATCH_ACCOUNT, …) fills what a profile leaves open.
_FROM_ENVIRONMENT = ("account", "partition", "qos", "constraint", "reservation", "export")
Options = Mapping[str, Any]


class _About(Record):
    """`[profile]`."""

    description: str = ""
    contact: str = ""
    url: str = ""


class Resources(Record):
    """`[[resources]]`: other `[submit]` values for the runs of a data set, of a network, or of both."""

    dataset: str | None = None
    student: str | None = None
    submit: dict[str, Any] = msgspec.field(default_factory=dict)

    def fit(self, spec: RunSpec) -> bool:
        """Whether these are for `spec`; a data set's content hash (`@…`) does not count."""
        of_dataset = self.dataset in (None, spec.dataset, spec.dataset.split("@")[0])
        return of_dataset and self.student in (None, spec.student)


class _File(Record):
    """A profile's TOML."""

    profile: _About = msgspec.field(default_factory=_About)
    submit: dict[str, Any] = msgspec.field(default_factory=dict)
    setup: tuple[str, ...] = ()  # shell lines: setup = ["module load cuda"]
    runs_per_job: Annotated[int, Meta(ge=1, le=64)] = 1
    resources: tuple[Resources, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One cluster, or one way to use it."""

    name: str
    path: Path
    text: str = ""
    submit: Options = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    runs_per_job: int = 1
    resources: tuple[Resources, ...] = ()
    processes: int | None = None  # of a run, by --gpus
    description: str = ""

    def submit_for(self, spec: RunSpec) -> dict[str, Any]:
        """The options for one run; a later `[[resources]]` wins, and --gpus over both.

        Where neither names tasks or GPUs, a run gets those that its data set is planned for.
        """
        options = dict(self.submit)
        for each in self.resources:
            if each.fit(spec):
                options = overlaid(options, each.submit)
        nodes, planned = options.get("nodes", 1), GPUS_OF_A_RUN.get(spec.dataset, 1)
        open_ = self.runs_per_job == 1 and not options.keys() & {*GPUS, "ntasks_per_node"}
        wanted = self.processes or max(planned if open_ else 1, tasks(options))
        if wanted % nodes or (wanted > 1 and self.runs_per_job > 1):
            raise RequestError(
                f"{wanted} processes of a run, on {nodes} node{'s' * (nodes > 1)} of {self.name}, "
                f"{self.runs_per_job} runs a job.",
                expected="as many on each node, and one run a job.",
                hint="change --gpus, or nodes and runs_per_job in the profile.",
            )
        if wanted != tasks(options):
            options["ntasks_per_node"] = wanted // nodes
            if open_ or options.get("gpus_per_node"):
                options["gpus_per_node"] = wanted // nodes
        return options

    def processes_of(self, spec: RunSpec) -> int:
        """How many processes, each with a GPU of its own, train one run."""
        return tasks(self.submit_for(spec))

    def line_of(self, option: str) -> str:
        """The lines that set an option or its like: `a100.toml, line 7: slurm_partition = "gpu"`."""
        family = next((each for each in FAMILIES if option in each), {option})
        generic = {sbatch: key for key, sbatch in GENERIC.items()}
        names = "|".join(
            each.replace("_", "[-_]")
            for each in (*family, *(generic[each] for each in family if each in generic))
        )
        found = [
            f"line {number}: {line.strip()}"
            for number, line in enumerate(self.text.splitlines(), 1)
            if re.search(rf'^[^#]*?(?<![\w-])"?(?:slurm_)?(?:--)?(?:{names})"?\s*=', line)
        ]
        unset = f"[submit]: {generic.get(option, f'slurm_{option}')} = …  (not set so far)"
        return f"{self.path}, {' or '.join(found) or unset}"

    def in_this_environment(self, tell: Callable[[str], None]) -> Profile:
        """The profile, with SBATCH_ACCOUNT and the like for open options; tells what is used or ignored."""
        names = {
            option: f"SBATCH_{option.upper()}" for option in _FROM_ENVIRONMENT if option not in self.submit
        }
        used = {option: os.environ[name] for option, name in names.items() if os.environ.get(name)}
        if used:
            tell(f"from your environment: {', '.join(sorted(names[option] for option in used))}.")
        if ignored := client.ignored_variables([names[option] for option in used]):
            tell(f"ignored in your environment, for it would win over the profile: {', '.join(ignored)}.")
        return replace(self, submit={**used, **self.submit})


def overlaid(base: Options, more: Options) -> dict[str, Any]:
    """`base` with the options of `more`, each of which replaces all of its family."""
    replaced = {option for family in FAMILIES if family & more.keys() for option in family}
    return {**{option: value for option, value in base.items() if option not in replaced}, **more}


def find(name: str) -> Profile:
    """The profile `name` means: a path, or in ./slurm, the user's folder, the package; else RequestError."""
    if "/" in name or name.endswith(".toml"):
        return replace(read(expanded(Path(name), hint="write the profile's path in full.")), name=name)
    paths = known()
    name = canonical(name, paths, kind="cluster", hint="`tfkd list clusters` shows all.")
    return replace(read(paths[name]), name=name)


def clusters() -> list[Profile]:
    """All profiles there are; one that cannot be read says why in its description."""
    found = []
    for name, path in known().items():
        try:
            found.append(replace(read(path), name=name))
        except RequestError as error:
            found.append(Profile(name=name, path=path, description=f"not usable: {error.what}"))
    return found


def known() -> dict[str, Path]:
    """What `--cluster` takes besides `local` → file; an earlier folder hides a later one.

    `slurm` is default.toml.
    """
    found: dict[str, Path] = {}
    for folder in _folders():
        for path in folder.glob("*.toml"):
            found.setdefault("slurm" if path.stem == "default" else path.stem, path)
    return dict(sorted(found.items()))


def _folders() -> Iterator[Path]:
    """Where profiles are looked for; the first wins."""
    yield Path("slurm")
    base = os.environ.get("XDG_CONFIG_HOME")
    with contextlib.suppress(RuntimeError):  # a user without an account and $HOME has no such folder
        yield (Path(base) if base else Path.home() / ".config") / "tfkd" / "slurm"
    package = Path(__file__).resolve().parents[2]
    shipped = package / "slurm"  # in a wheel; in an editable install the folder beside the package
    yield shipped if shipped.is_dir() else package.parent / "slurm"


def read(path: Path) -> Profile:
    """A profile from its file; RequestError naming file, key and valid keys on anything unexpected."""
    try:
        with open_regular(path) as stream:
            text = stream.read().decode()
        return _profile(path, text, schema.convert(tomllib.loads(text), _File))
    except FileNotFoundError:
        raise RequestError(
            f"{path} is not there.", expected="a profile's file.", hint="`tfkd list clusters` shows them."
        ) from None
    except RequestError as error:
        what, expected = error.what, error.expected
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}."
        expected = "a TOML file with a [submit] table."
    raise RequestError(f"{path}: {what}", expected=expected, hint="slurm/README.md has the keys.")


def _profile(path: Path, text: str, file: _File) -> Profile:
    submit = _options(file.submit, where="[submit]")
    for each in file.resources:
        if each.dataset is each.student is None:
            raise RequestError(
                "[[resources]] names no run.", expected='dataset = "…" or student = "…" in it.'
            )
        each.submit = _options(each.submit, where="[resources.submit]")
    return Profile(
        name=path.stem,
        path=path,
        text=text,
        submit=submit,
        setup=file.setup,
        runs_per_job=file.runs_per_job,
        resources=file.resources,
        description=file.profile.description,
    )


def _options(data: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The table under one name for each option; RequestError for what neither submitit nor tfkd can take."""
    keys = {GENERIC.get(key, key.removeprefix("slurm_")): key for key in data}
    given = {option: data[key] for option, key in keys.items()}
    more = schema.convert(
        given.pop("additional_parameters", {}), dict[str, Any], of="slurm_additional_parameters"
    )
    for key, value in {**data, **more}.items():  # no value may end a line of the sbatch script
        if isinstance(value, str) and not value.isprintable():
            raise RequestError(f"{key} holds a control character.", expected="one line of text.")
    added = {_long_name(key): value for key, value in more.items()}
    for option, key in (*keys.items(), *((option, option.replace("_", "-")) for option in added)):
        if reason := OURS.get(option):
            raise RequestError(f"{where} sets {key}.", expected=f"no {key}: {reason}.")
    _ask_submitit(data, where=where)
    given = overlaid(given, added)
    if keys.get("mem") == "mem_gb":
        given["mem"] = f"{given['mem'] * 1024:.0f}MB"
    for option in given.keys() & _TYPES.keys():
        given[option] = schema.convert(given[option], _TYPES[option], of=keys.get(option, option), lax=True)
    return given


def _long_name(key: str) -> str:
    """A key of the additional parameters as `cpus_per_task`; RequestError for what is no name of an option.

    sbatch takes any unambiguous beginning of a name (`part`), which would escape the rules for that name.
    """
    name = key.removeprefix("--").replace("-", "_")
    option = GENERIC.get(name, name)
    known = {"time", *OURS, *_TYPES, *_FROM_ENVIRONMENT, *MEMORY, *CPUS, *GPUS}
    beginning = option not in known and any(each.startswith(option) for each in known)
    if beginning or not re.fullmatch(r"[a-z][a-z0-9_]*", option):
        raise RequestError(
            f"{key!r} is no long name of an option.", expected='names as in "mail-type" = "FAIL".'
        )
    return option


def _ask_submitit(data: Mapping[str, Any], *, where: str) -> None:
    """Let submitit judge names and types."""
    from submitit import AutoExecutor

    own = {key: value for key, value in data.items() if key != "slurm_python"}  # of the executor itself
    try:
        with warnings.catch_warnings(action="ignore"):  # `partition` is taken as slurm_partition
            AutoExecutor(folder=".", cluster="debug").update_parameters(**own)
    except (NameError, AssertionError) as error:
        expected = f"submitit's keys: {KEYS}, or slurm_ and one of its arguments."
        raise RequestError(f"{where}: {str(error).splitlines()[0]}", expected=expected) from error
