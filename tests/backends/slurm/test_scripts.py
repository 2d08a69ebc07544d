"""What sbatch gets: a golden script, time limits, quoting, and what the site fills in."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planning import planned
from tfkd_cli.backends.slurm import arrays, doctor, sbatch, sending, site, staging
from tfkd_cli.backends.slurm import profile as profiles
from tfkd_cli.backends.slurm.profile import Profile
from tfkd_cli.execution import Execution
from tfkd_cli.plan import Estimate, PlannedRun
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import RunState, Store

Graph = Callable[[int, int], list[RunSpec]]
TODO = RunState(key="", name="", status="todo")
GOLDEN = Path(__file__).parents[2] / "golden" / "sbatch.sh"
SITE = site.Site(
    partitions=site.parse_partitions(
        "main*|2-00:00:00|8|8000|gpu:4|UNLIMITED\nlong|infinite|8+|1|(null)|UNLIMITED\n"
        "small|infinite|8|8000|gpu:4|1",
        "PartitionName=small Default=NO MaxMemPerNode=500 MaxTime=1",
    )
)


def rendered(profile: Profile, graph: Graph, store: Store, *, jobs: int | None = None) -> str:
    """The scripts of a small graph, free of what differs between machines."""
    specs = graph(2, 2)
    texts = sending.dry_run(
        planned(specs, store, seconds=7200.0),
        store=store,
        execution=Execution(cache="/c"),
        profile=profile,
        jobs=jobs,
    )
    text = (
        "\n".join(texts)
        .replace(str(store.root.absolute()), "/results")
        .replace(shlex.quote(sys.executable), "python")
    )
    text = re.sub(r"_file_[0-9a-f]{32}", "_file", text)
    return re.sub(r"/code/[0-9a-f]{16}", "/code/TREE", text)


def test_the_scripts_are_those_of_the_golden_file(
    tmp_path: Path, graph: Graph, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no SLURM here
    path = tmp_path / "golden.toml"
    path.write_text(
        'setup = ["module load cuda/12"]\n[submit]\nslurm_partition = "gpu"\ngpus_per_node = 1\n'
        'cpus_per_task = 4\nmem_gb = 16\nslurm_comment = "it\'s mine"\n'
        '[submit.slurm_additional_parameters]\nmail-type = "FAIL"\n'
    )
    profile = profiles.read(path)
    text = rendered(profile, graph, store) + "\n" + rendered(profile, graph, store, jobs=2)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_a_dry_run_writes_nothing(graph: Graph, profile: Profile, tmp_path: Path) -> None:
    store = Store(tmp_path / "absent")
    rendered(profile, graph, store)
    assert not store.root.exists()


def test_the_scripts_are_valid_for_a_shell(graph: Graph, profile: Profile, store: Store) -> None:
    for text in rendered(profile, graph, store).split("#!/bin/bash")[1:]:
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


@settings(max_examples=20)  # a process each
@given(st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_every_value_of_a_profile_stays_one_word_of_one_line(value: str) -> None:
    given = sbatch.parameters({"comment": value}, setup=[], name="x", minutes=60, at_once=1)
    text = sbatch.script(given)
    [line] = [each for each in text.split("\n") if "--comment=" in each]
    assert shlex.split(line.removeprefix("#SBATCH ")) == [f"--comment={value}"]


def test_requeue_false_is_said_and_gpus_of_a_task_need_the_number_of_tasks() -> None:
    options = {"requeue": False, "gpus_per_task": 1, "ntasks_per_node": 2}
    text = sbatch.script(sbatch.parameters(options, setup=[], name="x", minutes=60, at_once=1))
    assert "#SBATCH --no-requeue\n" in text
    assert "--requeue\n" not in text.replace("--no-requeue", "")
    assert "#SBATCH --ntasks=2\n" in text


def test_wckey_is_not_sent_unless_the_profile_names_one(graph: Graph, profile: Profile, store: Store) -> None:
    assert "wckey" not in rendered(profile, graph, store)


@pytest.mark.parametrize(
    ("seconds", "submit", "minutes"),
    [
        (7200, {}, 180),  # 1.5 × the estimate
        (1, {}, site.LEAST_MINUTES),
        (10 * 86400, {}, 2880),  # the partition's limit
        (10 * 86400, {"partition": "long"}, 21600),
        (7200, {"time": 33}, 33),  # the profile's own value is handed over unchanged
    ],
)
def test_time_limits(seconds: float, submit: dict[str, Any], minutes: int) -> None:
    assert site.time_limit(seconds, submit, SITE) == minutes


@pytest.mark.parametrize(
    ("given", "minutes"),
    [
        (90, 90),
        ("90", 90),
        ("90:30", 91),
        ("1:30:00", 90),
        ("1-0", 1440),
        ("1-2:30", 1590),
        ("0-0:0:1", 1),
        ("UNLIMITED", None),
        ("0:00", None),
    ],
)
def test_a_profiles_time_may_have_any_form_that_sbatch_takes(
    given: int | str, minutes: int | None, graph: Graph, profile: Profile, store: Store
) -> None:
    assert site.minutes(given) == minutes
    asked = replace(profile, submit={"time": given})
    [script] = sending.dry_run(
        planned(graph(1, 0), store), store=store, execution=Execution(cache=""), profile=asked
    )
    assert f"#SBATCH --time={given}\n" in script
    warned = 12 if minutes == 1 else 120  # seconds before: a short job still has a life
    assert f"#SBATCH --signal=USR2@{warned}\n" in script


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("1-00:00:00", 1440), ("2:30:00", 150), ("30:00", 30), ("0:30", 1), ("infinite", None), ("n/a", None)],
)
def test_limits_as_sinfo_writes_them(text: str, minutes: int | None) -> None:
    assert site.minutes(text) == minutes


def test_what_a_profile_leaves_open_is_a_fair_share_of_the_node() -> None:
    assert site.fill_in({}, SITE) == {"gpus_per_node": 1, "cpus_per_task": 2, "mem": "2000MB"}
    assert site.fill_in({"partition": "long"}, SITE) == {"partition": "long", "cpus_per_task": 1}
    given_all = {"gpus_per_node": 0, "cpus_per_task": 3, "mem": "1GB"}
    assert site.fill_in(given_all, SITE) == given_all
    small = {"partition": "small", "--exclusive": True, "gres": "tmpspace:1G"}
    assert site.fill_in(small, SITE) == {**small, "gpus_per_node": 1, "cpus_per_task": 1, "mem": "500MB"}
    two = {"ntasks_per_node": 2}
    assert site.fill_in(two, SITE) == {**two, "gpus_per_node": 2, "cpus_per_task": 2, "mem": "4000MB"}


def test_a_job_of_several_tasks_ends_soon_after_one_of_them() -> None:
    assert "--wait=15" not in sbatch.srun_arguments({"nodes": 1})
    assert "--wait=15" in sbatch.srun_arguments({"nodes": 2})
    assert "--wait=15" in sbatch.srun_arguments({"ntasks_per_node": 4})


def test_a_partition_counts_gpus_of_any_type_and_the_smallest_node() -> None:
    kinds = ("64|512000|gpu:a100:8(S:0-1)", "32+|256000+|gpu:v100:4,mps:400", "16|1|(null)")
    text = "\n".join(f"gpu|1:00:00|{kind}|UNLIMITED" for kind in kinds)
    [found] = site.parse_partitions(text)
    assert (found.gpus, found.cpus, found.memory_mb) == (4, 32, 256000)


@given(st.text(max_size=200))
def test_no_output_of_sinfo_or_scontrol_breaks_the_parsers(text: str) -> None:
    site.parse_partitions(text)
    site.parse_config(text)


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_name_exactly_their_indices(indices: set[int]) -> None:
    found: set[int] = set()
    for part in arrays.ranges(sorted(indices)).split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == indices


@given(teachers=st.integers(1, 5), students=st.integers(0, 6), pack=st.integers(1, 4), size=st.integers(1, 7))
def test_groups_hold_every_run_once_and_parents_come_first(
    teachers: int, students: int, pack: int, size: int
) -> None:
    from tfkd_cli.methods import Distillation
    from tfkd_cli.spec import Teacher

    top = [RunSpec(dataset="digits", student="resnet8", seed=seed) for seed in range(teachers)]
    middle = [
        RunSpec(dataset="digits", student="a", loss=Distillation(), teacher=Teacher(run=t)) for t in top
    ]
    bottom = [
        RunSpec(dataset="digits", student="b", loss=Distillation(), teacher=Teacher(run=m), seed=seed)
        for m in middle
        for seed in range(students)
    ]
    specs = [*top, *middle, *bottom]
    runs = [PlannedRun(spec, TODO, Estimate(1.0, "estimate")) for spec in specs]
    profile = Profile(name="x", path=Path("x"), submit={"x": [1, {"y": 2}]}, runs_per_job=pack)
    folders = frozenset(spec.folder for spec in specs)
    made = arrays.group_runs(runs, profile=profile, unfinished=folders, size=size)
    seen: set[str] = set()
    for jobs in made:
        assert len(jobs) <= size
        for job in jobs:
            assert len({run.spec.parents for run in job}) == 1
            assert {parent.folder for run in job for parent in run.spec.parents} <= seen
            seen |= {run.spec.folder for run in job}
    assert sum(len(job) for jobs in made for job in jobs) == len(seen) == len(specs)


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=30))
def test_no_run_asks_for_more_than_twice_its_time_or_the_least(seconds: list[float]) -> None:
    specs = [RunSpec(dataset="digits", student="resnet8", seed=seed) for seed in range(len(seconds))]
    runs = [
        PlannedRun(spec, TODO, Estimate(each, "estimate")) for spec, each in zip(specs, seconds, strict=True)
    ]
    profile = Profile(name="x", path=Path("x"))
    made = arrays.group_runs(runs, profile=profile, unfinished=frozenset(), size=1000)
    for jobs in made:
        times = [run.seconds_left_alone for (run,) in jobs]
        assert max(times) <= max(2.0001 * min(times), 60 * site.LEAST_MINUTES)
    capped = arrays.group_runs(runs, profile=profile, unfinished=frozenset(), size=1000, by_length=False)
    assert len(capped) == 1  # where --jobs must hold for all of them


def test_where_no_slurm_answers_a_dry_run_says_what_will_be_asked_for(
    graph: Graph, profile: Profile, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    told: list[str] = []
    (script, *_) = sending.dry_run(
        planned(graph(1, 0), store), store=store, execution=Execution(cache="/c"), profile=profile,
        on_event=told.append,
    )  # fmt: skip
    assert "No SLURM answers here" in told[-1]
    comment = " ".join(line.lstrip("# ") for line in script.splitlines()[2:6])
    assert comment.startswith("what the script leaves open is filled in on the cluster")
    assert all(word in comment for word in ("GPU", "memory", "cores", "time"))


IMPORTS = """
import importlib, pkgutil, sys
import tfkd_cli.backends.slurm.job, tfkd_cli.training.runner, tfkd_cli.models, tfkd_cli.data
for package in (tfkd_cli.models, tfkd_cli.data):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(*[m.__file__ for n, m in sys.modules.items() if n.startswith(("tfkd_cli", "paper_tables"))], sep="\\n")
"""


def test_the_staged_code_is_all_a_job_needs_small_and_named_by_its_content(
    whole_code: None, tmp_path: Path
) -> None:
    tree = staging.stage(tmp_path)
    assert staging.stage(tmp_path) == tree
    on_disk = sum(-(-path.stat().st_size // 4096) * 4096 for path in tree.rglob("*"))  # as `du` counts
    assert on_disk < 1_000_000
    done = subprocess.run(
        [sys.executable, "-P", "-c", IMPORTS],
        env={**os.environ, "PYTHONPATH": str(tree)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line for line in done.stdout.split() if not line.startswith(str(tree))] == []
    assert [path for path in tmp_path.iterdir() if path != tree] == []


def test_doctor_names_the_line_that_sbatch_refuses(fake_slurm: Any, tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text('[submit]\nslurm_partition = "gpuu"\n')
    bad = [check for check in doctor.doctor(profiles.read(path)) if check.status == "fail"]
    assert [check.name for check in bad] == ["[submit]"]
    assert all('line 2: slurm_partition = "gpuu"' in check.todo for check in bad)


def test_doctor_is_content_with_a_good_profile_and_checks_each_shape(fake_slurm: Any, tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(
        '[submit]\nmem_gb = 2\n[[resources]]\ndataset = "imagenet"\nsubmit = { gpus_per_node = 4 }\n'
    )
    checks = [*doctor.doctor(profiles.read(path))]
    assert {check.status for check in checks} <= {"ok", "warn"}
    assert [check.name for check in checks][-2:] == ["[submit]", "[[resources]] imagenet"]
    assert len([call for call in fake_slurm.calls("sbatch") if call == ["--test-only"]]) == 2
