"""Whether the processes (ranks) that train one run together are alive.

Each adds to its counter in torch's store every `BEAT` seconds, in a thread of its own: reading data,
evaluating and saving may take as long as they must. A rank whose counter stands still for `SILENT` beats was
stopped or killed. Beats are counted, not seconds, so a job that is suspended as a whole goes on afterwards.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

BEAT = 2.0  # seconds
SILENT = 12  # beats
STARTING = 150  # beats until all nodes have loaded torch, perhaps from a file server

OnLoss = Callable[[Collection[int], Mapping[int, str]], None]


class Liveness:
    """Rank 0 watches all others, these watch rank 0, from the moment in which this object is made.

    `on_loss` is called, in a thread, with the ranks that are silent and with what others have reported
    (`reported`); it ends the process.
    """

    def __init__(self, rank: int, size: int, *, starting: int, on_loss: OnLoss) -> None:
        self._rank, self._starting, self._on_loss = rank, starting, on_loss
        self._watched = range(1, size) if rank == 0 else (0,)
        self._counts: Sequence[int] = [0] * size
        self._failed: dict[int, str] = {}
        self._done = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def connect(self, store: Any) -> None:
        """Count from now on, in a connection to the store of its own: one that waits is locked."""
        threading.Thread(target=self._count, args=(store,), daemon=True).start()

    def stop_watching(self) -> None:
        """The others may end; this rank goes on counting."""
        self._done.set()

    def _count(self, store: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the process that holds the store has ended
            while True:
                store.add(f"beats/{self._rank}", 1)
                self._counts = [store.add(f"beats/{rank}", 0) for rank in range(len(self._counts))]
                self._failed |= reported(store, self._watched)
                time.sleep(BEAT)

    def _watch(self) -> None:
        before, still = self._counts, [0] * len(self._counts)
        while not self._done.wait(BEAT):
            counts = self._counts
            same = [new == old for old, new in zip(before, counts, strict=True)]
            before, still = counts, [(n + 1) * each for n, each in zip(still, same, strict=True)]
            limits = [SILENT if count else self._starting for count in counts]
            silent = {rank for rank in self._watched if still[rank] > limits[rank]} - self._failed.keys()
            if silent or any(self._failed.values()):
                self._on_loss(silent, self._failed)


def reported(store: Any, ranks: Collection[int]) -> dict[int, str]:
    """Of those ranks that have failed what they tell, or "" where that followed from the loss of another."""
    keys = {rank: f"failed/{rank}" for rank in ranks}
    return {rank: store.get(key).decode() for rank, key in keys.items() if store.check([key])}
