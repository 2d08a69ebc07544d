"""The facts of a network that need neither torch nor building it: its source and its cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network and its facts. `module`:`factory` builds it, given `classes` and `channels`.

    `parameters` are those with 3 channels and 100 classes (10, of torchvision's), `multiply_adds` those of
    convolutions and fully connected layers for one image of `counted_at` pixels; None: unknown before it is
    built.
    """

    name: str  # as typed and hashed
    label: str  # as printed in the paper
    module: str  # imported only when it is built
    factory: str
    source: str = ""
    note: str = ""
    assumed: bool = False  # not released, not printed: our guess
    pretrained: bool = False
    parameters: int | None = None
    multiply_adds: int | None = None
    counted_at: int = 32
    slowness: float = 1.0  # time per multiply-add on a CPU, against that of the networks of the paper
