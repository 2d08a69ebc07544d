"""Submission: groups, dependencies, limits, and each run once whatever happens in between."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.backends.slurm import profile as profiles
from tfkd_cli.backends.slurm import queue, sbatch
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.backends.slurm.profile import Profile
from tfkd_cli.backends.slurm.sending import Submitted, dry_run
from tfkd_cli.backends.slurm.submit import submit
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store

Send = Callable[..., Submitted]
Graph = Callable[[int, int], list[RunSpec]]


def test_one_array_of_teachers_and_one_of_students_per_teacher(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    sent = send(graph(2, 3))
    assert sent.arrays == (("1", 2), ("3", 3), ("6", 3))
    assert sent.calls == len(fake_slurm.calls("sbatch")) == 3
    assert "dependency" not in fake_slurm.options("1")
    assert fake_slurm.options("3")["dependency"] == "afterok:1_0"
    assert fake_slurm.options("6")["dependency"] == "afterok:1_1"


def test_a_thousand_students_on_twenty_teachers_take_at_most_25_calls(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    sent = send(graph(20, 50))
    assert sent.runs == 1020
    assert sent.calls <= 25
    assert len(fake_slurm.calls("squeue")) == 0


def test_a_single_teacher_is_no_array_and_its_students_wait_for_the_plain_id(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    send(graph(1, 2))
    assert fake_slurm.options("2")["dependency"] == "afterok:1"


def test_a_finished_teacher_never_goes_into_a_dependency(
    fake_slurm: Any, send: Send, graph: Graph, finish: Callable[[RunSpec], None]
) -> None:
    teacher, *students = graph(1, 2)
    finish(teacher)
    send(students)
    assert "dependency" not in fake_slurm.options("1")


def test_a_job_gets_three_strings_by_reference_and_the_rest_is_json(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    sent = send(graph(1, 1))
    folder = store.submission_path(sent.submissions[0])
    delayed = pickle.loads((folder / "array-0001" / "1_submitted.pkl").read_bytes())
    assert delayed.function.__module__ == "tfkd_cli.backends.slurm.job"
    assert delayed.args == (str(store.root.absolute()), sent.submissions[0], "0")
    assert store.submission(sent.submissions[0])["runs"] == [[spec.folder] for spec in graph(1, 1)]


def test_the_same_command_again_submits_nothing(fake_slurm: Any, send: Send, graph: Graph) -> None:
    send(graph(1, 2))
    again = send(graph(1, 2))
    assert (again.calls, again.already) == (0, 3)
    assert len(fake_slurm.calls("sbatch")) == 2
    assert len(fake_slurm.calls("squeue")) == 1


def test_a_later_request_waits_for_a_teacher_that_is_queued_already(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    teacher, first, second = graph(1, 2)
    send([teacher, first])
    send([teacher, first, second])
    assert fake_slurm.options("3")["dependency"] == "afterok:1"


def test_arrays_are_split_at_the_sites_max_array_size(fake_slurm: Any, send: Send, graph: Graph) -> None:
    with fake_slurm.edit() as state:
        state["config"]["MaxArraySize"] = "5"
    sent = send(graph(1, 10))
    assert [count for _, count in sent.arrays] == [1, 5, 5]


def test_what_is_beyond_the_submit_limit_stays_in_the_plan_and_goes_later(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    with fake_slurm.edit() as state:
        state["max_submit"] = 7
    told: list[str] = []
    sent = send(graph(1, 10), on_event=told.append)
    assert (sent.runs, len(sent.left_in_plan)) == (7, 4)
    assert "4 runs stay in the plan" in told[-1]
    with fake_slurm.edit() as state:
        state["max_submit"] = None
    later = send(graph(1, 10))
    assert (later.runs, later.already) == (4, 7)


def test_an_sbatch_that_has_waited_for_a_full_slurmctld_is_not_tried_again_with_less(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    fake_slurm.refuse("sbatch", "Batch job submission failed: Resource temporarily unavailable", times=9)
    sent = send(graph(4, 0))
    assert (sent.runs, len(sent.left_in_plan), len(fake_slurm.calls("sbatch"))) == (0, 4, 1)


def test_a_student_is_not_sent_when_its_teacher_could_not_be(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    with fake_slurm.edit() as state:
        state["max_submit"] = 1
    sent = send(graph(2, 1))
    assert sent.runs == 1
    for job in fake_slurm.state["jobs"].values():
        assert job["elements"][0]["dependency"] == ""


def test_a_refusal_shows_slurms_sentence_and_the_line_to_change(
    fake_slurm: Any, send: Send, graph: Graph, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text('[submit]\nslurm_partition = "gpuu"\n')
    with pytest.raises(sbatch.RefusedError) as caught:
        send(graph(1, 1), profile=profiles.read(path))
    assert "invalid partition specified: gpuu" in caught.value.what
    assert caught.value.expected == f'{path}, line 2: slurm_partition = "gpuu"'


def test_a_limit_that_lets_nothing_pass_is_a_refusal(fake_slurm: Any, send: Send, graph: Graph) -> None:
    with fake_slurm.edit() as state:
        state["max_submit"] = 0
    with pytest.raises(sbatch.RefusedError, match="submit limit"):
        send(graph(1, 3))


def test_what_sbatch_says_on_stderr_is_no_failure_when_it_gave_an_id(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    with fake_slurm.edit() as state:
        state["warn"] = "Slurm temporarily unable to accept job, sleeping and retrying"
    assert send(graph(1, 0)).runs == 1
    assert len(fake_slurm.state["jobs"]) == 1


def test_a_silent_slurmctld_is_a_clear_message_and_nothing_is_lost(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    with fake_slurm.edit() as state:
        state["down"] = True
    with pytest.raises(SlurmError, match="SLURM does not answer"):
        send(graph(1, 1))
    with fake_slurm.edit() as state:
        state["down"] = False
    assert send(graph(1, 1)).runs == 2


def test_a_job_that_slurm_took_although_sbatch_timed_out_is_found_by_name(
    fake_slurm: Any, send: Send, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sbatch.submit

    def lost_answer(*args: Any, **more: Any) -> tuple[str, ...]:
        real(*args, **more)
        raise SlurmError("sbatch", "Batch job submission failed: Socket timed out on send/recv operation")

    monkeypatch.setattr(sbatch, "submit", lost_answer)
    assert send(graph(1, 3)).arrays == (("1", 1), ("2", 3))
    monkeypatch.undo()


def test_no_slurm_on_this_machine_is_a_request_error(
    send: Send, graph: Graph, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match="no sbatch"):
        send(graph(1, 1))


def test_a_results_folder_with_a_percent_sign_is_refused(
    fake_slurm: Any, send: Send, graph: Graph, tmp_path: Path
) -> None:
    with pytest.raises(RequestError, match="results folder"):
        send(graph(1, 1), store=Store.open(tmp_path / "50%j", create=True))


class DiesError(BaseException):
    """Stands for kill -9."""


@pytest.mark.parametrize("where", ["before sbatch", "after sbatch"])
def test_a_crash_between_intent_and_record_never_submits_twice(
    where: str, fake_slurm: Any, send: Send, graph: Graph, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sbatch.submit

    def dying(array: Any, *args: Any, **more: Any) -> tuple[str, ...]:
        if array.number == 2 and where == "before sbatch":
            raise DiesError
        ids = real(array, *args, **more)
        if array.number == 2:
            for path in array.job_folder.glob("*_submitted.pkl"):
                path.unlink()  # the renaming of the pickles was not reached either
            raise DiesError
        return ids

    with monkeypatch.context() as patched:
        patched.setattr(sbatch, "submit", dying)
        with pytest.raises(DiesError):
            send(graph(1, 3))
    before = len(fake_slurm.state["jobs"])
    sent = send(graph(1, 3))
    assert before == (1 if where == "before sbatch" else 2)
    assert len(fake_slurm.state["jobs"]) == 2
    assert sent.runs == (3 if where == "before sbatch" else 0)
    assert sent.already == (1 if where == "before sbatch" else 4)
    pickles = sorted(path.name for path in store.root.glob("submissions/*/array-*/2_*_submitted.pkl"))
    assert pickles == ["2_0_submitted.pkl", "2_1_submitted.pkl", "2_2_submitted.pkl"]


def test_a_job_with_our_id_from_another_cluster_is_not_ours(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    send(graph(1, 0))
    with fake_slurm.edit() as state:
        state["jobs"]["1"]["name"] = "somebody-else"
        state["next_id"] = 10
    assert queue.queue_states(store, fresh=True)[graph(1, 0)[0].folder].state == queue.VANISHED
    assert send(graph(1, 0)).runs == 1


def test_a_vanished_job_is_submitted_again_and_never_called_done(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    send(graph(1, 0))
    fake_slurm.forget("1")
    state = queue.queue_states(store, fresh=True)[graph(1, 0)[0].folder]
    assert (state.state, state.active) == (queue.VANISHED, False)
    assert send(graph(1, 0)).runs == 1


def test_a_failed_teacher_sent_again_gets_its_waiting_students_back(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    send(graph(1, 3))
    fake_slurm.move("1", "FAILED", "NonZeroExitCode")
    fake_slurm.move("2", "PENDING", queue.NEVER)
    again = send(graph(1, 3))
    assert (again.runs, again.already, again.repointed) == (1, 3, 3)
    assert fake_slurm.dependencies("2") == ["afterok:5"] * 3


def test_a_student_stuck_on_a_teacher_that_is_done_after_all_is_let_go(
    fake_slurm: Any, send: Send, graph: Graph, finish: Callable[[RunSpec], None]
) -> None:
    send(graph(1, 2))
    fake_slurm.move("1", "FAILED", "NonZeroExitCode")
    fake_slurm.move("2", "PENDING", queue.NEVER)
    finish(graph(1, 2)[0])
    assert send(graph(1, 2)).repointed == 2
    assert fake_slurm.dependencies("2") == ["", ""]


def test_packed_students_wait_by_afterany_for_packed_teachers(
    fake_slurm: Any, send: Send, graph: Graph, tmp_path: Path
) -> None:
    path = tmp_path / "packed.toml"
    path.write_text("runs_per_job = 2\n[submit]\n")
    sent = send(graph(2, 4), profile=profiles.read(path))
    assert sent.arrays == (("1", 2), ("2", 4), ("4", 4))
    assert fake_slurm.options("2")["dependency"] == "afterany:1"


def _race(root: str, toml: str, cache: str, specs: list[RunSpec], out: Any) -> None:
    sent = submit(
        specs,
        store=Store.open(Path(root), create=True),
        profile=profiles.read(Path(toml)),
        execution=Execution(cache=cache),
    )
    out.put(sent.runs)


def test_two_terminals_that_ask_for_the_same_submit_it_once(
    fake_slurm: Any, graph: Graph, store: Store, profile: Profile, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("fork")
    out: Any = context.Queue()
    arguments = (str(store.root), str(profile.path), str(tmp_path), graph(1, 3), out)
    racers = [context.Process(target=_race, args=arguments) for _ in range(4)]
    for racer in racers:
        racer.start()
    counts = sorted(out.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    assert counts == [0, 0, 0, 4]
    assert len(fake_slurm.state["jobs"]) == 2


def test_the_submission_says_how_runs_execute_and_which_code(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    sent = send(graph(1, 0))
    data = store.submission(sent.submissions[0])
    staged = store.code_path / data["code"]
    assert data["execution"]["threads"] == 1  # a GPU is asked for: one thread feeds it
    assert (staged / "tfkd_cli" / "training" / "worker.py").is_file()
    assert json.loads((staged / "tfkd_cli" / "staged.json").read_text())["commit"]
    assert f"export PYTHONPATH={staged.absolute()}" in fake_slurm.state["jobs"]["1"]["script"]


def test_what_another_process_trains_here_is_left_to_it_and_its_students_wait(
    fake_slurm: Any, send: Send, graph: Graph, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = graph(2, 1)
    store.run(specs[0]).declare(specs[0])
    store.run(specs[0]).start_attempt(owner={})
    sent = send(specs)
    assert sent.runs == 2
    assert sent.elsewhere == (specs[0], specs[2])
    assert sent.already == 0


def test_the_heartbeat_of_a_job_that_slurm_does_not_know_is_not_believed(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    [spec] = graph(1, 0)
    store.run(spec).declare(spec)
    store.run(spec).start_attempt(owner={"slurm": "77"})
    assert send([spec]).runs == 1


def _killed_while_sbatch_is_slow(root: str, toml: str, cache: str, specs: list[RunSpec]) -> None:
    os.setsid()  # so that its sbatch outlives it
    submit(
        specs,
        store=Store.open(Path(root), create=True),
        profile=profiles.read(Path(toml)),
        execution=Execution(cache=cache),
    )


def test_an_sbatch_in_flight_when_its_tfkd_is_killed_is_waited_for_and_adopted(
    fake_slurm: Any, send: Send, graph: Graph, store: Store, profile: Profile, tmp_path: Path
) -> None:
    (fake_slurm.home / "slow").write_text("2")
    arguments = (str(store.root), str(profile.path), str(tmp_path), graph(1, 0))
    process = multiprocessing.get_context("fork").Process(target=_killed_while_sbatch_is_slow, args=arguments)
    process.start()
    while not list(store.root.glob("submissions/*/array-0001/.submission_file_*")):
        time.sleep(0.01)
    time.sleep(0.3)
    process.kill()
    process.join()
    told: list[str] = []
    assert send(graph(1, 0), on_event=told.append).already == 1
    assert "as job 1" in told[0]
    assert len(fake_slurm.state["jobs"]) == 1


def test_an_array_that_reaches_slurm_after_its_runs_were_sent_again_is_cancelled(
    fake_slurm: Any, send: Send, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*args: Any, **more: Any) -> tuple[str, ...]:
        raise DiesError

    with monkeypatch.context() as patched:
        patched.setattr(sbatch, "submit", dying)
        with pytest.raises(DiesError):
            send(graph(1, 0))
    assert send(graph(1, 0)).runs == 1
    with fake_slurm.edit() as state:
        [intent] = [name for name in _names(fake_slurm) if name not in state["names"].values()]
        state["jobs"]["9"] = {**state["jobs"]["1"], "name": intent}
    told: list[str] = []
    assert send(graph(1, 0), on_event=told.append).already == 1
    assert told == ["cancelled job 9: its runs were sent again before SLURM had it."]
    assert [job["elements"][0]["state"] for job in fake_slurm.state["jobs"].values()] == [
        "PENDING",
        "CANCELLED",
    ]


def _names(fake_slurm: Any) -> list[str]:
    paths = (fake_slurm.home.parent / "results").glob("submissions/*/arrays/*.json")
    return [json.loads(path.read_text())["name"] for path in paths]


@pytest.mark.parametrize(
    ("text", "sentence", "line"),
    [
        ("timeout_min = 9000", "asks for 9000 minutes; partition main allows 2880", "timeout_min = 9000"),
        ("mem_gb = 16", "asks for 16384 MB of memory; a node of main has 8000", "mem_gb = 16"),
        ("cpus_per_task = 9", "asks for 9 cores; a node of main has 8", "cpus_per_task = 9"),
        ("gpus_per_node = 5", "asks for 5 GPUs; a node of main has 4", "gpus_per_node = 5"),
        ('cpus_per_task = 4\nslurm_mem_per_cpu = "4G"', "asks for 16384 MB", 'slurm_mem_per_cpu = "4G"'),
    ],
)
def test_what_the_partition_cannot_give_is_refused_with_its_line_before_anything_is_sent(
    fake_slurm: Any, send: Send, graph: Graph, tmp_path: Path, text: str, sentence: str, line: str
) -> None:
    path = tmp_path / "large.toml"
    path.write_text(f"[submit]\n{text}\n")
    for sending_or_not in (send, dry):
        with pytest.raises(RequestError) as caught:
            sending_or_not(graph(1, 0), profile=profiles.read(path), store=Store(tmp_path / "r"))
        assert sentence in caught.value.what
        assert line in caught.value.expected
    assert fake_slurm.calls("sbatch") == []


def dry(specs: list[RunSpec], **more: Any) -> list[str]:
    return dry_run(specs, execution=Execution(cache=""), **more)


def test_a_limit_of_the_partition_counts_too(
    fake_slurm: Any, send: Send, graph: Graph, tmp_path: Path
) -> None:
    with fake_slurm.edit() as state:
        state["partitions"] = ["PartitionName=main MaxCPUsPerNode=2 MaxMemPerNode=UNLIMITED"]
    path = tmp_path / "large.toml"
    path.write_text("[submit]\ncpus_per_task = 4\n")
    with pytest.raises(RequestError, match="a node of main has 2"):
        send(graph(1, 0), profile=profiles.read(path))


@pytest.mark.parametrize(
    ("given", "absent"),
    [
        ('"mem-per-cpu" = "700"', ("mem", "mem-per-gpu")),
        ("gpus = 1", ("gpus-per-node", "gres")),
        ('gres = "gpu:1"', ("gpus-per-node", "gpus")),
        ('"cpus-per-gpu" = 2, "gpus-per-task" = 1', ("cpus-per-task", "gpus-per-node")),
    ],
)
def test_nothing_that_contradicts_an_additional_parameter_is_filled_in(
    fake_slurm: Any, send: Send, graph: Graph, tmp_path: Path, given: str, absent: tuple[str, ...]
) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f"[submit]\nslurm_additional_parameters = {{ {given} }}\n")
    with warnings.catch_warnings(action="ignore"):  # submitit's about cpus_per_gpu
        send(graph(1, 0), profile=profiles.read(path))
    found = fake_slurm.options("1")
    assert not set(absent) & found.keys()
    assert all(name.strip().strip('"') in found for name in (each.split("=")[0] for each in given.split(",")))


def test_time_and_partition_among_the_additional_parameters_are_what_is_calculated_with(
    fake_slurm: Any, send: Send, graph: Graph, tmp_path: Path
) -> None:
    path = tmp_path / "own.toml"
    path.write_text('[submit]\nslurm_additional_parameters = { time = "1:00:00", partition = "urgent" }\n')
    send(graph(1, 0), profile=profiles.read(path))
    found = fake_slurm.options("1")
    assert (found["time"], found["partition"], found["signal"]) == ("1:00:00", "urgent", "USR2@120")
