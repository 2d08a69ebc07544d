"""A store damaged at random: every command goes on, no number is wrong, nothing hangs.

Each damage hits one file of a store with finished, failed and resumable runs. `make test` does 25 of them,
`make drills` 500 (TFKD_DAMAGES), with TFKD_DAMAGE_SEED as their seed.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tfkd_cli import results
from tfkd_cli.__main__ import main
from tfkd_cli.report import figures
from tfkd_cli.store import Store

if TYPE_CHECKING:
    from tests.drills.conftest import Drill

HANG_SECONDS = 60  # for one command; the slowest takes two
SEED = int(os.environ.get("TFKD_DAMAGE_SEED", "20261129"))
VALUES = ["x", -1, 0, 1.5, True, None, [], {}, 10**400, 10**18, "../../etc", "\ud800", ["x"], {"x": 1}, 99.99]
NUMBERS = (
    "best_accuracy",
    "best_epoch",
    "last_accuracy",
    "test_loss",
    "test_top5",
    "ece",
    "epochs",
    "lr",
    "seed",
)
Truth = dict[str, Any]


def flip(path: Path, chance: random.Random) -> None:
    """One bit."""
    data = bytearray(path.read_bytes())
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)


def cut(path: Path, chance: random.Random) -> None:
    """The end is missing."""
    data = path.read_bytes()
    path.write_bytes(data[: chance.randrange(len(data) + 1)])


def mistype(path: Path, chance: random.Random) -> None:
    """A JSON value is another one, or 1e999."""
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    except ValueError:
        try:
            lines = [json.loads(path.read_bytes())]
        except ValueError:
            return flip(path, chance)
    whole: Any = lines
    while lines:
        place = chance.choice(list(whole) if isinstance(whole, dict) else range(len(whole)))
        if not isinstance(whole[place], dict | list) or not whole[place] or chance.random() < 0.1:
            break
        whole = whole[place]
    if lines:
        whole[place] = chance.choice([*VALUES, "1e999"])
    texts = [json.dumps(line).replace('"1e999"', "1e999") for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return None


def remove(path: Path, chance: random.Random) -> None:
    """It is gone."""
    path.unlink()


def swap(path: Path, chance: random.Random) -> None:
    """It and another file, of its kind if there is one, have changed places."""
    root = next(each for each in path.parents if (each / "runs").is_dir())
    others = [each for each in sorted(root.rglob(f"*{path.suffix}")) if each.is_file() and each != path]
    alike = [each for each in others if each.name == path.name] or others or [path]
    other, kept = chance.choice(alike), path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(kept)


def link(path: Path, chance: random.Random) -> None:
    """It is a link: to itself, to another file, to a file of the system."""
    kept = path.with_suffix(".kept")
    path.rename(kept)
    path.symlink_to(chance.choice([path, kept, Path("/etc/passwd"), Path("/nowhere")]))


def replace_by_pipe(path: Path, chance: random.Random) -> None:
    """It is a pipe or a folder."""
    path.unlink()
    os.mkfifo(path) if chance.random() < 0.5 else path.mkdir()


DAMAGES = (flip, flip, cut, mistype, mistype, remove, swap, link, replace_by_pipe)


@contextlib.contextmanager
def never_hanging(what: str) -> Iterator[None]:
    """TimeoutError once a command takes longer than any does."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tell(*arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `tfkd`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), never_hanging(arguments[0]):
        code = main(arguments)
    assert "Traceback" not in out.getvalue() + err.getvalue(), err.getvalue()
    assert code in (0, 1, 2), (arguments, err.getvalue())
    return code, out.getvalue(), err.getvalue()


def numbers_of(root: Path) -> Truth:
    """Run → what a frame says of it, of the runs that count; and their epochs."""
    with never_hanging("results.load"):
        runs, epochs = results.load(root)
    rows = runs[runs["status"] == "done"].set_index("run")
    lines = epochs.groupby("run", observed=True)
    return {
        str(name): (
            [row[each] for each in NUMBERS],
            lines.get_group(name).to_csv(index=False) if name in lines.groups else "",
        )
        for name, row in rows.iterrows()
    }


def contradictions(seen: Any, truth: Any, where: str = "") -> Iterator[str]:
    """Numbers in `seen` that differ from those at the same place of `truth`; what is missing is no number."""
    if isinstance(seen, dict) and isinstance(truth, dict):
        for name in (seen.keys() & truth.keys()) - {"n", "wanted"}:  # fewer runs than before
            yield from contradictions(seen[name], truth[name], f"{where}.{name}")
    elif isinstance(seen, list | tuple) and isinstance(truth, list | tuple) and len(seen) == len(truth):
        for place, (ours, theirs) in enumerate(zip(seen, truth, strict=True)):
            yield from contradictions(ours, theirs, f"{where}[{place}]")
    elif isinstance(seen, int | float) and not isinstance(seen, bool):
        same = isinstance(truth, int | float) and (seen == truth or math.isnan(seen) or math.isnan(truth))
        if not same and truth is not None:
            yield f"{where} is {seen}, and was {truth}"


