"""What a SLURM job calls, by reference and with three strings: the worker, under SLURM's policy."""

from __future__ import annotations

import sys
import time
from typing import NoReturn

from tfkd_cli.backends.slurm import records
from tfkd_cli.backends.slurm.lives import Lives
from tfkd_cli.errors import TfkdError
from tfkd_cli.store import Store
from tfkd_cli.training import worker

PARENT_SECONDS = (
    90.0  # until a result written on another node is seen here: NFS keeps attributes for a minute
)


def main(store: str, submission: str, index: str) -> NoReturn:
    """Do the runs at `index` of a submission. SystemExit leaves no result pickle of submitit behind:
    result.json is the only proof, and a pickle cut short by a kill would fail every later attempt."""
    sys.exit(_main(store, submission, index))


def _main(store: str, submission: str, index: str) -> int:
    stop = worker.Stop()
    stop.listen()  # first of all: submitit's own handlers ignore SIGTERM
    try:
        job = worker.read_job(store, submission, index)
        records.declare_runs(job.store, submission, int(index), job.folders)
        lives = Lives(job)
    except TfkdError as error:
        print(error, file=sys.stderr)
        return worker.BAD_SPEC
    if lives.begin():
        return worker.CRASHED
    _wait_for_parents(job, stop)
    code = worker.main(store, submission, index, stop=stop, on_stop=lives.stopped)
    return lives.crashed() if code == worker.CRASHED else lives.ended(code)


def _wait_for_parents(job: worker.Job, stop: worker.Stop) -> None:
    """SLURM says they are done; give the file system time to show it."""
    deadline = time.monotonic() + PARENT_SECONDS
    store: Store = job.store
    for folder in job.folders:
        for parent in store.folder(folder).spec().parents:
            while store.run(parent).state().status in ("running", "resumable") and not stop():
                if time.monotonic() > deadline:
                    return
                time.sleep(1)
