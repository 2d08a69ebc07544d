"""Submission: groups, dependencies, limits, and each run once whatever happens in between."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.planning import planned
from tfkd_cli.backends.slurm import arrays, queue, sbatch
from tfkd_cli.backends.slurm import profile as profiles
from tfkd_cli.backends.slurm.client import SlurmError
from tfkd_cli.backends.slurm.profile import Profile
from tfkd_cli.backends.slurm.sending import Submission, dry_run
from tfkd_cli.backends.slurm.submit import submit
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store
from tfkd_cli.training import submission

Send = Callable[..., Submission]
Graph = Callable[[int, int], list[RunSpec]]


def test_teachers_and_students_are_one_array_whose_jobs_wait_each_for_its_own_teacher(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    sent = send(graph(2, 3))
    assert sent.by_array == {"1": 8}
    assert len(fake_slurm.calls("sbatch")) == 1
    assert fake_slurm.dependencies("1") == ["", "", *["afterok:1_0"] * 3, *["afterok:1_1"] * 3]
    assert {each["reason"] for each in fake_slurm.state["jobs"]["1"]["elements"]} == {"None", "Dependency"}
    assert [call[1] for call in fake_slurm.calls("scontrol") if call[0] == "update"] == [
        "jobid=1_[2-4]",
        "jobid=1_[5-7]",
    ]


def test_a_teacher_with_other_resources_is_another_array_that_its_students_wait_for(
    fake_slurm: Any, send: Send, graph: Graph, tmp_path: Path
) -> None:
    path = tmp_path / "shapes.toml"
    path.write_text('[submit]\n[[resources]]\nstudent = "resnet8"\nsubmit = { gpus_per_node = 2 }\n')
    sent = send(graph(1, 2), profile=profiles.read(path))
    assert sent.by_array == {"1": 1, "2": 2}
    assert fake_slurm.dependencies("2") == ["afterok:1"] * 2


def test_runs_that_wait_for_nothing_are_not_sent_on_hold(fake_slurm: Any, send: Send, graph: Graph) -> None:
    send(graph(3, 0))
    assert "hold" not in fake_slurm.options("1")


def test_a_thousand_students_on_twenty_teachers_take_two_sbatch_calls_and_one_update_for_each_teacher(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    sent = send(graph(20, 50))
    assert (sent.runs, len(sent.arrays)) == (1020, 2)
    assert len([call for call in fake_slurm.calls("scontrol") if call[0] == "update"]) <= 21
    assert len(fake_slurm.calls("squeue")) == 0


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
    folder = store.submission_path(sent.name)
    delayed = pickle.loads((folder / "array-0001" / "1_1_submitted.pkl").read_bytes())
    assert delayed.function.__module__ == "tfkd_cli.backends.slurm.job"
    assert delayed.args == (str(store.root.absolute()), sent.name, "1")
    job = submission.read_job(str(store.root), sent.name, "1")
    assert [run.spec for run in job.runs] == graph(1, 1)[1:]


def test_the_same_command_again_submits_nothing(fake_slurm: Any, send: Send, graph: Graph) -> None:
    send(graph(1, 2))
    again = send(graph(1, 2))
    assert (again.runs, len(again.queued)) == (0, 3)
    assert len(fake_slurm.calls("sbatch")) == 1
    assert len(fake_slurm.calls("squeue")) == 1


def test_a_run_that_ends_between_the_plan_and_the_submission_is_not_sent_again(
    fake_slurm: Any, store: Store, graph: Graph, finish: Callable[[RunSpec], None], profile: Profile
) -> None:
    specs = graph(2, 0)
    before = planned(specs, store)
    finish(specs[0])
    assert submit(before, store=store, profile=profile, execution=Execution(cache="")).runs == 1


def test_a_later_request_waits_for_a_teacher_that_is_queued_already(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    teacher, first, second = graph(1, 2)
    send([teacher, first])
    send([teacher, first, second])
    assert fake_slurm.dependencies("3") == ["afterok:1_0"]


def test_arrays_are_split_at_the_sites_max_array_size(fake_slurm: Any, send: Send, graph: Graph) -> None:
    with fake_slurm.edit() as state:
        state["config"]["MaxArraySize"] = "5"
    sent = send(graph(1, 10))
    assert [*sent.by_array.values()] == [5, 5, 1]


def test_what_is_beyond_the_submit_limit_stays_in_the_plan_and_goes_later(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    with fake_slurm.edit() as state:
        state["max_submit"] = 7
    sent = send(graph(1, 10))
    assert (sent.runs, len(sent.left_in_plan)) == (7, 4)
    with fake_slurm.edit() as state:
        state["max_submit"] = None
    later = send(graph(1, 10))
    assert (later.runs, len(later.queued)) == (4, 7)


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

    def lost_answer(*args: Any, **more: Any) -> str:
        real(*args, **more)
        raise SlurmError("sbatch", "Batch job submission failed: Socket timed out on send/recv operation")

    monkeypatch.setattr(sbatch, "submit", lost_answer)
    assert send(graph(1, 3)).by_array == {"1": 4}
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

    def dying(array: Any, *args: Any, **more: Any) -> str:
        if where == "before sbatch":
            raise DiesError
        job = real(array, *args, **more)
        for path in array.job_folder.glob(f"{job}*_submitted.pkl"):
            path.unlink()  # the renaming of the pickles was not reached either
        raise DiesError

    with monkeypatch.context() as patched:
        patched.setattr(sbatch, "submit", dying)
        with pytest.raises(DiesError):
            send(graph(1, 3))
    before = len(fake_slurm.state["jobs"])
    sent = send(graph(1, 3))
    assert before == (0 if where == "before sbatch" else 1)
    assert len(fake_slurm.state["jobs"]) == 1
    assert (sent.runs, len(sent.queued)) == ((4, 0) if where == "before sbatch" else (0, 4))
    pickles = sorted(path.name for path in store.root.glob("submissions/*/array-*/1_*_submitted.pkl"))
    assert pickles == [f"1_{index}_submitted.pkl" for index in range(4)]
    assert fake_slurm.dependencies("1") == ["", *["afterok:1_0"] * 3]


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


def fail_teacher(fake_slurm: Any, *, students: int) -> None:
    """Let job 1_0 fail, so that those that wait for it wait for ever."""
    fake_slurm.move("1_0", "FAILED", "NonZeroExitCode")
    for index in range(students):
        fake_slurm.move(f"1_{index + 1}", "PENDING", queue.NEVER)


def test_a_failed_teacher_sent_again_gets_its_waiting_students_back(
    fake_slurm: Any, send: Send, graph: Graph
) -> None:
    send(graph(1, 3))
    fail_teacher(fake_slurm, students=3)
    again = send(graph(1, 3))
    assert (again.runs, len(again.queued), again.repointed) == (1, 3, 3)
    assert fake_slurm.dependencies("1")[1:] == ["afterok:5"] * 3


def test_a_student_stuck_on_a_teacher_that_is_done_after_all_is_let_go(
    fake_slurm: Any, send: Send, graph: Graph, finish: Callable[[RunSpec], None]
) -> None:
    send(graph(1, 2))
    fail_teacher(fake_slurm, students=2)
    finish(graph(1, 2)[0])
    assert send(graph(1, 2)).repointed == 2
    assert fake_slurm.dependencies("1")[1:] == ["", ""]


def test_packed_students_wait_for_the_job_of_packed_teachers(
    fake_slurm: Any, send: Send, graph: Graph, tmp_path: Path
) -> None:
    path = tmp_path / "packed.toml"
    path.write_text("runs_per_job = 2\n[submit]\n")
    sent = send(graph(2, 4), profile=profiles.read(path))
    assert sent.by_array == {"1": 10}
    assert fake_slurm.dependencies("1") == ["", *["afterok:1_0"] * 4]


def _race(root: str, toml: str, cache: str, specs: list[RunSpec], out: Any) -> None:
    store = Store.open(Path(root), create=True)
    sent = submit(
        planned(specs, store),
        store=store,
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
    assert len(fake_slurm.state["jobs"]) == 1


def test_the_submission_says_how_runs_execute_and_which_code(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    sent = send(graph(1, 0))
    data = json.loads((store.submission_path(sent.name) / "submission.json").read_text())
    staged = store.code_path / data["code"]
    assert data["execution"]["threads"] is None  # the cores that the job is given
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
    assert sent.elsewhere == [specs[0], specs[2]]
    assert not sent.queued


def test_the_heartbeat_of_a_job_that_slurm_does_not_know_is_not_believed(
    fake_slurm: Any, send: Send, graph: Graph, store: Store
) -> None:
    [spec] = graph(1, 0)
    store.run(spec).declare(spec)
    store.run(spec).start_attempt(owner={"slurm": "77"})
    assert send([spec]).runs == 1


def _killed_while_sbatch_is_slow(root: str, toml: str, cache: str, specs: list[RunSpec]) -> None:
    os.setsid()  # so that its sbatch outlives it
    store = Store.open(Path(root), create=True)
    submit(
        planned(specs, store),
        store=store,
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
    assert len(send(graph(1, 0), on_event=told.append).queued) == 1
    assert "as job 1" in told[0]
    assert len(fake_slurm.state["jobs"]) == 1


def test_an_array_that_reaches_slurm_after_its_runs_were_sent_again_is_cancelled(
    fake_slurm: Any, send: Send, graph: Graph, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*args: Any, **more: Any) -> str:
        raise DiesError

    with monkeypatch.context() as patched:
        patched.setattr(sbatch, "submit", dying)
        with pytest.raises(DiesError):
            send(graph(1, 0))
    assert send(graph(1, 0)).runs == 1
    names = [array.name for array in arrays.known_arrays(store)]
    with fake_slurm.edit() as state:
        [intent] = [name for name in names if name != state["jobs"]["1"]["name"]]
        state["jobs"]["9"] = {**state["jobs"]["1"], "name": intent}
    told: list[str] = []
    assert len(send(graph(1, 0), on_event=told.append).queued) == 1
    assert told == ["cancelled job 9: its runs were sent again before SLURM had it."]
    assert [job["elements"][0]["state"] for job in fake_slurm.state["jobs"].values()] == [
        "PENDING",
        "CANCELLED",
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("timeout_min = 9000", "time=9000; its partition allows 2880 minutes"),
        ("mem_gb = 4", "mem=4096MB; its partition allows 3000 MB on a node"),
        ('slurm_mem = "4G"', "mem=4G; its partition allows 3000 MB on a node"),
    ],
)
def test_what_is_above_the_partitions_limit_is_refused_with_its_line_before_anything_is_sent(
    fake_slurm: Any, send: Send, graph: Graph, store: Store, execution: Execution, tmp_path: Path, line: str,
    said: str,
) -> None:  # fmt: skip
    with fake_slurm.edit() as state:
        state["most"]["main"] = 3000
    path = tmp_path / "long.toml"
    path.write_text(f"[submit]\n{line}\n")
    given = {"store": store, "execution": execution, "profile": profiles.read(path)}
    for sending_or_not in (send, lambda runs, **more: dry_run(planned(runs, store), **more)):
        with pytest.raises(RequestError, match=said) as caught:
            sending_or_not(graph(1, 0), **given)
        assert caught.value.expected == f"{path}, line 2: {line}"
    assert fake_slurm.calls("sbatch") == []


def test_a_dry_run_finds_what_sbatch_would_refuse_and_names_each_line_that_could_be_the_cause(
    fake_slurm: Any, graph: Graph, store: Store, execution: Execution, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.toml"
    text = '[submit]\nmem_gb = 1\n[[resources]]\nstudent = "resnet8"\n[resources.submit]\n{}\n'
    path.write_text(text.format('slurm_partition = "gpuu"'))
    planned_runs = planned(graph(1, 0), store)
    with pytest.raises(sbatch.RefusedError, match="invalid partition specified: gpuu") as caught:
        dry_run(planned_runs, store=store, execution=execution, profile=profiles.read(path))
    assert caught.value.expected == f'{path}, line 6: slurm_partition = "gpuu"'
    fake_slurm.refuse("sbatch", "Requested node configuration is not available", times=9, when="--test-only")
    told: list[str] = []
    path.write_text("[submit]\nmem_gb = 1\n")  # refused whatever is asked for: all nodes are down
    dry_run(planned_runs, store=store, execution=execution, profile=profiles.read(path), on_event=told.append)
    assert "sinfo -R" in told[0]


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
