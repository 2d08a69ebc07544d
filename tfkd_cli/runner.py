"""One run, from its spec to its result: all input and output around the trainer.

An attempt saves the training state every few minutes, at the end of an epoch where that is cheap, and when
it is stopped. The next attempt continues from the furthest sound state; what was done after it is redone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - reached only from the worker, which needs it

from tfkd_cli import answers, checkpoints, data, models, provenance
from tfkd_cli.answers import Answers, AskedTeacher
from tfkd_cli.data import augment
from tfkd_cli.errors import RunError
from tfkd_cli.execution import Execution
from tfkd_cli.spec import ForeignTeacher, RunSpec
from tfkd_cli.store import files
from tfkd_cli.store.records import METRICS
from tfkd_cli.trainer import Epoch, Training

if TYPE_CHECKING:
    from tfkd_cli.data import Arrays
    from tfkd_cli.store import Attempt, RunFolder, Store

HEARTBEAT_SECONDS = 10.0
EPOCH_HEARTBEAT_SECONDS = 1.0  # at the ends of short epochs
EPOCH_SAVE_SECONDS = 10.0  # at the ends of epochs, at the earliest
SAVE_SHARE = 0.01  # saving at the ends of epochs may take this share of the time

log = logging.getLogger("tfkd")


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The run was asked to stop; its state is saved."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Blocked(RunError):  # noqa: N818 - it waits
    """A run cannot start: a parent is not done, or another process is at it."""

    def __init__(self, what: str, *, by: str, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.by = by


def run(
    spec: RunSpec,
    *,
    store: Store,
    execution: Execution,
    stop: Callable[[], str | None] = lambda: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    keep_answers: bool = False,
) -> dict[str, Any]:
    """Do this run, or the rest of it; its result.

    `stop` is asked at each step boundary for a reason to stop. `keep_answers`: others will ask this
    teacher the same. Raises Interrupted, Blocked, or RunError (the failure is then in the store).
    """
    folder = store.run(spec)
    folder.declare(spec)
    finished = folder.result()
    if finished is not None and folder.state().weights:
        return finished
    check_parents(spec, store)
    attempt = _start_attempt(folder)
    with _logged(attempt.log_path, verbose=execution.verbose):
        try:
            work = _Work(
                spec, store=store, execution=execution, attempt=attempt, stop=stop, on_epoch=on_epoch
            )
            return work.do(keep_answers=keep_answers)
        except Interrupted as stopped:
            log.info("stopped: %s", stopped.reason)
            attempt.release()
            raise
        except Exception as error:
            raise _recorded(error, attempt) from error
        except BaseException:
            attempt.release()
            raise


def check_parents(spec: RunSpec, store: Store) -> None:
    """Raise Blocked unless every parent is done and has its weights."""
    for parent in spec.parents:
        state = store.run(parent).state()
        if state.status != "done" or not state.weights:
            what = "has no weights" if state.status == "done" else f"is {state.status}"
            raise Blocked(
                f"{spec.folder} cannot start: its teacher {parent.folder} {what}.",
                by=parent.folder,
                hint="give the command again; it trains the teacher first.",
            )


def _start_attempt(folder: RunFolder) -> Attempt:
    """On SLURM the scheduler sees to it that a run has one job; elsewhere a fresh heartbeat does."""
    if os.environ.get("SLURM_JOB_ID"):
        return folder.start_attempt(owner={})
    attempt = folder.claim_attempt(owner={})
    if attempt is None:
        lease = folder.lease()
        owner = (
            f"process {lease.pid} on {lease.host.split()[0]}" if lease and lease.host else "another process"
        )
        raise Blocked(f"{folder.name} is being trained by {owner}.", by=folder.name)
    return attempt


class _Work:
    """One attempt: what it was given, and what it must save."""

    def __init__(
        self,
        spec: RunSpec,
        *,
        store: Store,
        execution: Execution,
        attempt: Attempt,
        stop: Callable[[], str | None],
        on_epoch: Callable[[Epoch], None],
    ) -> None:
        self.spec, self.store, self.execution, self.attempt = spec, store, execution, attempt
        self.folder = store.run(spec)
        self.stop, self.on_epoch = stop, on_epoch
        self.lines: list[dict[str, Any]] = []
        self.snapshots: dict[str, str] = {}  # file name in the attempt's folder → sha256
        self.mixed = False
        self.device, self.numerics = self._fix_numerics()
        self.saved_at = self.beaten_at = time.monotonic()
        self.save_seconds = 0.0

    def do(self, *, keep_answers: bool) -> dict[str, Any]:
        log.info("attempt %d of %s on %s", self.attempt.number, self.spec.folder, self.numerics)
        self.attempt.write_env(provenance.environment(self.numerics))
        if patch := provenance.code().patch:
            files.write_hint(self.attempt.path / "code.diff", patch.encode())
        self._beat(accuracy=None)
        arrays = data.load(self.spec.dataset, execution=self.execution)
        teacher, kept = self._teacher(arrays, keep_answers=keep_answers)
        self.training = Training(
            self.spec,
            data=arrays,
            device=self.device,
            teacher=teacher if kept is None else None,
            answers=kept,
            at_step=self._at_step,
        )
        self._resume()
        for epoch in self.training.epochs():
            self._after(epoch)
        return self._publish(arrays)

    def _fix_numerics(self) -> tuple[torch.device, dict[str, Any]]:
        """What the first attempt had, where it can be had; an explicit --device is obeyed."""
        fixed = self.folder.numerics() or {}
        wanted = self.execution.device
        if wanted == "auto" and fixed.get("device") in ("cpu", "cuda", "mps"):
            with contextlib.suppress(RunError):
                wanted = provenance.choose_device(fixed["device"]).type
        device = provenance.choose_device(wanted)
        threads = fixed.get("threads") or self.execution.threads or provenance.cores()
        torch.set_num_threads(threads)
        here = provenance.numerics_of(device, threads=threads)
        in_force = self.folder.fix_numerics(here)
        if in_force != here:
            log.warning("the first attempt had %s; this one has %s", in_force, here)
        return device, here

    def _teacher(self, arrays: Arrays, *, keep_answers: bool) -> tuple[AskedTeacher | None, Answers | None]:
        if self.spec.teacher is None:
            return None, None
        path = self._teacher_weights()
        facts, recipe = arrays.facts, self.spec.recipe
        network = models.build(
            self.spec.teacher.network, classes=facts.classes, channels=facts.channels, size=facts.size
        )
        checkpoints.fill(network, checkpoints.read_weights(path), path=path, name=self.spec.teacher.network)
        example = torch.from_numpy(arrays.train_images_NCHW[:8].copy()).to(self.device)
        teacher = AskedTeacher(
            network,
            device=self.device,
            precision_name=recipe.precision,
            example=augment.normalise(example, facts.mean, facts.std, memory_format=torch.channels_last),
        )
        if recipe.augment_stream != "shared":
            return teacher, None
        kept = answers.kept_in(
            self.store.answers_path,
            spec=self.spec,
            weights_digest=files.digest(path),
            numerics=self.numerics,
            limit_gb=self.execution.teacher_cache_gb,
        )
        return teacher, Answers(
            teacher=teacher,
            images=len(arrays.train_labels_N),
            classes=facts.classes,
            device=self.device,
            kept=kept if keep_answers else None,
            order=random.Random(self.spec.key),
        )

    def _teacher_weights(self) -> Path:
        teacher = self.spec.teacher
        assert teacher is not None
        if isinstance(teacher, ForeignTeacher):
            return _foreign_weights(teacher, self.execution.sources)
        name = (
            teacher.checkpoint if isinstance(teacher.checkpoint, str) else f"epoch-{teacher.checkpoint:03d}"
        )
        return self.store.run(teacher.run).weights(f"{name}.pt")

    def _resume(self) -> None:
        for path in self.folder.newest_states():
            try:
                state = checkpoints.read_state(path)
                self._take_over(state, path.parent.parent)
            except (RunError, KeyError, TypeError, ValueError, RuntimeError) as error:
                log.warning("%s cannot be used, an older state is tried: %s", path, error)
                continue
            log.info("continuing in epoch %d at step %d", self.training.epoch, self.training.step)
            break
        lines = b"".join(files.encode_json(line, indent=None) for line in self.lines)
        files.write_atomic(self.attempt.path / METRICS, lines)

    def _take_over(self, state: Mapping[str, Any], attempts: Path) -> None:
        """Continue from a state; nothing is changed when it cannot be used."""
        for name, kept in state["snapshots"].items():
            source = attempts / f"{kept['attempt']:04d}" / name
            if not source.is_file() or files.digest(source) != kept["sha256"]:
                raise RunError(f"{source} is missing or damaged")
        self.training.load(state["training"])
        for name, kept in state["snapshots"].items():
            source, target = attempts / f"{kept['attempt']:04d}" / name, self.attempt.path / name
            files.link_or_copy(source, target)
            self.snapshots[name] = kept["sha256"]
        self.lines = list(state["metrics"])
        self.mixed = state["mixed"] or state["numerics"] != self.numerics

    def _at_step(self) -> None:
        now = time.monotonic()
        reason = self.stop()
        if reason is None and now - self.beaten_at > HEARTBEAT_SECONDS and not self._beat():
            reason = "another attempt has taken over"
        if reason is not None:
            self._save()
            raise Interrupted(reason)
        if now - self.saved_at > 60 * self.execution.checkpoint_minutes:
            self._save()

    def _after(self, epoch: Epoch) -> None:
        line = epoch.line(attempt=self.attempt.number)
        self.lines.append(line)
        if epoch.epoch in self.spec.snapshots:
            self._write_weights(f"epoch-{epoch.epoch:03d}.pt", checkpoints.weights_of(self.training.network))
        self.attempt.append_metrics(line)
        log.info(
            "epoch %d of %d: test accuracy %.2f %%, train loss %.4f, %.1f s",
            epoch.epoch, self.spec.recipe.epochs, epoch.test_accuracy, epoch.train_loss, epoch.seconds,
        )  # fmt: skip
        now = time.monotonic()
        if now - self.beaten_at > EPOCH_HEARTBEAT_SECONDS:
            self._beat()
        if now - self.saved_at > max(EPOCH_SAVE_SECONDS, self.save_seconds / SAVE_SHARE):
            self._save()
        self.on_epoch(epoch)

    def _write_weights(self, name: str, saved: Mapping[str, Any]) -> None:
        path = self.attempt.path / name
        files.write_atomic(path, checkpoints.to_bytes(saved))
        if name.startswith("epoch-"):
            self.snapshots[name] = files.digest(path)

    def _save(self) -> None:
        started = time.monotonic()
        training = self.training
        state = {
            "schema": 1,
            "training": training.state(),
            "metrics": self.lines,
            "snapshots": {
                name: {"attempt": self.attempt.number, "sha256": sha256}
                for name, sha256 in self.snapshots.items()
            },
            "numerics": self.numerics,
            "mixed": self.mixed,
        }
        step = (training.epoch - 1) * training.steps + training.step
        self.attempt.save_state(
            lambda stream: checkpoints.write_state(stream, state), step=step, epoch=training.epoch - 1
        )
        self.saved_at = time.monotonic()
        self.save_seconds = self.saved_at - started

    def _beat(self, **more: Any) -> bool:
        """Say how far this run is; False when another attempt has taken over."""
        self.beaten_at = time.monotonic()
        progress: dict[str, Any] = {"epoch": 0, "epochs": self.spec.recipe.epochs, **more}
        if self.lines:
            progress |= {"epoch": self.lines[-1]["epoch"], "accuracy": self.lines[-1]["test_accuracy"]}
            left = self.spec.recipe.epochs - self.lines[-1]["epoch"]
            progress["seconds_left"] = left * statistics.median(line["seconds"] for line in self.lines)
        return self.attempt.heartbeat(progress)

    def _publish(self, arrays: Arrays) -> dict[str, Any]:
        training = self.training
        if time.monotonic() - self.saved_at > EPOCH_SAVE_SECONDS:
            self._save()  # a full disk below costs the writing, not the training
        self._write_weights("best.pt", training.best_weights)
        self._write_weights("last.pt", checkpoints.weights_of(training.network))
        self._write_weights("student.pt", self._student(arrays))
        names = ["best.pt", "last.pt", "student.pt", *self.snapshots]
        won = self.attempt.publish(
            metrics=self.lines,
            weights={name: self.attempt.path / name for name in names},
            result=self._result(),
        )
        result = self.folder.result()
        log.info("done%s", "" if won else ": another attempt was first, its result stands")
        if result is None:
            raise RunError(f"{self.spec.folder} is trained, but its result cannot be found.")
        return result

    def _student(self, arrays: Arrays) -> dict[str, Any]:
        """What student.pt holds besides the best weights; see `checkpoints`."""
        facts = arrays.facts
        return {
            "network": self.spec.student,
            "classes": facts.classes,
            "channels": facts.channels,
            "size": facts.size,
            "mean": list(facts.mean),
            "std": list(facts.std),
            "class_names": [str(name) for name in arrays.class_names],
            "dataset": self.spec.dataset,
            "method": self.spec.method,
            "accuracy": self.training.best_accuracy,
            "epoch": self.training.best_epoch,
            "key": self.spec.key,
            "weights": self.training.best_weights,
        }

    def _result(self) -> dict[str, Any]:
        last = self.lines[-1]
        return {
            "key": self.spec.key,
            "best": {"epoch": self.training.best_epoch, "accuracy": self.training.best_accuracy},
            "last": {
                "epoch": last["epoch"],
                "accuracy": last["test_accuracy"],
                "loss": last["test_loss"],
                "top5": last["test_top5"],
            },
            "epochs": self.spec.recipe.epochs,
            "seconds": sum(line["seconds"] for line in self.lines),
            "images_per_second": statistics.median(line["images_per_second"] for line in self.lines),
            "attempts": self.attempt.number,
            "numerics": {**self.numerics, "mixed": self.mixed},
            "hardware": self.numerics["device_name"],
            "commit": provenance.code().commit,
            "diff": provenance.code().diff,
            "versions": provenance.versions(),
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _foreign_weights(teacher: ForeignTeacher, sources: Mapping[str, str]) -> Path:
    """The file a foreign teacher was given as, if it still holds the same weights."""
    source = sources.get(teacher.digest)
    path = Path(source) if source else None
    if path is None or not path.is_file() or files.digest(path) != teacher.digest:
        raise RunError(
            f"the teacher's weights {source or teacher.digest[:12]} are missing, or other ones by now.",
            expected=f"a file with sha256 {teacher.digest[:12]}….",
            hint="give the command again with the file's path.",
        )
    return path


@contextlib.contextmanager
def _logged(path: Path, *, verbose: bool) -> Iterator[None]:
    """Write what is logged into the attempt's log while it works."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


def _recorded(error: Exception, attempt: Attempt) -> RunError:
    """The error as the user will see it, written into the attempt with its traceback."""
    shown = error if isinstance(error, RunError) else _explained(error)
    log.error("%s", "".join(traceback.format_exception(error)))
    attempt.fail(
        {
            "kind": type(error).__name__,
            "message": str(shown),
            "traceback": "".join(traceback.format_exception(error))[-20_000:],
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "log": str(attempt.log_path),
        }
    )
    return shown


def _explained(error: Exception) -> RunError:
    text = str(error).strip().splitlines()[0][:300] if str(error).strip() else ""
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text
    if memory:
        return RunError(
            f"out of memory: {text}",
            expected="a batch, its activations and the weights in memory.",
            hint="fewer runs at once (--jobs 1), or a smaller --batch-size (another run, with another key).",
        )
    return RunError(f"{type(error).__name__}: {text}", hint="tfkd logs shows the traceback.")