class Damaged:
    """Copies of one store, each damaged once; what its commands said before."""

    def __init__(self, sound: Path, place: Path, arguments: list[str]) -> None:
        self.sound, self.root, self.arguments = sound, place / "results", arguments
        self.run = next(run.name for run in Store(sound).runs() if run.state().status == "done")
        self.renew()
        self.truth = self.say()

    def renew(self) -> None:
        """An undamaged copy."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.sound, self.root)

    def say(self, *, report: bool = True) -> Truth:
        """What every command says; those that look at the whole store never end with an error."""
        store = ["--results", str(self.root)]
        said: Truth = {"load": numbers_of(self.root)}
        for name, command in (
            ("status", ["status", "--json"]),
            ("plan", [*self.arguments, "--dry-run", "--json"]),
            ("clean", ["clean", "--json"]),
            ("table", ["show", "run", "--format", "json"]),
            ("run", ["show", self.run, "--format", "json"]),
        ):
            code, out, err = tell(*command, *store)
            assert code == 0 or name in ("table", "run"), (name, err)
            assert code == 0 or "Hint:" in err, (name, err)
            said[name] = json.loads(out) if code == 0 else {}
        assert "There are no runs" not in tell("status", *store)[1]
        if report:
            code, _, err = tell("report", *store, "--out", str(self.root.parent))
            assert code in (0, 1), err
            record = json.loads((self.root.parent / "report" / "report.json").read_text())
            said["report"] = [table["cells"] for table in record["tables"]]
        pack = self.root.parent / "records.tar.gz"
        pack.unlink(missing_ok=True)
        code, _, err = tell("pack", "--out", str(pack), *store)
        assert code == 0, err
        said["pack"] = numbers_of(pack)
        return said

    def try_one(self, number: int) -> str | None:
        """What is wrong after one damage: a contradiction to what was said before, a loss, an exception."""
        chance = random.Random(f"{SEED}-{number}")
        self.renew()
        files = [path for path in sorted(self.root.rglob("*")) if path.is_file()]
        kinds = sorted({re.sub(r"[0-9a-f]{6,}|\d+", "N", path.name) for path in files})
        kind = chance.choice(kinds)
        path = chance.choice([each for each in files if re.sub(r"[0-9a-f]{6,}|\d+", "N", each.name) == kind])
        damage = chance.choice(DAMAGES)
        told = f"damage {number}: {damage.__name__} {path.relative_to(self.root)}"
        try:
            damage(path, chance)
            seen = self.say(report=number % 5 == 0)  # the report takes as long as all others together
            wrong = [
                each
                for name in ("load", "pack", "table", "run", "report")
                for each in contradictions(seen.get(name), self.truth[name], name)
            ]
            assert not wrong, wrong
            done = {run["run"]: run["best_accuracy"] for run in self.truth["status"]["runs"]}
            for run in seen["status"]["runs"]:
                assert run["best_accuracy"] in (None, done.get(run["run"])), run
            tell("clean", "--yes", "--results", str(self.root))
            assert numbers_of(self.root).keys() >= seen["load"].keys()
        except Exception as error:
            return f"{told}: {type(error).__name__}: {error}"
        return None


@pytest.fixture
def damaged(whole: Callable[..., Drill], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Damaged:
    """The finished store of a drill, beside its runs one that failed and one that was stopped."""
    drill, root = whole(), tmp_path / "sound"
    monkeypatch.setenv("TFKD_CACHE", str(drill.cache))
    monkeypatch.setattr(figures, "FORMATS", ("svg",))
    monkeypatch.setattr(figures, "CURVE_FORMATS", ())
    shutil.copytree(drill.root, root)
    store = Store(root)
    spec = next(run for run in store.runs()).spec()
    for seed in (1, 2):
        other = replace(spec, seed=seed)
        run = store.run(other)
        run.declare(other)
        attempt = run.start_attempt(owner={})
        attempt.log_path.write_text("the log\n")
        attempt.write_env({"commit": "a" * 40, "numerics": {"device": "cpu", "threads": 1}})
        attempt.append_metrics({"epoch": 1, "attempt": 1, "seconds": 1.0, "test_accuracy": 50.0})
        attempt.save_state(b"state", step=3, epoch=1)
        attempt.fail({"kind": "RunError", "message": "no"}) if seed == 1 else attempt.release()
    asked = {name: value for name, value in store.requests()[-1].items() if name != "id"}
    store.add_request({**asked, "seeds": [0, 1, 2]})
    return Damaged(root, tmp_path / "copy", [*drill.command[:-1], "--dataset", f"folder:{drill.images}"])


def test_no_damage_of_a_store_stops_a_command_or_changes_a_number(damaged: Damaged) -> None:
    assert not list(filter(None, map(damaged.try_one, range(25))))


@pytest.mark.drill
@pytest.mark.timeout(0)
def test_no_damage_of_a_store_stops_a_command_or_changes_a_number_in_full(damaged: Damaged) -> None:
    numbers = range(25, 25 + int(os.environ.get("TFKD_DAMAGES", "500")))
    assert not list(filter(None, map(damaged.try_one, numbers)))
