"""The processes that train one run together: data-parallel training with torch.distributed.

Each process (rank) holds the whole network and computes its part of every batch; DistributedDataParallel
averages the gradients. Rank 0 alone writes. The ranks find each other by the variables that torchrun sets
(RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT); the pool of this machine sets the same, and in a
SLURM job submitit does. Tensors on GPUs go through NCCL, everything else through gloo.

A rank that is killed or stopped ends the others (`liveness`): none of them waits for ever.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import socket
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch  # noqa: TID253 - reached only from the trainer and the runner
import torch.distributed as dist  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.errors import RunError
from tfkd_cli.training.liveness import BEAT, SILENT, STARTING, Liveness, reported

LONGEST_STEP = timedelta(minutes=5)  # that a rank may be behind the others, as when it saves or evaluates
LONGEST_WAIT = timedelta(hours=1)  # for a rank that reads its data, or publishes the result
LAST_WORDS = timedelta(seconds=5)  # for the ranks to say why they failed, once one has

LOST = "gloo|NCCL|pair closure"  # in what gloo and NCCL say when another rank is gone

T = TypeVar("T")
log = logging.getLogger("tfkd")


@dataclass
class Ranks:
    """This process among the `size` that train a run; `Ranks()` is a run in one process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine
    local_size: int = 1
    sync_batch_norm: bool = False
    _store: Any = field(default=None, repr=False)
    _hosts: Any = field(default=None, repr=False)  # the group that exchanges what is in the host's memory
    _liveness: Liveness | None = field(default=None, repr=False)
    _places: dict[int, str] = field(default_factory=dict, repr=False)  # process and machine, by rank

    @classmethod
    def of_environment(cls, *, sync_batch_norm: bool) -> Ranks:
        """As torchrun's variables say; one process where there are none."""
        names = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1}
        found = (int(os.environ.get(name) or default) for name, default in names.items())
        rank, size, local_rank, local_size = found
        return cls(rank, size, local_rank, local_size, sync_batch_norm=sync_batch_norm and size > 1)

    @property
    def numerics(self) -> Mapping[str, Any]:
        """What a run in several processes adds to its numerics: sums have another order, BatchNorm's means
        are those of a rank's part of a batch unless they are synchronised."""
        several = {"processes": self.size} if self.size > 1 else {}
        return several | ({"sync_batch_norm": True} if self.sync_batch_norm else {})

    def own_device(self, device: str) -> str:
        """The name of this rank's own GPU, of those that this process may see, where the run has GPUs."""
        on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        if self.size == 1 or not on_gpu:
            return device
        return f"cuda:{self.local_rank % max(1, torch.cuda.device_count())}"

    def meet(self, on_loss: Callable[[RunError], None]) -> None:
        """Connect to torch's store and say from now on that this rank lives; RunError where it is not there.

        `on_loss` is called in a thread when another rank is lost; it ends the process.
        """
        if self.size == 1:
            return
        starting = SILENT if self.local_size == self.size else STARTING
        self._liveness = Liveness(
            self.rank, self.size, starting=starting,
            on_loss=lambda lost, failed: on_loss(self._loss(lost, failed)),
        )  # fmt: skip
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        held_here = self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        try:
            self._store = dist.TCPStore(  # type: ignore[attr-defined]
                host, port, is_master=held_here, wait_for_workers=False, multi_tenant=True,
                timeout=timedelta(seconds=BEAT * starting),
            )  # fmt: skip
        except RuntimeError as error:
            raise self._unreachable(error) from error
        self._liveness.connect(self._store.clone())

    def join(self, device: torch.device) -> None:
        """Wait until all ranks have read their data, and form the group that trains."""
        if self.size == 1:
            return
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)
        keys = [f"place/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], f"process {os.getpid()} on {socket.gethostname()}")
        try:
            self._store.wait(keys, LONGEST_WAIT)
            self._places = {rank: self._store.get(key).decode() for rank, key in enumerate(keys)}
            dist.init_process_group(
                "nccl" if on_gpu else "gloo",
                store=self._store, rank=self.rank, world_size=self.size,
                timeout=LONGEST_STEP, device_id=device if on_gpu else None,
            )  # fmt: skip
            self._hosts = dist.new_group(backend="gloo", timeout=LONGEST_STEP)
        except RuntimeError as error:
            raise self._unreachable(error) from error
        log.info("data-parallel: %s", self._named(range(self.size), ", "))

    def _unreachable(self, error: RuntimeError) -> RunError:
        return RunError(
            f"rank {self.rank} of {self.size} does not reach the others: {_first_line(error)}",
            expected=f"all of them at {os.environ.get('MASTER_ADDR')}.",
            hint="look at the logs of the other ranks. On several nodes NCCL_SOCKET_IFNAME and "
            "GLOO_SOCKET_IFNAME name the network between them.",
        )

    def _named(self, ranks: Iterable[int], joined: str) -> str:
        known = {rank: f" ({self._places[rank]})" if rank in self._places else "" for rank in ranks}
        return joined.join(f"rank {rank}{place}" for rank, place in sorted(known.items()))

    def leave(self, *, failed: bool = False) -> None:
        """End the connections; a rank that still waits for this one fails at once.

        NCCL would wait here for a rank that has failed; it is left to the end of the process.
        """
        if self.rank == 0:
            self._stop_watching()
        if self.size > 1 and dist.is_initialized():
            of_hosts = failed and dist.get_backend() == "nccl"
            dist.destroy_process_group(self._hosts if of_hosts else None)

    def _stop_watching(self) -> None:
        if self._liveness is not None:
            self._liveness.stop_watching()

    def over(self) -> None:
        """On rank 0: all is written, the others may end."""
        if self._store is not None:
            with contextlib.suppress(RuntimeError):
                self._store.set("over", "")

    def await_end(self, limit: timedelta = LONGEST_WAIT) -> None:
        """On the others: wait until rank 0 is done, for srun ends all tasks soon after the first."""
        with contextlib.suppress(RuntimeError):  # rank 0 was killed
            self._store.wait(["over"], limit)
        self._stop_watching()

    def share(self, indices_N: Tensor) -> Tensor:
        """This rank's part of `indices_N`: contiguous, of the same size or one less than the largest."""
        return indices_N.tensor_split(self.size)[self.rank]

    def share_of_batch(self, indices_N: Tensor) -> Tensor:
        """This rank's part of a batch; all of a batch that has less than two images per rank.

        A part needs images: BatchNorm has no mean of none and no variance of one. What all ranks compute
        has the same gradients on each, and their average.
        """
        return self.share(indices_N) if len(indices_N) >= 2 * self.size else indices_N

    def weight(self, own: int, *, images: int) -> float:
        """What each of `own` images counts in a batch of `images`: 1, or 1/size where all ranks have all."""
        return 1.0 if own < images else 1 / self.size

    def parallel(self, network: nn.Module, device: torch.device, *, own: bool) -> nn.Module:
        """The network whose backward pass averages the gradients over the ranks; it has the same parameters.

        `own`: a network from outside tfkd, of which some parameters may get no gradient.
        """
        if self.size == 1:
            return network
        ids = [device] if device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(network, device_ids=ids, find_unused_parameters=own)

    def share_buffers(self, network: nn.Module) -> None:
        """Give all ranks the buffers of rank 0, as in its checkpoints: BatchNorm's running statistics."""
        if self.size > 1:
            for buffer in network.buffers():
                dist.broadcast(buffer, src=0)

    def summed(self, values_V: Tensor, *, weight: float) -> Tensor:
        """The sum over ranks of `weight` times their values."""
        if self.size > 1:
            values_V = values_V * weight
            dist.all_reduce(values_V)
        return values_V

    def gather(self, scored_SN: Tensor) -> Tensor:
        """The columns of all ranks, in their order, on the CPU."""
        return scored_SN if self.size == 1 else torch.cat(self.of_all(scored_SN.cpu()), 1)

    def agree(self, reason: str | None) -> str | None:
        """The reason to stop of any rank, for all of them at the same step; "TERM" goes before "USR2"."""
        if self.size == 1:
            return reason
        asked = torch.tensor(reason is not None, dtype=torch.int32)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX, group=self._hosts)
        return min(filter(None, self.of_all(reason))) if asked else None

    def of_first(self, value: Callable[[], T]) -> T:
        """The value of rank 0, on every rank."""
        values: list[Any] = [None if self.rank else value()]
        dist.broadcast_object_list(values, src=0, group=self._hosts)
        return values[0]  # type: ignore[no-any-return]

    def of_all(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self._hosts)
        return values

    def report(self, error: BaseException, shown: RunError, trace: str) -> str:
        """Tell rank 0 that this one fails, and why; what is lost, where that follows from another's end.

        Rank 0 ends first: it writes down which rank it was.
        """
        lost = _follows_from_another(error)
        if self._store is not None:
            with contextlib.suppress(RuntimeError):  # rank 0 may be the one that was killed
                told = json.dumps([shown.what, shown.expected, shown.hint, trace])
                self._store.set(f"failed/{self.rank}", "" if lost else told)
                self.leave(failed=True)
            self.await_end(timedelta(seconds=2 * BEAT * SILENT))
        return _first_line(error) if lost else ""

    def cause_of(self, error: BaseException) -> BaseException:
        """On rank 0: `error`, or where that only follows from what happened to another rank, an error that
        says so."""
        self.leave(failed=True)  # which ends the other ranks
        if self._store is None or not _follows_from_another(error):
            return error
        others, found = range(1, self.size), dict[int, str]()
        with contextlib.suppress(RuntimeError):
            self._store.wait([f"failed/{rank}" for rank in others], LAST_WORDS)
        with contextlib.suppress(RuntimeError):
            found = reported(self._store, others)
        return self._loss(set(others) - found.keys(), found)

    def _loss(self, silent: Collection[int], failed: Mapping[int, str]) -> RunError:
        """Which rank has ended the run: one that failed, whose traceback is logged, or one that is silent."""
        for rank, told in failed.items():
            if told:
                what, expected, hint, trace = json.loads(told)
                log.error("rank %d:\n%s", rank, trace)
                what = f"rank {rank} of {self.size} failed: {what}"
                return RunError(what, expected=expected, hint=hint)
        lost = self._named(silent, " and ") or "a rank"
        return RunError(
            f"{lost} was killed, or did not answer for {BEAT * SILENT:.0f} s.",
            expected=f"all {self.size} processes of the run, until it is done.",
            hint="give the command again: it continues from the last saved state. The system's log names "
            "processes that were killed for want of memory.",
        )


def _follows_from_another(error: BaseException) -> bool:
    """Whether a rank fails because another one is gone; gloo's errors have no class of their own."""
    of_torch = isinstance(error, dist.DistBackendError | dist.DistNetworkError | dist.DistStoreError)
    return of_torch or (isinstance(error, RuntimeError) and re.search(LOST, str(error)) is not None)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]
