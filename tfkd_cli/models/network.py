"""The facts of a network that need neither torch nor building it: its source and its cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Parameters and multiply-adds in closed form: exact for any number of classes and input channels.

    `maps` holds the multiply-adds of the convolutions per position of their output, at the full side of
    the image, at 1/2, 1/4, …; the positions follow from the image's size.
    """

    weights: int  # parameters at three input channels, the classifier's apart
    features: int  # inputs of the classifier
    stem: int  # weights of the first convolution per input channel
    maps: tuple[int, ...]
    hidden: int = 0  # multiply-adds of fully connected layers before the classifier
    border: int = 0  # pixels that the first convolution's padding adds to the side
    halving: Literal["up", "down"] = "up"  # an odd side: a stride rounds up, a pool without padding down

    def parameters(self, *, classes: int, channels: int) -> int:
        """Weights and biases, the running statistics of BN not included."""
        return self.weights + (self.features + 1) * classes + self.stem * (channels - 3)

    def multiply_adds(self, *, size: int, classes: int, channels: int) -> int:
        """Of convolutions and fully connected layers, one image of `size` × `size` pixels."""
        total, side, stem = self.hidden + self.features * classes, size + self.border, self.stem
        for per_position in self.maps:
            total += per_position * side**2
            if per_position and stem:  # the first convolution works at the first side with any
                total, stem = total + stem * (channels - 3) * side**2, 0
            side = (side + 1) // 2 if self.halving == "up" else side // 2
        return total


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network and its facts. `module`:`factory` builds it, given `classes` and `channels`."""

    name: str  # as typed and hashed
    label: str  # as printed in the paper
    module: str  # imported only when it is built
    factory: str
    source: str = ""
    note: str = ""
    assumed: bool = False  # not released, not printed: our guess
    pretrained: bool = False
    counts: Counts | None = None  # None: unknown before it is built
