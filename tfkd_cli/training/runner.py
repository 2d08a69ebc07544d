"""One run, from its spec to its result: what it needs is loaded, the trainer does the work, a record is kept.

An attempt saves the training state every few minutes, at the end of an epoch where that is cheap, and when
it is stopped. The next attempt continues from the furthest sound state; what was done after it is redone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - reached only from the worker, which needs it

from tfkd_cli import data
from tfkd_cli.data.augment import Normalise
from tfkd_cli.data.holdout import hold_out
from tfkd_cli.errors import RunError
from tfkd_cli.execution import Execution
from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher
from tfkd_cli.store import files, lease
from tfkd_cli.training import precision, provenance, teacher_logits
from tfkd_cli.training.evaluation import images_at_once
from tfkd_cli.training.record import Record
from tfkd_cli.training.teacher_logits import FrozenTeacher, TeacherLogits
from tfkd_cli.training.trainer import Epoch, Training

if TYPE_CHECKING:
    from tfkd_cli.data import Arrays
    from tfkd_cli.store import Attempt, RunFolder, Store

log = logging.getLogger("tfkd")


class Interrupted(Exception):  # noqa: N818 - it is no error
    """The run was asked to stop; its state is saved."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Blocked(RunError):  # noqa: N818 - it waits
    """A run cannot start: a parent is not done, or another process is at it."""


def run(
    spec: RunSpec,
    *,
    store: Store,
    execution: Execution,
    stop: Callable[[], str | None] = lambda: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    cache_logits: bool = False,
    weights: Collection[str] = (),
) -> dict[str, Any]:
    """Do this run, or the rest of it; its result.

    The plan has decided that it is to be done; only what may have changed since is looked at here: whether
    another process has finished it, or works on it, and whether its teacher is still there.

    `stop` is called at each step boundary for a reason to stop. `cache_logits`: other runs use the same
    teacher logits. `weights`: files that a finished run must still have, or it is trained again.
    Raises Interrupted, Blocked, or RunError (the failure is then in the store).
    """
    folder = store.run(spec)
    folder.declare(spec)
    finished = folder.result()
    if finished is not None and not set(weights) & set(folder.state().missing):
        return finished
    check_parents(spec, store)
    attempt = _start_attempt(folder)
    with _logged(attempt.log_path, verbose=execution.verbose):
        try:
            work = _Work(spec, store=store, execution=execution, attempt=attempt)
            return work.do(stop=stop, on_epoch=on_epoch, cache_logits=cache_logits)
        except Interrupted as stopped:
            log.info("stopped: %s", stopped.reason)
            attempt.release()
            raise
        except KeyboardInterrupt:
            attempt.release()
            raise
        except BaseException as error:  # a student's own code may even call sys.exit
            raise _recorded(error, attempt) from error


def check_parents(spec: RunSpec, store: Store) -> None:
    """Raise Blocked unless its teacher, if it has one, is done and has the weights that teach."""
    if not isinstance(spec.teacher, Teacher):
        return
    parent, state = spec.teacher.run, store.run(spec.teacher.run).state()
    if not state.can_teach(spec.teacher.checkpoint):
        what = f"lacks {spec.teacher.weights}" if state.status == "done" else f"is {state.status}"
        raise Blocked(
            f"{spec.folder} cannot start: its teacher {parent.folder} {what}.",
            hint="give the command again; it trains the teacher first.",
        )


def _start_attempt(folder: RunFolder) -> Attempt:
    """In a job of ours SLURM sees to it that a run has one job; elsewhere a fresh heartbeat does."""
    if os.environ.get(lease.JOB_VARIABLE):
        return folder.start_attempt(owner={})
    attempt = folder.claim_attempt(owner={})
    if attempt is None:
        other = folder.lease()
        owner = (
            f"process {other.pid} on {other.host.split()[0]}" if other and other.host else "another process"
        )
        raise Blocked(f"{folder.name} is being trained by {owner}.")
    return attempt


