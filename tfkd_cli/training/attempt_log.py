"""The log of an attempt, and how the error that ends one is explained and recorded."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch  # noqa: TID253 - reached only from the runner

from tfkd_cli.data.streaming import worker_died
from tfkd_cli.errors import RunError, TfkdError
from tfkd_cli.training import provenance

if TYPE_CHECKING:
    from tfkd_cli.store import Attempt

log = logging.getLogger("tfkd")


class _AttemptLog(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Nothing: where the log cannot be written, the run's own error says why, and must not be buried."""


@contextlib.contextmanager
def logged(path: Path, *, verbose: bool) -> Iterator[None]:
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


def recorded(error: BaseException, attempt: Attempt) -> RunError:
    """The error as the user will see it, written into the attempt with its traceback."""
    shown = explained(error)
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


def end_process(error: RunError) -> NoReturn:
    """End this process from another thread than the one that trains: that may wait for a lost rank."""
    print(error, file=sys.stderr, flush=True)
    os._exit(os.EX_TEMPFAIL if os.environ.get("RANK", "0") != "0" else 1)  # TRY_AGAIN or CRASHED of `worker`


def explained(error: BaseException) -> RunError:
    """The error in three parts, as the user will see it."""
    if isinstance(error, TfkdError):
        return RunError(error.what, expected=error.expected, hint=error.hint)
    if (died := worker_died(error)) is not None:  # torch raises it wherever the trainer is
        return died
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
