"""Many processes on one run: one result, made by one of them, and nothing of it touched by the others."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store, files

SIZES = pytest.mark.parametrize(
    ("processes", "rounds"), [(8, 5), pytest.param(20, 50, marks=pytest.mark.drill)], ids=["few", "drill"]
)


def race(play: Any, processes: int, work: Callable[[int], object]) -> list[int]:
    """The exit codes of processes that all do `work` at one moment."""
    start = time.monotonic() + 0.05

    def run(number: int) -> object:
        while time.monotonic() < start:
            pass
        return work(number)

    children = [play.Child(lambda number=number: run(number)) for number in range(processes)]
    return [child.wait() for child in children]


@SIZES
def test_of_many_racing_attempts_one_wins_and_its_files_stand_together(
    tmp_path: Path, tiny_spec: RunSpec, play: Any, processes: int, rounds: int
) -> None:
    for number in range(rounds):
        root = tmp_path / str(number)
        codes = race(play, processes, lambda who: play.train(root, tiny_spec, flavour=f"<{who}>"))  # noqa: B023
        assert sorted(set(codes)) in ([0], [0, 3])
        assert codes.count(0) == 1
        published = play.outcome(root, tiny_spec)
        flavours = {data.split(b"<")[-1] for name, data in published.items() if name.startswith("weights/")}
        assert len(flavours) == 1
        assert not list(root.rglob("*.tmp"))


@SIZES
def test_a_file_created_once_has_one_creator(tmp_path: Path, play: Any, processes: int, rounds: int) -> None:
    for number in range(rounds):
        path = tmp_path / f"{number}.json"
        codes = race(play, processes, lambda who: files.create_once(path, b"%d" % who))  # noqa: B023
        assert codes.count(0) == 1
        assert codes.index(0) == int(path.read_bytes())


@SIZES
def test_of_many_claims_on_a_run_whose_owner_has_died_one_is_granted(
    tmp_path: Path, tiny_spec: RunSpec, play: Any, processes: int, rounds: int
) -> None:
    for number in range(rounds):
        root = tmp_path / str(number)
        run = Store.open(root, create=True).run(tiny_spec)
        run.declare(tiny_spec)
        assert play.Child(lambda: run.claim_attempt(owner={})).wait() == 0  # noqa: B023 - and dies of it

        def claim(who: int, run: Any = run, root: Path = root) -> bool:
            attempt = run.claim_attempt(owner={})
            (root / str(who)).touch()
            while sum(path.name.isdigit() for path in root.iterdir()) < processes:
                time.sleep(0.01)  # a process that has ended has lost its claim
            return attempt is not None

        assert race(play, processes, claim).count(0) == 1


@SIZES
def test_every_attempt_gets_a_number_of_its_own(
    tmp_path: Path, tiny_spec: RunSpec, play: Any, processes: int, rounds: int
) -> None:
    run = Store.open(tmp_path / "results", create=True).run(tiny_spec)
    run.declare(tiny_spec)
    for _ in range(rounds):
        race(play, processes, lambda who: run.start_attempt(owner={}).write_env({"who": who}))
    assert [int(path.name) for path in run.attempts()] == list(range(1, processes * rounds + 1))
    assert all((path / "env.json").is_file() for path in run.attempts())
