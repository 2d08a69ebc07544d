"""Profiles: found in four places, read strictly, handed to submitit unchanged."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli.backends.slurm import profile as profiles
from tfkd_cli.errors import RequestError
from tfkd_cli.spec import RunSpec


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[3].glob("slurm/*.toml")), ids=lambda path: path.name
)
def test_every_profile_we_ship_can_be_read(path: Path) -> None:
    assert profiles.read(path).description


def test_slurm_means_the_default_profile() -> None:
    assert profiles.find("slurm").path.name == "default.toml"


def test_a_profile_is_looked_for_here_then_with_the_user_then_with_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write(tmp_path / "config/tfkd/slurm/mine.toml", '[profile]\ndescription = "the user\'s"\n')
    assert profiles.find("mine").description == "the user's"
    write(tmp_path / "slurm/mine.toml", '[profile]\ndescription = "the folder\'s"\n')
    assert profiles.find("MINE").description == "the folder's"
    assert {"slurm", "mine"} <= {each.name for each in profiles.clusters()}


def test_a_path_is_a_profile_too(tmp_path: Path) -> None:
    assert profiles.find(str(write(tmp_path / "x.toml", "[submit]\ngpus_per_node = 2\n"))).submit == {
        "gpus_per_node": 2
    }


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(RequestError, match='unknown cluster "slrum"') as caught:
        profiles.find("slrum")
    assert "slurm" in caught.value.hint


def test_one_broken_profile_does_not_hide_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    write(tmp_path / "tfkd/slurm/broken.toml", "[submit\n")
    found = {each.name: each.description for each in profiles.clusters()}
    assert found["broken"].startswith("not usable: ")
    assert not found["slurm"].startswith("not usable")


@pytest.mark.parametrize(
    ("text", "what", "expected"),
    [
        (
            "[submit]\nslurm_partitoin = 1\n",
            "Unknown argument 'partitoin'",
            "slurm_ and one of its arguments",
        ),
        ("[submti]\n", 'unknown key "submti"', "runs_per_job"),
        ("[profile]\nnote = 1\n", 'unknown key "note" in profile', "description, contact, url"),
        ("runs_per_job = 0\n", "runs_per_job is 0", "from 1 to 64"),
        ("runs_per_job = true\n", "runs_per_job is True", "from 1 to 64"),
        ('setup = "module load x"\n', "setup is 'module load x'", "a list"),
        ('[submit]\nslurm_teardown = ["x"]\n', "sets slurm_teardown", "exit code"),
        ("[submit]\nslurm_use_srun = false\n", "sets slurm_use_srun", "warning before the time limit"),
        ('[submit.slurm_additional_parameters]\nnodes = "2-4"\n', "nodes is '2-4'", "a whole number"),
        ('[submit]\nslurm_comment = "a\\nb"\n', "control character", "one line"),
        ('[submit.slurm_additional_parameters]\nx = "a\\u0000"\n', "control character", "one line"),
        ("[submit]\ntimeout_min = 1.5\n", "timeout_min", "timeout_min"),
        ('[submit]\nmem_gb = "16GB"\n', "mem_gb", "slurm_"),
        ('[submit]\ncpus_per_task = "four"\n', "cpus_per_task", "cpus_per_task"),
        ('[submit]\nslurm_setup = "module load x"\n', "slurm_setup is 'module load x'", "a list"),
        ("[submit]\nslurm_additional_parameters = 3\n", "slurm_additional_parameters is 3", "a table"),
        *(
            (f"[submit.slurm_additional_parameters]\n{line}\n", what, expected)
            for line, what, expected in (
                ('job-name = "x"', "sets job-name", "by their name"),
                ('"--job_name" = "x"', "sets job-name", "by their name"),
                ("parsable = true", "sets parsable", "what sbatch prints"),
                ('clusters = "b"', "sets clusters", "SLURM_CLUSTERS"),
                ("ntasks-per-gpu = 2", "sets ntasks-per-gpu", "tasks_per_node"),
                ("no-requeue = true", "sets no-requeue", "requeue = false"),
                ('part = "gpu"', "'part' is no long name", "mail-type"),  # sbatch takes it
                ("c = 2", "'c' is no long name", "mail-type"),
                ('"mem=4G" = true', "'mem=4G' is no long name", "mail-type"),
            )
        ),
        ("[[resources]]\n", "names no run", "dataset"),
        ("submit = 3\n", "submit is 3", "a table of names and values"),
        ("\x00", "cannot be read", "TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_file_key_and_what_is_valid(
    tmp_path: Path, text: str, what: str, expected: str
) -> None:
    path = write(tmp_path / "wrong.toml", text)
    with pytest.raises(RequestError) as caught:
        profiles.read(path)
    assert str(path) in caught.value.what
    assert what in caught.value.what
    assert expected in caught.value.expected


@given(st.binary(max_size=200))
def test_no_file_is_read_with_another_error(data: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(data)
        file.flush()
        try:
            profiles.read(Path(file.name))
        except RequestError as error:
            assert file.name in error.what  # noqa: PT017


def test_an_option_has_one_name_however_it_was_written(tmp_path: Path) -> None:
    text = '[submit]\nmem_gb = 1.5\ntimeout_min = 60\nslurm_qos = "low"\nslurm_python = "python3"\n'
    more = 'slurm_additional_parameters = { "mail-type" = "FAIL", gpus = 1 }\n'
    assert profiles.read(write(tmp_path / "x.toml", text)).submit == {
        "mem": "1536MB",
        "time": 60,
        "qos": "low",
        "python": "python3",
    }
    assert profiles.read(write(tmp_path / "y.toml", "[submit]\nmem_gb = 8\n" + more)).submit == {
        "mem": "8192MB",
        "mail_type": "FAIL",
        "gpus": 1,
    }


def test_resources_of_a_data_set_or_network_win_over_submit(tmp_path: Path) -> None:
    path = write(
        tmp_path / "shapes.toml",
        '[submit]\nmem_gb = 4\n[[resources]]\ndataset = "tiny-imagenet"\nsubmit = { mem_gb = 16 }\n'
        '[[resources]]\nstudent = "resnet50"\nsubmit = { gpus_per_node = 2 }\n',
    )
    profile = profiles.read(path)
    assert profile.submit_for(RunSpec(dataset="digits", student="resnet8")) == {"mem": "4096MB"}
    large = RunSpec(dataset="tiny-imagenet@0123456789ab", student="resnet50")
    assert profile.submit_for(large) == {"mem": "16384MB", "gpus_per_node": 2}


def test_a_pipe_as_a_profile_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(RequestError, match="pipe"):
        profiles.read(tmp_path / "pipe.toml")


def test_a_run_has_the_tasks_of_the_profile_of_its_data_set_or_of_the_command(tmp_path: Path) -> None:
    small, large = (RunSpec(dataset=name, student="resnet18") for name in ("digits", "imagenet"))
    empty = profiles.read(write(tmp_path / "empty.toml", ""))
    assert (empty.submit_for(small), empty.processes_of(large)) == ({}, 4)
    assert empty.submit_for(large) == {"ntasks_per_node": 4, "gpus_per_node": 4}
    one = profiles.read(write(tmp_path / "one.toml", "[submit]\ngpus_per_node = 1\n"))
    assert one.processes_of(large) == 1
    text = "[submit]\nnodes = 2\ntasks_per_node = 4\ngpus_per_node = 4\n"
    nodes = profiles.read(write(tmp_path / "nodes.toml", text))
    assert nodes.processes_of(small) == 8
    asked = replace(nodes, processes=4)
    assert asked.submit_for(large) == {"nodes": 2, "ntasks_per_node": 2, "gpus_per_node": 2}
    assert replace(one, processes=3).submit_for(small) == {"ntasks_per_node": 3, "gpus_per_node": 3}
    with pytest.raises(RequestError, match="3 processes of a run, on 2 nodes"):
        replace(nodes, processes=3).submit_for(small)
    with pytest.raises(RequestError, match="8 processes of a run, on 2 nodes of nodes, 2 runs a job"):
        replace(nodes, runs_per_job=2).submit_for(small)
