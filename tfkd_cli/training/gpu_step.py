"""How a training step runs on a GPU in a run that is long enough: compiled, and replayed as a CUDA graph.

A replay launches all kernels of a step at once, so that a small network does not wait for Python between
them. Both need batches of one size: the last batch of an epoch, where it has another, runs as it is written.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from typing import NamedTuple

import torch  # noqa: TID253 - reached only from the trainer
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.training.epoch_data import Batch

GRAPH_STEPS = 500
"""Recording a graph takes about a second: only a run of at least so many steps earns it back."""

COMPILE_STEPS = 10_000
"""torch.compile takes a minute or more: only a run of at least so many steps earns it back."""

WARM_UP_STEPS = 3  # before the recording; PyTorch's notes on CUDA graphs use as many

log = logging.getLogger("tfkd")


class Speedups(NamedTuple):
    """What a run uses."""

    compiled: bool
    graph: bool


def speedups(network: str, *, device: torch.device, steps: int, processes: int = 1) -> Speedups:
    """What pays for a run of `steps` steps of this network.

    A data-parallel run has neither: a recorded graph would hold the exchange between its processes, and that
    one of them is gone could not be noticed.

    A module of the user's own may do what neither a compiler nor a graph can see (Python's random numbers,
    counters): it always runs as it is written. Triton needs a C compiler and compute capability 7.0.
    """
    if device.type != "cuda" or network.startswith("python:") or processes > 1:
        return Speedups(compiled=False, graph=False)
    compiled = (
        steps >= COMPILE_STEPS
        and any(map(shutil.which, ("cc", "gcc", "clang")))
        and torch.cuda.get_device_capability(device) >= (7, 0)
    )
    return Speedups(compiled=compiled, graph=steps >= GRAPH_STEPS)


def compiled(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network compiled for one shape of images; what cannot be compiled runs as it is written."""
    torch._dynamo.config.suppress_errors = True
    return torch.compile(network, dynamic=False)


class GraphedStep:
    """`step` as a CUDA graph for batches of `batch_size` images, after a few steps that warm it up.

    The graph holds the addresses of the weights, of the optimiser's state and of all else that `step`
    changes: where one of them is replaced, a new GraphedStep is needed. A step that cannot be recorded (it
    reads a value, for example) runs as it is written, and the log says so.
    """

    def __init__(self, step: Callable[[Batch], None], *, batch_size: int) -> None:
        self._step, self._batch_size = step, batch_size
        self._steps_before_recording = WARM_UP_STEPS
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: Batch | None = None
        self._recordable = True

    def __call__(self, batch: Batch) -> None:
        if not self._recordable or len(batch.labels_N) != self._batch_size:
            self._step(batch)
        elif self._steps_before_recording:
            self._steps_before_recording -= 1
            self._warm_up(batch)
        elif self._graph is None and not self._record(batch):
            self._step(batch)
        else:
            self._replay(batch)

    def _warm_up(self, batch: Batch) -> None:
        """A real step, on a stream of its own as the recording will be."""
        stream, current = torch.cuda.Stream(), torch.cuda.current_stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            self._step(batch)
        current.wait_stream(stream)

    def _record(self, batch: Batch) -> bool:
        """Record the step; nothing is computed yet. False where that is impossible."""
        teacher_NK = None if batch.teacher_NK is None else batch.teacher_NK.clone()
        self._inputs = Batch(batch.images_NCHW.clone(), batch.labels_N.clone(), teacher_NK)
        graph = torch.cuda.CUDAGraph()
        try:
            # torch.cuda.graph does not leave its own stream where a recording fails.
            with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):
                self._step(self._inputs)
        except RuntimeError as error:
            log.warning("the training step cannot be recorded as a CUDA graph and runs without: %s", error)
            self._recordable, self._inputs = False, None
            return False
        self._graph = graph
        return True

    def _replay(self, batch: Batch) -> None:
        assert self._graph is not None
        assert self._inputs is not None
        for buffer, value in zip(self._inputs, batch, strict=True):
            if buffer is not None and value is not None:
                buffer.copy_(value)
        self._graph.replay()
