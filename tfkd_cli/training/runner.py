"""One run, from its spec to its result: what it needs is loaded, the trainer does the work, a record is kept.

An attempt saves the training state every few minutes, at the end of an epoch where that is cheap, and when
it is stopped. The next attempt continues from the furthest sound state; what was done after it is redone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch  # noqa: TID253 - reached only from the worker, which needs it

from tfkd_cli import data, models
from tfkd_cli.data.augment import Normalise
from tfkd_cli.data.image_files import Reading
from tfkd_cli.data.split import hold_out
from tfkd_cli.errors import RunError
from tfkd_cli.execution import Execution
from tfkd_cli.spec import ForeignTeacher, RunSpec, Teacher
from tfkd_cli.store import lease, reading
from tfkd_cli.training import attempt_log, precision, provenance, teacher_logits
from tfkd_cli.training.evaluation import images_at_once
from tfkd_cli.training.ranks import Ranks
from tfkd_cli.training.recorder import Recorder
from tfkd_cli.training.teacher_logits import FrozenTeacher, TeacherLogits
from tfkd_cli.training.trainer import Training

if TYPE_CHECKING:
    from tfkd_cli.data import Arrays
    from tfkd_cli.store import Attempt, RunFolder, Store

log = logging.getLogger("tfkd")


class Interrupted(Exception):  # noqa: N818 - a stop is not an error
    """The run was asked to stop; its state is saved."""


class Blocked(RunError):  # noqa: N818 - the run can start later
    """A run cannot start: its teacher is not finished, or another process is training it."""


def run(
    spec: RunSpec,
    *,
    store: Store,
    execution: Execution,
    stop: Callable[[], str | None] = lambda: None,
    cache_logits: bool = False,
    weights: Collection[str] = (),
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Train this run, or what is left of it, and return its result.

    The plan has decided that it is to be done; only what may have changed since is looked at here: whether
    another process has finished it, or works on it, and whether its teacher is still there.

    `stop` is called at each step boundary for a reason to stop. `cache_logits`: other runs use the same
    teacher logits. `weights`: files that a finished run must still have, or it is trained again.
    `ranks`: of a data-parallel run. Rank 0 reads, decides and writes; the others train along until the run
    is done or stopped, and give no result.
    Raises Interrupted, Blocked, or RunError (the failure is then in the store).
    """
    folder, ranks = store.run(spec), ranks or Ranks()
    if not ranks.rank:
        folder.declare(spec)
    finished = _finished(folder, weights)
    if finished is not None:
        return finished
    check_parents(spec, store)
    if ranks.rank:
        _assist(spec, store=store, execution=execution, ranks=ranks, stop=stop)
        return {}
    return _lead(spec, store=store, execution=execution, ranks=ranks, stop=stop, cache_logits=cache_logits)


def _lead(
    spec: RunSpec,
    *,
    store: Store,
    execution: Execution,
    ranks: Ranks,
    stop: Callable[[], str | None],
    cache_logits: bool,
) -> dict[str, Any]:
    folder = store.run(spec)
    attempt = _start_attempt(folder)
    with attempt_log.logged(attempt.log_path, verbose=execution.verbose):
        try:
            ranks.meet(lambda lost: attempt_log.end_process(attempt_log.recorded(lost, attempt)))
            work = _Work(spec, store=store, execution=execution, ranks=ranks)
            log.info("attempt %d of %s on %s", attempt.number, spec.folder, work.numerics)
            record = Recorder(
                spec, folder=folder, attempt=attempt, numerics=work.numerics, execution=execution
            )
            record.begin()
            won = record.publish(*work.train(stop=stop, record=record, cache_logits=cache_logits))
            log.info("done" if won else "done, but another attempt was first: its result stands")
            if (result := folder.result()) is None:
                raise RunError(f"{spec.folder} is trained, but its result cannot be found.")
            return result
        except (Interrupted, KeyboardInterrupt) as stopped:
            log.info("stopped: %s", stopped)
            attempt.release()  # so that nobody waits for its lease
            raise
        except BaseException as error:  # a student's own code may even call sys.exit
            raise attempt_log.recorded(ranks.cause_of(error), attempt) from error
        finally:
            ranks.over()


def _assist(
    spec: RunSpec, *, store: Store, execution: Execution, ranks: Ranks, stop: Callable[[], str | None]
) -> None:
    try:
        ranks.meet(
            lambda lost: attempt_log.end_process(
                Blocked(f"rank {ranks.rank} has lost another rank: {lost.what}")
            )
        )
        with contextlib.suppress(Interrupted):
            _Work(spec, store=store, execution=execution, ranks=ranks).train(stop=stop)
        ranks.await_end()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        trace = "".join(traceback.format_exception(error))
        if lost := ranks.report(error, attempt_log.explained(error), trace):
            raise Blocked(f"rank {ranks.rank} has lost another rank: {lost}") from error
        raise RunError(f"rank {ranks.rank} failed:\n{trace}") from error


def _finished(folder: RunFolder, weights: Collection[str]) -> dict[str, Any] | None:
    """The result that stands, where it has the weights that are needed."""
    result = folder.result()
    return None if result is None or set(weights) & set(folder.state().missing) else result


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
    """A new attempt. Blocked if another process has a fresh heartbeat; a SLURM job has no rival."""
    if os.environ.get(lease.JOB_VARIABLE):
        return folder.start_attempt(owner={})
    attempt = folder.claim_attempt(owner={})
    if attempt is None:
        raise Blocked(f"{folder.name} is being trained by {folder.lease() or 'another process'}.")
    return attempt


