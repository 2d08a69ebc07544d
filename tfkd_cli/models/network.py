"""The facts of a network that need neither torch nor building it: its source and its cost."""

from __future__ import annotations

from dataclasses import dataclass

COUNTED_AT = 32  # pixels


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network and its facts. `module`:`factory` builds it, given `classes` and `channels`.

    `parameters` are those with 100 classes and 3 channels, `multiply_adds` those of convolutions and fully
    connected layers for one image of 32 pixels; None: unknown before it is built.
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