class _Work:
    """One attempt at a run, and what it calculates with."""

    def __init__(self, spec: RunSpec, *, store: Store, execution: Execution, attempt: Attempt) -> None:
        self._spec, self._store, self._execution = spec, store, execution
        self._folder = store.run(spec)
        self._device, self._numerics = _numerics(spec, self._folder, execution)
        self._record = Record(
            spec,
            folder=self._folder,
            attempt=attempt,
            numerics=self._numerics,
            checkpoint_minutes=execution.checkpoint_minutes,
        )
        log.info("attempt %d of %s on %s", attempt.number, spec.folder, self._numerics)

    def do(
        self, *, stop: Callable[[], str | None], on_epoch: Callable[[Epoch], None], cache_logits: bool
    ) -> dict[str, Any]:
        """Train from the furthest state to the end, and publish; the result that stands."""
        record = self._record
        record.begin()
        arrays = hold_out(_loaded(self._spec, self._execution), self._spec.recipe.holdout)
        teacher = self._teacher(arrays)
        by_epoch = self._teacher_logits(teacher, arrays, cache=cache_logits)

        def at_step() -> None:
            reason = stop() or record.keep_up(training)
            if reason is not None:
                record.save(training)
                raise Interrupted(reason)

        training = Training(
            self._spec,
            data=arrays,
            device=self._device,
            teacher=teacher,
            teacher_logits=by_epoch,
            at_step=at_step,
        )
        record.resume(training)
        scalars = self._scalars(training)
        for epoch in training.epochs():
            record.add(epoch, training)
            scalars(epoch)
            _log_epoch(epoch, self._spec.recipe.epochs)
            on_epoch(epoch)
        won = record.publish(training, arrays)
        log.info("done" if won else "done, but another attempt was first: its result stands")
        result = self._folder.result()
        if result is None:
            raise RunError(f"{self._spec.folder} is trained, but its result cannot be found.")
        return result

    def _scalars(self, training: Training) -> Callable[[Epoch], None]:
        """Writes an epoch to `<results>/tensorboard/<run>` (`--tensorboard`), or does nothing."""
        if not self._execution.tensorboard:
            return lambda epoch: None
        from torch.utils.tensorboard import SummaryWriter

        folder = self._store.root / "tensorboard" / self._spec.folder
        writer = SummaryWriter(str(folder), purge_step=training.epoch)

        def write(epoch: Epoch) -> None:
            for name, value in epoch.line(attempt=0).items():
                if value is not None and name not in ("epoch", "attempt"):
                    writer.add_scalar(name, value, epoch.epoch)
            writer.flush()

        return write

    def _teacher(self, arrays: Arrays) -> FrozenTeacher | None:
        teacher = self._spec.teacher
        if teacher is None:
            return None
        facts = arrays.facts
        network, _ = teacher_logits.build_teacher(teacher, self._teacher_path(), facts)
        example = torch.from_numpy(arrays.train_images_NCHW[:8].copy()).to(self._device)
        return FrozenTeacher(
            network,
            device=self._device,
            precision_name=self._spec.recipe.precision,
            example=Normalise(facts, device=self._device)(example),
        )

    def _teacher_path(self) -> Path:
        teacher = self._spec.teacher
        assert teacher is not None
        if isinstance(teacher, ForeignTeacher):
            return _foreign_weights(teacher, self._execution.sources)
        return self._store.run(teacher.run).weights(teacher.weights)

    def _teacher_logits(
        self, teacher: FrozenTeacher | None, arrays: Arrays, *, cache: bool
    ) -> TeacherLogits | None:
        """Its logits by epoch, where all seeds see the same views; None: it is run at each step.

        `cache`: files are written for other students; without it they are only read.
        """
        if teacher is None or not self._spec.teacher_by_epoch:
            return None
        batch = images_at_once(self._device, arrays.facts.size)
        folder = teacher_logits.cache_folder(
            self._store.teacher_logits_path,
            spec=self._spec,
            weights_digest=files.digest(self._teacher_path()),
            numerics=self._numerics,
            batch=batch,
        )
        return TeacherLogits(
            teacher=teacher,
            images=len(arrays.train_labels_N),
            classes=arrays.facts.classes,
            device=self._device,
            batch=batch,
            folder=folder,
            limit_bytes=1e9 * self._execution.teacher_cache_gb if cache else 0.0,
        )