class _Work:
    """One attempt at a run, with its device and numerics."""

    def __init__(self, spec: RunSpec, *, store: Store, execution: Execution, ranks: Ranks) -> None:
        self._spec, self._store, self._execution, self._ranks = spec, store, execution, ranks
        self._device, self.numerics = _numerics(spec, store.run(spec), execution, ranks)

    def train(
        self, *, stop: Callable[[], str | None], record: Recorder | None = None, cache_logits: bool = False
    ) -> tuple[Training, Arrays]:
        """Train from the furthest state to the end. Rank 0 has a record; the others go on from its state."""
        arrays = self._arrays(stop)
        teacher = self._teacher(arrays)
        self._ranks.join(self._device)  # all ranks have what they need

        def at_step() -> None:
            reason = self._ranks.agree(stop() or keep_up())
            if reason is not None:
                if record is not None:
                    record.save(training)
                raise Interrupted(reason)

        def keep_up() -> str | None:
            return None if record is None else record.keep_up(training)

        training = Training(
            self._spec,
            data=arrays,
            device=self._device,
            teacher=teacher,
            teacher_logits=self._teacher_logits(teacher, arrays, cache=cache_logits),
            at_step=at_step,
            at_batch=keep_up,
            ranks=self._ranks,
        )
        if record is not None:
            record.resume(training)
        if self._ranks.size > 1:
            training.load(self._ranks.of_first(training.state))
        with contextlib.closing(training):
            for epoch in training.epochs():
                if record is not None:
                    record.add(epoch, training)
        self._ranks.leave()
        return training, arrays

    def _arrays(self, stop: Callable[[], str | None]) -> Arrays:
        """The run's data set; what is damaged in the cache is decoded again, and the log says so."""

        def progress(what: str, share: float) -> None:
            if not share:
                log.info(what)
            if self._ranks.size == 1 and (reason := stop()):  # several ranks stop together, at a step
                raise Interrupted(reason)

        recipe, workers = self._spec.recipe, self._execution.data_workers
        if workers is None:
            workers = self._execution.threads or provenance.cores()
        how = Reading(decoder=recipe.decoder, corrupt=recipe.corrupt, workers=workers)
        loaded = data.load(self._spec.dataset, execution=self._execution, reading=how, progress=progress)
        return hold_out(loaded, recipe.holdout)

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
            as_cached=self._spec.teacher_by_epoch,
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

        `cache`: files are written for other students; without it they are only read. In a data-parallel run
        each rank runs the teacher on its own images: one that wrote the logits of an epoch would keep the
        others waiting, and to compute all of them on every rank would cost more than is saved.
        """
        if teacher is None or not self._spec.teacher_by_epoch or self._ranks.size > 1:
            return None
        batch = images_at_once(self._device, arrays.facts.size)
        folder = teacher_logits.cache_folder(
            self._store.teacher_logits_path,
            spec=self._spec,
            weights_digest=reading.digest(self._teacher_path()),
            numerics=self.numerics,
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


def _numerics(
    spec: RunSpec, folder: RunFolder, execution: Execution, ranks: Ranks
) -> tuple[torch.device, dict[str, Any]]:
    """Those of the saved training states, where they can be had here.

    A device that is asked for by name, or by a SLURM job with GPUs, is used in any case; so is the number of
    processes, and with another number the threads of each are not those of before.
    """
    fixed = folder.numerics() or {}
    wanted = provenance.asked_device(execution.device)
    if wanted == "auto" and fixed.get("device") in ("cpu", "cuda", "mps"):
        with contextlib.suppress(RunError):
            wanted = provenance.choose_device(fixed["device"]).type
    wanted = ranks.own_device(execution.device if wanted == "cuda" else wanted)
    device = provenance.choose_device(wanted)
    alike = fixed.get("processes", 1) == ranks.size
    threads = (fixed.get("threads") if alike else None) or execution.threads or provenance.cores()
    torch.set_num_threads(threads)
    precision.configure(device, tf32=execution.tf32)
    # Of torch.compile, which would write into /tmp and start as many processes as the machine has cores.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(execution.cache_path / "torchinductor"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads))
    here = provenance.numerics_of(device, threads=threads)
    here |= {"arithmetic": precision.arithmetic(spec.recipe.precision, device), **ranks.numerics}
    if device.type == "cuda" and spec.recipe.precision == "bf16" and here["arithmetic"] != "bf16":
        log.warning(
            "%s has no bf16 units: this run is computed in %s", here["device_name"], here["arithmetic"]
        )
    if fixed and fixed != here:
        log.warning("the saved states were made with %s; this attempt has %s", fixed, here)
    return device, here


def _foreign_weights(teacher: ForeignTeacher, sources: Mapping[str, str]) -> Path:
    """The file a foreign teacher was given as, or torchvision's, if it still holds the same weights."""
    source = models.published_file(teacher.network) if teacher.published else sources.get(teacher.digest)
    path = Path(source) if source else None
    if path is None or not path.is_file() or not reading.digest(path).startswith(teacher.digest):
        raise RunError(
            f"the teacher's weights {source or teacher.digest[:12]} are missing, or other ones by now.",
            expected=f"a file with sha256 {teacher.digest[:12]}….",
            hint="the command fetches them into torch's cache (TORCH_HOME), which this machine must see."
            if teacher.published
            else "give the command again with the file's path.",
        )
    return path
