"""The networks: their facts, which need no torch, and how one is built.

A new network is a file here, with a class or function that takes `classes` and `channels` by name, and its
entry in `NETWORKS`. Besides these, a student or teacher may be `torchvision:NAME[:pretrained]`,
`timm:NAME[:pretrained]` or `python:module.path:factory`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.models import own
from tfkd_cli.models.network import Network
from tfkd_cli.models.own import (
    PUBLISHED,
    PUBLISHED_NETWORKS,
    published_digest,
    published_file,
    published_to_fetch,
)

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "NETWORKS",
    "PUBLISHED",
    "PUBLISHED_NETWORKS",
    "Network",
    "build",
    "multiply_adds",
    "network",
    "parameters",
    "published_digest",
    "published_file",
    "published_to_fetch",
    "resolve",
    "short",
]

_HERE = "tfkd_cli.models"


def _thin(name: str, label: str, parameters: int, multiply_adds: int) -> Network:
    return Network(
        name=name,
        label=label,
        module=f"{_HERE}.thin_resnet",
        factory=name,
        source="He et al. 2016, section 4.2",
        note="thin (16-32-64 channels); not in the paper",
        parameters=parameters,
        multiply_adds=multiply_adds,
    )


_ALL = (
    Network(
        name="plain-cnn",
        label="Plain CNN",
        module=f"{_HERE}.plain_cnn",
        factory="PlainCNN",
        source="released model/net.py",
        parameters=369_124,
        multiply_adds=10_596_864,
    ),
    Network(
        name="mobilenetv2",
        label="MobileNetV2",
        module=f"{_HERE}.mobilenetv2",
        factory="MobileNetV2",
        source="released model/mobilenetv2.py",
        parameters=2_369_380,
        multiply_adds=64_947_264,
    ),
    Network(
        name="shufflenetv2",
        label="ShuffleNetV2",
        module=f"{_HERE}.shufflenetv2",
        factory="ShuffleNetV2",
        source="released model/shufflenetv2.py",
        parameters=1_360_896,
        multiply_adds=43_675_520,
    ),
    Network(
        name="resnet18",
        label="ResNet18",
        module=f"{_HERE}.resnet",
        factory="resnet18",
        source="released model/resnet.py",
        parameters=11_220_132,
        multiply_adds=555_468_800,
    ),
    Network(
        name="resnet50",
        label="ResNet50",
        module=f"{_HERE}.resnet",
        factory="resnet50",
        source="released model/resnet.py",
        parameters=23_705_252,
        multiply_adds=1_298_014_208,
    ),
    Network(
        name="googlenet",
        label="GoogLeNet",
        module=f"{_HERE}.googlenet",
        factory="GoogLeNet",
        source="released model/googlenet.py",
        parameters=6_258_500,
        multiply_adds=1_521_848_320,
    ),
    Network(
        name="densenet121",
        label="DenseNet121",
        module=f"{_HERE}.densenet",
        factory="densenet121",
        source="released model/densenet.py",
        parameters=7_048_548,
        multiply_adds=888_442_880,
    ),
    Network(
        name="resnext29",
        label="ResNeXt29",
        module=f"{_HERE}.resnext",
        factory="resnext29",
        source="released model/resnext.py",
        note="8×64d",
        parameters=34_518_948,
        multiply_adds=5_387_358_208,
    ),
    Network(
        name="resnext101",
        label="ResNeXt101",
        module=f"{_HERE}.resnext",
        factory="resnext101",
        source="Table 5 (the name only)",
        note="8×64d, the released ResNeXt29 at depth 101; its definition was never released",
        assumed=True,
        parameters=128_247_716,
        multiply_adds=19_077_566_464,
    ),
    _thin("resnet8", "ResNet8", parameters=81_140, multiply_adds=12_245_248),
    _thin("resnet14", "ResNet14", parameters=178_356, multiply_adds=26_401_024),
    _thin("resnet20", "ResNet20", parameters=275_572, multiply_adds=40_556_800),
)

NETWORKS: Mapping[str, Network] = {each.name: each for each in _ALL}


def network(name: str) -> Network:
    """The facts of a network; RequestError, naming the nearest, when there is no such name."""
    if ":" in name:
        return own.network(name)
    others = (f"torchvision:{each}" for each in own.TORCHVISION)
    return NETWORKS[canonical(name, NETWORKS, kind="network", hint=own.FORMS, elsewhere=others)]


def resolve(name: str) -> str:
    """The canonical spelling of `name`, which is hashed; RequestError when it cannot be built here."""
    return own.resolve(name) if ":" in name else network(name).name


def short(name: str) -> str:
    """As tables show it: `torchvision:resnet18:pretrained` is `resnet18 (pretrained)`; ours stay."""
    library, colon, rest = name.partition(":")
    if library == "python":
        return rest.rpartition(":")[2]
    network, _, flag = rest.partition(":")
    return (network + f" ({flag})" * bool(flag)) if colon else name


def parameters(name: str) -> int | None:
    """About how many weights and biases a network has, whatever its classes; None where it is unknown."""
    return network(name).parameters


def multiply_adds(name: str, *, size: int) -> int | None:
    """About how many multiply-adds one image of `size` × `size` pixels takes; None where it is unknown."""
    facts = network(name)
    return facts.multiply_adds and round(facts.multiply_adds * (size / facts.counted_at) ** 2)


def build(name: str, *, classes: int, channels: int, size: int) -> nn.Module:
    """The network with fresh weights (or pretrained ones); the caller seeds torch before.

    It takes images (N, channels, size, size) and gives logits (N, classes).
    """
    if classes < 2:
        raise RequestError(f"{classes} classes.", expected="a classifier has at least two classes.")
    facts = network(name)
    factory = getattr(importlib.import_module(facts.module), facts.factory)
    if ":" in name:
        built: nn.Module = factory(facts.name, classes=classes, channels=channels, size=size)
    else:
        built = factory(classes=classes, channels=channels)
    return built