def _loaded(spec: RunSpec, execution: Execution) -> Arrays:
    """The run's data set; what is damaged in the cache is decoded again, and the log says so."""
    return data.load(
        spec.dataset, execution=execution, progress=lambda what, share: None if share else log.info(what)
    )


def _numerics(spec: RunSpec, folder: RunFolder, execution: Execution) -> tuple[torch.device, dict[str, Any]]:
    """Those of the saved training states, where they can be had here.

    A device that is asked for by name, or by a SLURM job with GPUs, is used in any case.
    """
    fixed = folder.numerics() or {}
    wanted = provenance.asked_device(execution.device)
    if wanted == "auto" and fixed.get("device") in ("cpu", "cuda", "mps"):
        with contextlib.suppress(RunError):
            wanted = provenance.choose_device(fixed["device"]).type
    device = provenance.choose_device(execution.device if wanted == "cuda" else wanted)
    threads = fixed.get("threads") or execution.threads or provenance.cores()
    torch.set_num_threads(threads)
    precision.configure(device, tf32=execution.tf32)
    # Of torch.compile, which would write into /tmp and start as many processes as the machine has cores.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(execution.cache_path / "torchinductor"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads))
    here = provenance.numerics_of(device, threads=threads)
    here["arithmetic"] = precision.arithmetic(spec.recipe.precision, device)
    if device.type == "cuda" and spec.recipe.precision == "bf16" and here["arithmetic"] != "bf16":
        log.warning(
            "%s has no bf16 units: this run is computed in %s", here["device_name"], here["arithmetic"]
        )
    if fixed and fixed != here:
        log.warning("the saved states were made with %s; this attempt has %s", fixed, here)
    return device, here


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


def _log_epoch(epoch: Epoch, epochs: int) -> None:
    log.info(
        "epoch %d of %d: test accuracy %.2f %%, train loss %.4f, %.1f s",
        epoch.epoch,
        epochs,
        epoch.test_accuracy,
        epoch.train_loss,
        epoch.seconds,
    )


class _AttemptLog(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Nothing: where the log cannot be written, the run's own error says why, and must not be buried."""


@contextlib.contextmanager
def _logged(path: Path, *, verbose: bool) -> Iterator[None]:
    """Write what is logged into the attempt's log while it works."""
    handler = _AttemptLog(path)
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


def _recorded(error: BaseException, attempt: Attempt) -> RunError:
    """The error as the user will see it, written into the attempt with its traceback."""
    shown = error if isinstance(error, RunError) else _explained(error)
    trace = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):
        log.error("%s", trace)
    attempt.fail(
        {
            "kind": type(error).__name__,
            "message": str(shown),
            "traceback": trace[-20_000:],
            "at": provenance.now(),
            "log": str(attempt.log_path),
        }
    )
    return shown


def _explained(error: BaseException) -> RunError:
    text = next(iter(str(error).strip().splitlines()), "")[:300]
    of_memory = ("allocate memory", "out of memory", "ALLOC_FAILED")  # the last is cuBLAS's
    if isinstance(error, MemoryError) or any(words in text for words in of_memory):
        return RunError(
            f"out of memory{_on_gpu(error)}: {text}",
            expected="a batch, its activations and the weights in memory.",
            hint="fewer runs at once (--jobs 1), or a smaller --batch-size (another run, with another key).",
        )
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in text or "cuDNN error" in text:
        return RunError(
            f"the computation failed{_on_gpu(error)}: {text}",
            expected="a GPU that works until the run is done.",
            hint="give the command again: it continues from the last saved state. If it fails again, look at "
            "nvidia-smi and at the system's log (Xid) of that host, or choose another GPU (--device).",
        )
    return RunError(f"{type(error).__name__}: {text}", hint="tfkd logs shows the traceback.")


def _on_gpu(error: BaseException) -> str:
    """Which GPU of which host it was, as far as that can still be found out."""
    if isinstance(error, MemoryError) or not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return ""
    with contextlib.suppress(RuntimeError, AssertionError):
        number = torch.cuda.current_device()
        return f" on GPU {number} ({torch.cuda.get_device_name(number)}) of {socket.gethostname()}"
    return f" on a GPU of {socket.gethostname()}"
