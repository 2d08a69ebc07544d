"""The networks: their facts, which need no torch, and how one is built.

A new network is a file here, with a function `factory(*, classes, channels)`, and its entry in `NETWORKS`.
Besides these, a student or teacher may be `torchvision:NAME[:pretrained]`, `timm:NAME[:pretrained]` or
`python:module.path:factory`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tfkd_cli.errors import RequestError, canonical
from tfkd_cli.models import own, torchvision_costs
from tfkd_cli.models.network import Counts, Network
from tfkd_cli.models.own import PUBLISHED, PUBLISHED_NETWORKS, published_digest

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

__all__ = [
    "NETWORKS",
    "PUBLISHED",
    "PUBLISHED_NETWORKS",
    "Counts",
    "Network",
    "build",
    "multiply_adds",
    "network",
    "parameters",
    "published_digest",
    "published_network",
    "published_to_fetch",
    "published_weights",
    "resolve",
    "short",
    "weights_to_fetch",
]

_HERE = "tfkd_cli.models"
_HE = "He et al. 2016, section 4.2"

_ALL = (
    Network(
        name="plain-cnn",
        label="Plain CNN",
        module=f"{_HERE}.plain_cnn",
        factory="plain_cnn",
        source="released model/net.py",
        counts=Counts(weights=356_224, features=128, stem=288, maps=(864, 18_432, 73_728), hidden=262_144,
                      halving="down"),
    ),
    Network(
        name="mobilenetv2",
        label="MobileNetV2",
        module=f"{_HERE}.mobilenetv2",
        factory="mobilenetv2",
        source="released model/mobilenetv2.py",
        counts=Counts(weights=2_241_280, features=1280, stem=32, maps=(3_456, 14_832, 40_080, 2_131_648),
                      border=2),
    ),
    Network(
        name="shufflenetv2",
        label="ShuffleNetV2",
        module=f"{_HERE}.shufflenetv2",
        factory="shufflenetv2",
        source="released model/shufflenetv2.py",
        counts=Counts(weights=1_258_396, features=1024, stem=216, maps=(1_224, 38_422, 278_516, 916_168)),
    ),
    Network(
        name="resnet18",
        label="ResNet18",
        module=f"{_HERE}.resnet",
        factory="resnet18",
        source="released model/resnet.py",
        counts=Counts(weights=11_168_832, features=512, stem=576,
                      maps=(149_184, 524_288, 2_097_152, 8_388_608)),
    ),
    Network(
        name="resnet50",
        label="ResNet50",
        module=f"{_HERE}.resnet",
        factory="resnet50",
        source="released model/resnet.py",
        counts=Counts(weights=23_500_352, features=2048, stem=576,
                      maps=(247_488, 1_310_720, 7_471_104, 14_417_920)),
    ),
    Network(
        name="googlenet",
        label="GoogLeNet",
        module=f"{_HERE}.googlenet",
        factory="googlenet",
        source="released model/googlenet.py",
        counts=Counts(weights=6_156_000, features=1024, stem=1728, maps=(591_424, 2_924_544, 2_616_320)),
    ),
    Network(
        name="densenet121",
        label="DenseNet121",
        module=f"{_HERE}.densenet",
        factory="densenet121",
        source="released model/densenet.py",
        counts=Counts(weights=6_946_048, features=1024, stem=576,
                      maps=(366_272, 1_040_384, 3_325_952, 2_129_920), halving="down"),
    ),
    Network(
        name="resnext29",
        label="ResNeXt29",
        module=f"{_HERE}.resnext",
        factory="resnext29",
        source="released model/resnext.py",
        note="8×64d",
        counts=Counts(weights=34_416_448, features=1024, stem=576, maps=(1_853_120, 7_340_032, 25_165_824)),
    ),
    Network(
        name="resnext101",
        label="ResNeXt101",
        module=f"{_HERE}.resnext",
        factory="resnext101",
        source="Table 5 (the name only)",
        note="8×64d, the released ResNeXt29 at depth 101; its definition was never released",
        assumed=True,
        counts=Counts(weights=128_145_216, features=1024, stem=576,
                      maps=(6_309_568, 25_165_824, 96_468_992)),
    ),
    Network(
        name="resnet8",
        label="ResNet8",
        module=f"{_HERE}.thin_resnet",
        factory="resnet8",
        source=_HE,
        note="thin (16-32-64 channels); not in the paper",
        counts=Counts(weights=74_640, features=64, stem=144, maps=(5_040, 13_824, 55_296)),
    ),
    Network(
        name="resnet14",
        label="ResNet14",
        module=f"{_HERE}.thin_resnet",
        factory="resnet14",
        source=_HE,
        note="thin (16-32-64 channels); not in the paper",
        counts=Counts(weights=171_856, features=64, stem=144, maps=(9_648, 32_256, 129_024)),
    ),
    Network(
        name="resnet20",
        label="ResNet20",
        module=f"{_HERE}.thin_resnet",
        factory="resnet20",
        source=_HE,
        note="thin (16-32-64 channels); not in the paper",
        counts=Counts(weights=269_072, features=64, stem=144, maps=(14_256, 50_688, 202_752)),
    ),
)  # fmt: skip

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


def parameters(name: str, *, classes: int, channels: int = 3) -> int | None:
    """The number of weights and biases, of torchvision's about; None when only building it would tell."""
    counts = network(name).counts
    if counts is None:
        return torchvision_costs.parameters(name)
    return counts.parameters(classes=classes, channels=channels)


def multiply_adds(name: str, *, size: int, classes: int, channels: int = 3) -> int | None:
    """Multiply-adds of a forward pass of one image, of torchvision's about; None where it is unknown."""
    counts = network(name).counts
    if counts is None:
        return torchvision_costs.multiply_adds(name, size=size)
    return counts.multiply_adds(size=size, classes=classes, channels=channels)


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


def weights_to_fetch(name: str) -> str | None:
    """A description of what building `name` would download, or None. Imports torch if it is pretrained."""
    facts = network(name)
    if not facts.pretrained:
        return None
    words: str | None = importlib.import_module(facts.module).weights_to_fetch(facts.name)
    return words


def published_to_fetch(name: str) -> str | None:
    """A description of the PUBLISHED weights that would be downloaded, or None; imports no torch."""
    file = own.published_file(name)
    size = 4e-6 * (parameters(name, classes=1000) or 0)
    return None if file.exists() else f"{own.WEIGHTS_URL}/{file.name} ({size:.0f} MB) to {file}"


def published_weights(name: str, *, fetch: bool = False) -> Path:
    """The file of torchvision's PUBLISHED weights in torch's cache; downloaded with `fetch` (RunError)."""
    file: Path = importlib.import_module(own.BUILDER).published_weights(name, fetch=fetch)
    return file


def published_network(name: str) -> nn.Module:
    """torchvision's network with its PUBLISHED weights, whose file is in torch's cache."""
    built: nn.Module = importlib.import_module(own.BUILDER).published_network(name)
    return built
