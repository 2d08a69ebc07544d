"""What an attempt leaves in the store: metrics, snapshots, training states, heartbeats, and the result."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkd_cli.errors import RunError
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import attempts, files, reading
from tfkd_cli.training import checkpoints, provenance

if TYPE_CHECKING:
    from tfkd_cli.data import Arrays
    from tfkd_cli.execution import Execution
    from tfkd_cli.store import Attempt, RunFolder
    from tfkd_cli.training.trainer import Epoch, Training

HEARTBEAT_SECONDS = 10.0
EPOCH_HEARTBEAT_SECONDS = 1.0  # at the ends of short epochs
EPOCH_SAVE_SECONDS = 10.0  # at the ends of epochs, at the earliest
SAVE_SHARE = 0.01  # saving at the ends of epochs may take this share of the time

TEMPERATURES = (1, 5, 20, 40)  # of the soft targets that a baseline's result shows
SOFT_TARGET_IMAGES = 2000  # test images they are a mean over

log = logging.getLogger("tfkd")


class Recorder:
    """The record of one attempt at a run, continued from the attempt before where there was one."""

    def __init__(
        self,
        spec: RunSpec,
        *,
        folder: RunFolder,
        attempt: Attempt,
        numerics: Mapping[str, Any],
        execution: Execution,
    ) -> None:
        self.spec, self.attempt, self._folder = spec, attempt, folder
        self.numerics = dict(numerics)
        self.mixed = False  # whether an earlier part was calculated with other numerics
        self.lines: list[dict[str, Any]] = []
        self._resumed = False
        self._snapshots: dict[str, list[Any]] = {}  # file name → the attempt that saved it, sha256
        self._checkpoint_seconds = 60 * execution.checkpoint_minutes
        self._tensorboard = execution.tensorboard
        self._scalars: Any = None  # writes epochs to `<results>/tensorboard/<run>`
        self._began = time.perf_counter()
        self._saved_at = self._beaten_at = time.monotonic()
        self._save_seconds = 0.0

    def begin(self) -> None:
        """Note where this attempt runs, and that it lives."""
        self.attempt.write_env(provenance.environment(self.numerics))
        if patch := provenance.code().patch:
            files.write_hint(self.attempt.path / "code.diff", patch.encode())
        self.beat()

    def resume(self, training: Training) -> None:
        """Load the furthest valid state into `training`; metrics of later epochs are dropped."""
        for path in self._folder.newest_states():
            try:
                self._take_over(training, checkpoints.read_state(path))
            except (RunError, KeyError, TypeError, ValueError, RuntimeError) as error:
                log.warning("%s cannot be used, an older state is tried: %s", path, error)
                continue
            log.info("continuing in epoch %d at step %d", training.epoch, training.step)
            break
        self.attempt.begin_metrics(self.lines)
        self._resumed = True
        self.beat()
        if self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            folder = self._folder.path.parents[1] / "tensorboard" / self._folder.name
            self._scalars = SummaryWriter(str(folder), purge_step=training.epoch)

    def _take_over(self, training: Training, state: Mapping[str, Any]) -> None:
        """Continue from `state`, with the snapshots it knows; RunError when one of them is lost."""
        for name, (number, sha256) in state["snapshots"].items():
            source = self._path_of(name, number)
            if not source.is_file() or reading.digest(source) != sha256:
                raise RunError(f"the snapshot {source} is missing or damaged")
        training.load(state["training"])
        self._snapshots = dict(state["snapshots"])
        self.lines = list(state["metrics"])
        self.mixed = state["mixed"] or state["numerics"] != self.numerics

    def _path_of(self, name: str, number: int) -> Path:
        """A file of an attempt at this run."""
        return self.attempt.path.with_name(f"{number:04d}") / name

    def add(self, epoch: Epoch, training: Training) -> None:
        """Take in a finished epoch: its line, its snapshot, and where that is cheap the training state."""
        log.info(
            "epoch %d of %d: test accuracy %.2f %%, train loss %.4f, %.1f s",
            epoch.epoch, self.spec.recipe.epochs, epoch.test_accuracy, epoch.train_loss, epoch.seconds,
        )  # fmt: skip
        line = epoch.line(attempt=self.attempt.number)
        self.lines.append(line)
        if epoch.epoch in self.spec.snapshots:
            name = f"epoch-{epoch.epoch:03d}.pt"
            sha256 = self._write(name, checkpoints.weights_of(training.network))
            self._snapshots[name] = [self.attempt.number, sha256]
        self.attempt.append_metrics(line)
        if self._scalars is not None:
            for name, value in line.items():
                if value is not None and name not in ("epoch", "attempt"):
                    self._scalars.add_scalar(name, value, epoch.epoch)
            self._scalars.flush()
        now = time.monotonic()
        if now - self._beaten_at > EPOCH_HEARTBEAT_SECONDS:
            self.beat()
        if now - self._saved_at > max(EPOCH_SAVE_SECONDS, self._save_seconds / SAVE_SHARE):
            self.save(training)

    def keep_up(self, training: Training) -> str | None:
        """At a step boundary: heartbeat and state when due; a reason to stop if another took over."""
        now = time.monotonic()
        if now - self._saved_at > self._checkpoint_seconds:
            self.save(training)
        if now - self._beaten_at > HEARTBEAT_SECONDS and not self.beat():
            return "another attempt has taken over"
        return None

    def save(self, training: Training) -> None:
        """Save the training state, durably."""
        started = time.monotonic()
        state = {
            "schema": 1,
            "training": training.state(),
            "metrics": self.lines,
            "snapshots": self._snapshots,
            "numerics": self.numerics,
            "mixed": self.mixed,
        }
        step = (training.epoch - 1) * training.steps + training.step
        self.attempt.save_state(checkpoints.to_bytes(state), step=step, epoch=training.epoch - 1)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - started

    def beat(self) -> bool:
        """Say how far this run is; False when another attempt has taken over."""
        self._beaten_at = time.monotonic()
        progress: dict[str, Any] = {"epochs": self.spec.recipe.epochs}
        if self._resumed:  # before, only the saved states say how far the run is
            progress["epoch"] = 0
        if self.lines:
            done = self.lines[-1]["epoch"]
            progress |= {"epoch": done, "accuracy": self.lines[-1]["test_accuracy"]}
            seconds = statistics.median(line["seconds"] for line in self.lines)
            progress["seconds_left"] = (self.spec.recipe.epochs - done) * seconds
        return self.attempt.heartbeat(progress)

    def publish(self, training: Training, arrays: Arrays) -> bool:
        """Make this attempt's record the run's result; False when another attempt was first."""
        if time.monotonic() - self._saved_at > EPOCH_SAVE_SECONDS:
            self.save(training)  # a full disk below then costs the writing, not the training
        self._write("best.pt", training.best_weights)
        self._write("last.pt", checkpoints.weights_of(training.network))
        self._write("student.pt", self._student(training, arrays))
        weights = {name: self.attempt.path / name for name in ("best.pt", "last.pt", "student.pt")}
        snapshots = {name: self._path_of(name, number) for name, (number, _) in self._snapshots.items()}
        return self.attempt.publish(
            metrics=self.lines,
            weights=weights | snapshots,
            result={
                **self._result(training, arrays),
                **self._soft_targets(training, arrays),
                **({"skipped": sorted(training.skipped)} if training.skipped else {}),
            },
        )

    def _soft_targets(self, training: Training, arrays: Arrays) -> dict[str, Any]:
        """What a trained baseline would teach: probabilities, most probable first, mean over test images.

        The paper's supplement shows them beside the uniform distribution.
        """
        if not self.spec.snapshots:
            return {}
        import torch

        images_NCHW = torch.from_numpy(arrays.test_images_NCHW[:SOFT_TARGET_IMAGES].copy())
        logits_NK = torch.cat([training.logits(batch) for batch in torch.split(images_NCHW, 256)])
        softened = {
            t: (logits_NK / t).softmax(1).sort(1, descending=True).values.mean(0) for t in TEMPERATURES
        }
        return {
            "soft_targets": {str(t): [round(p, 6) for p in each.tolist()] for t, each in softened.items()}
        }

    def _write(self, name: str, saved: Mapping[str, Any]) -> str:
        data = checkpoints.to_bytes(saved)
        files.write_atomic(self.attempt.path / name, data)
        return hashlib.sha256(data).hexdigest()

    def _student(self, training: Training, arrays: Arrays) -> dict[str, Any]:
        """What student.pt holds besides the best weights; `checkpoints` shows how it is loaded."""
        facts = arrays.facts
        return {
            "network": self.spec.student,
            "classes": facts.classes,
            "channels": facts.channels,
            "size": facts.size,
            "mean": list(facts.mean),
            "std": list(facts.std),
            "levels": [list(each) for each in facts.levels],  # how images of more than 8 bits are scaled
            "class_names": [str(name) for name in arrays.class_names],
            "dataset": self.spec.dataset,
            "method": self.spec.method,
            "accuracy": training.best_accuracy,
            "epoch": training.best_epoch,
            "key": self.spec.key,
            "weights": training.best_weights,
        }

    def _commits(self) -> dict[str, str]:
        """Attempt → the commit it ran, with the digest of what was changed on top of it."""
        found = {}
        for path in sorted(self.attempt.path.parent.glob("[0-9]*/env.json")):
            with contextlib.suppress(RunError):
                began = attempts.environment(self._folder.path, int(path.parent.name))
                commit, diff = str(began.get("commit") or ""), str(began.get("diff") or "")
                found[str(int(path.parent.name))] = f"{commit}+{diff[:8]}" if diff else commit
        return found

    def _result(self, training: Training, arrays: Arrays) -> dict[str, Any]:
        last, code = self.lines[-1], provenance.code()
        spent = sum(line["seconds"] for line in self.lines if line["attempt"] == self.attempt.number)
        names = [str(name) for name in arrays.class_names]
        last_scores = {name: value for name, value in training.last_scores.items() if name != "confusion"}
        return {
            "key": self.spec.key,
            "chosen_on": training.chosen_on,
            "best": {"epoch": training.best_epoch, **training.best_scores},
            "last": {"epoch": last["epoch"], **last_scores},
            "epochs": self.spec.recipe.epochs,
            "seconds": sum(line["seconds"] for line in self.lines),
            "teacher_seconds": sum(line.get("teacher_seconds", 0.0) for line in self.lines),
            # Of this attempt, what was not spent in epochs: data, networks, saving.
            "start_seconds": max(0.0, time.perf_counter() - self._began - spent),
            "images_per_second": statistics.median(line["images_per_second"] for line in self.lines),
            "attempts": self.attempt.number,
            "numerics": {**self.numerics, "mixed": self.mixed},
            "hardware": self.numerics["device_name"],
            "commit": code.commit,
            "diff": code.diff,
            "commits": self._commits(),
            "versions": provenance.versions(),
            "finished_at": provenance.now(),
            "class_names": names if training.best_scores.get("confusion") else None,  # of its rows
        }
