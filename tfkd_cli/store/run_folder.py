"""One run's folder: what it is, what it has, and the attempts made on it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfkd_cli.errors import RunError
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import attempts, description, files, lease, publishing, reading
from tfkd_cli.store.attempts import Attempt
from tfkd_cli.store.lease import Lease
from tfkd_cli.store.reading import DamagedFile, Lines
from tfkd_cli.store.run_state import LINE, METRICS, RunState

STUDENT = "student.pt"
log = logging.getLogger("tfkd")
RUN_NAME = re.compile(r"[a-z0-9][a-z0-9.@_-]{0,199}-[0-9a-f]{12}")


class RunFolder:
    """`runs/cifar100-resnet18-kd-from-mobilenetv2-s0-8d4c1185ab12`; it need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @property
    def short_key(self) -> str:
        """The 12 hex digits of the key that end the name."""
        return self.name[-12:]

    def declare(self, spec: RunSpec) -> None:
        """Write spec.json, once, and finish a publishing that was cut short.

        RunError when another run's spec stands there.
        """
        files.make_folder(self.path)
        description.write(self.path, spec)
        publishing.finish(self.path)

    def mend(self, spec: RunSpec) -> None:
        """Write a damaged or missing spec.json again; nothing where the run has no folder."""
        if self.path.is_dir():
            description.write(self.path, spec)

    def spec(self) -> RunSpec:
        """The run this folder is for; DamagedFile when spec.json and its copies are missing or damaged."""
        return description.read(self.path)

    def state(self) -> RunState:
        """What the folder says about the run now. Damage is logged, so that every command names the file."""
        found: dict[str, Any] = {"key": self.short_key, "name": self.name}
        try:
            result = self.result()
            found |= self._unfinished() if result is None else self._done(result)
        except RunError as error:
            log.warning("%s Hint: %s", error.what, error.hint)
            found |= {"status": "damaged", "damage": str(error)}
            with contextlib.suppress(RunError):
                found |= {"attempts": len(self.attempts()), "key": self.spec().key}
        return RunState(**found)

    def _done(self, result: dict[str, Any]) -> dict[str, Any]:
        return {
            "key": result["key"],
            "status": "done",
            "epoch": result["epochs"],
            "epochs": result["epochs"],
            "result": result,
            "attempts": result.get("attempts") or 1,
            "missing": publishing.missing_weights(self.path, result),
        }

    def _unfinished(self) -> dict[str, Any]:
        numbers, states = attempts.attempt_numbers(self.path), attempts.all_states(self.path)
        saved = states[0].epoch if states else None
        found: dict[str, Any] = {"attempts": len(numbers), "epoch": saved}
        try:
            spec = self.spec()
            found |= {"key": spec.key, "epochs": spec.recipe.epochs}
        except DamagedFile:
            if os.path.lexists(self.path / description.SPEC):
                raise  # else the folder got no further than its name
        holder = self.lease()
        if holder is not None and holder.live:
            epoch = holder.progress.get("epoch", saved)  # an attempt that begins goes on from the furthest
            age = max(0.0, holder.age)
            return {**found, "status": "running", "epoch": epoch, "heartbeat_age": age, "slurm": holder.slurm}
        failure = attempts.read_failure(self.path, numbers[-1]) if numbers else None
        status = "failed" if failure else "resumable" if states else "todo"
        return {**found, "status": status, "failure": failure}

    def lease(self) -> Lease | None:
        """The last sign of life of whoever works, or worked, on the newest attempt."""
        newest = self.attempts()[-1:]
        return lease.read(newest[0] / lease.OWNER) if newest else None

    def result(self) -> dict[str, Any] | None:
        """The result, its own digest and those of its records checked; None while there is none.

        DamagedFile when it, or a record it names, cannot be believed and cannot be repaired.
        """
        return publishing.read_result(self.path)

    def metrics(self) -> list[dict[str, Any]]:
        """A line per epoch: the published ones, or those of the newest attempt."""
        return self.read_metrics(self.result()).lines

    def read_metrics(self, result: Mapping[str, Any] | None) -> Lines:
        """The lines that a result vouches for, or without one the readable lines of the newest attempt.

        What had to be left out of these is said in words. DamagedFile where the published ones are damaged.
        """
        if result is None:  # each attempt begins with what it took over
            paths = (path / METRICS for path in reversed(self.attempts()))
            found = (reading.read_lines(path, *LINE) for path in paths)
            return next((lines for lines in found if lines is not None), Lines([]))
        return reading.parse_lines(
            publishing.read_metrics(self.path, result), *LINE, path=self.path / METRICS
        )

    def weights(self, name: str) -> Path:
        """The file of published weights ("best.pt", "last.pt", "epoch-001.pt"), its digest checked.

        RunError when the run has no result or these weights are absent, DamagedFile for other bytes.
        """
        result = self.result()
        if result is None:
            raise RunError(f"{self.name} is not finished.", hint="give the command that trains it again.")
        expected = result["weights"].get(name)
        for again in publishing.retrained(self.path):
            expected = again["weights"].get(name, expected)
        if expected is None:
            known = ", ".join(sorted(result["weights"])) or "none"
            raise RunError(f'{self.name} keeps no weights "{name}".', expected=f"kept: {known}.")
        path = self.path / publishing.WEIGHTS / name
        if path.is_symlink() or path.parent.is_symlink():
            raise DamagedFile(path, "is a link.", expected="a file of the store.")
        teaches = name != STUDENT  # which no command trains again for the sake of it
        anew = publishing.moving_away(self.path)
        if not path.is_file():
            raise RunError(
                f"{self.name} is finished, but its weights {name} are gone.",
                hint="the command that needs them trains them again." if teaches else anew,
            )
        if reading.digest(path) != expected:
            hint = f"rm '{path}' has it trained again; the result stays." if teaches else anew
            raise DamagedFile(path, "does not hold the weights its result vouches for.", hint=hint)
        return path

    def start_attempt(self, *, owner: Mapping[str, Any]) -> Attempt:
        """A new attempt with a number of its own, whoever else is at work."""
        attempt = attempts.begin(self.path, given=owner, alone=False)
        assert attempt is not None
        return attempt

    def claim_attempt(self, *, owner: Mapping[str, Any]) -> Attempt | None:
        """Like `start_attempt`, but None while somebody else is at work; of many callers one gets it."""
        return attempts.begin(self.path, given=owner, alone=True)

    def numerics(self) -> dict[str, Any] | None:
        """Those of the result, or of the attempt that saved the furthest state: device, threads, torch."""
        with contextlib.suppress(RunError):
            if (result := self.result()) is not None:
                return {name: each for name, each in result["numerics"].items() if name != "mixed"}
        for state in attempts.all_states(self.path):
            with contextlib.suppress(RunError):
                if found := attempts.environment(self.path, state.attempt).get("numerics"):
                    return dict(found)
        return None

    def failure(self) -> dict[str, Any] | None:
        """What the newest attempt that failed says about it; a damaged note still counts as a failure."""
        numbers = reversed(attempts.attempt_numbers(self.path))
        found = (attempts.read_failure(self.path, number) for number in numbers)
        return next((failure for failure in found if failure is not None), None)

    def newest_states(self) -> list[Path]:
        """The sound training states of all attempts, the furthest first; unsound ones are passed over."""
        return [state.path for state in attempts.all_states(self.path) if state.is_sound()]

    def attempts(self) -> list[Path]:
        """The folders of the attempts, oldest first."""
        numbers = attempts.attempt_numbers(self.path)
        return [publishing.attempt_path(self.path, number) for number in numbers]

    def log_path(self) -> Path | None:
        """The log of the newest attempt that has one, for `open_regular(…, below=self.path)`."""
        for path in reversed(self.attempts()):
            with contextlib.suppress(OSError):
                if (path / "log").lstat().st_size:
                    return path / "log"
        return None
