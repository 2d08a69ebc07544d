"""Names of networks from outside tfkd: from torchvision, from timm, or made by a function in user code.

A name is `torchvision:NAME[:pretrained]`, `timm:NAME[:pretrained]` or `python:module.path:factory`. Reading
one needs no torch; `borrowed.py` builds it.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from tfkd_cli import own_code
from tfkd_cli.errors import RequestError, fold
from tfkd_cli.models.network import Network
from tfkd_cli.models.torchvision_costs import COSTS, COUNTED_AT, DEPTHWISE, DEPTHWISE_SLOWNESS, SLOWNESS

BUILDER = "tfkd_cli.models.borrowed"  # reached through importlib: it imports torch

FORMS = "own networks: torchvision:NAME[:pretrained], timm:NAME[:pretrained], python:module.path:factory."

TORCHVISION = tuple(COSTS)
"""The classifiers of torchvision 0.24 to 0.29: a name is checked and spelled without importing it."""

PUBLISHED = "IMAGENET1K_V1"
"""Which of torchvision's weights the released ImageNet script took: the only ones there were."""

WEIGHTS_URL = "https://download.pytorch.org/models"

# The networks of the paper's ImageNet tables (7, 8, 11): label, and digest in the file name of the PUBLISHED
# weights.
IMAGENET = {
    "resnet18": ("ResNet18", "f37072fd"),
    "resnet50": ("ResNet50", "0676ba61"),
    "densenet121": ("DenseNet121", "a639ec97"),
    "resnext101_32x8d": ("ResNeXt101-32x8d", "8ba56ff5"),
}
PUBLISHED_NETWORKS = tuple(f"torchvision:{name}" for name in IMAGENET)

_TIMM_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class OwnName:
    """A name in its parts: `torchvision`, `resnet18`, pretrained or not."""

    library: str
    rest: str
    pretrained: bool = False

    def __str__(self) -> str:
        return f"{self.library}:{self.rest}" + (":pretrained" if self.pretrained else "")


def parse(name: str) -> OwnName:
    """A name of one of the three forms; RequestError for anything else."""
    library, _, rest = name.partition(":")
    library = library.strip().lower()
    if library == "python" and own_code.is_own(f"python:{rest}"):
        return OwnName(library=library, rest=rest)
    model, colon, flag = rest.strip().lower().partition(":")
    known_flag = not colon or flag == "pretrained"
    if library == "torchvision" and known_flag and re.fullmatch(r"[\w-]+", model, re.ASCII):
        return OwnName(library=library, rest=_spell(model), pretrained=bool(colon))
    if library == "timm" and known_flag and _TIMM_NAME.fullmatch(model):
        return OwnName(library=library, rest=model, pretrained=bool(colon))
    raise RequestError(f'unknown network "{name}".', expected=FORMS, hint="tfkd list models shows ours.")


def _spell(model: str) -> str:
    """As torchvision spells it: `ResNet-18` is `resnet18`, but `regnet_x_16gf` is not `regnet_x_1_6gf`."""
    exact = model.replace("-", "_")
    meant = [each for each in TORCHVISION if fold(each) == fold(model)]
    return exact if exact in TORCHVISION or len(meant) != 1 else meant[0]


def network(name: str) -> Network:
    """The facts of an own network, with its label where the paper used it on ImageNet."""
    parsed = parse(name)
    facts = Network(
        name=str(parsed),
        label=str(parsed),
        module=BUILDER,
        factory="build",
        source=parsed.library,
        pretrained=parsed.pretrained,
    )
    if parsed.library != "torchvision":
        return facts
    label = IMAGENET[parsed.rest][0] + " (pretrained)" * parsed.pretrained if parsed.rest in IMAGENET else ""
    millions, thousands = COSTS.get(parsed.rest, (None, None))
    return replace(
        facts,
        label=label or facts.label,
        parameters=thousands and 1_000 * thousands,
        multiply_adds=millions and 1_000_000 * millions,
        counted_at=COUNTED_AT,
        slowness=DEPTHWISE_SLOWNESS if parsed.rest.startswith(DEPTHWISE) else SLOWNESS,
    )


def resolve(name: str) -> str:
    """The canonical spelling, which is hashed; RequestError when the library or the network is missing.

    Names from timm and functions in user code are checked when they are built, since that needs torch.
    """
    parsed = parse(name)
    if parsed.library == "timm":
        require_timm(parsed)
    elif parsed.library == "torchvision" and parsed.rest not in TORCHVISION:
        # A newer torchvision may have it; the way there is importlib's, as this module stays free of torch.
        require_known(parsed, importlib.import_module(BUILDER).torchvision_names())
    return str(parsed)


def published_digest(name: str) -> str | None:
    """The first eight digits of the sha256 of PUBLISHED weights; None for networks that the paper lacks."""
    return IMAGENET[name.partition(":")[2]][1] if name in PUBLISHED_NETWORKS else None


def published_file(name: str) -> Path:
    """The file of PUBLISHED weights in the cache of torch.hub, which a plan looks up without torch."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("TORCH_HOME") or caches / "torch")
    file = f"{name.partition(':')[2]}-{published_digest(name)}.pth"
    return home.expanduser() / "hub" / "checkpoints" / file


def published_to_fetch(name: str) -> str | None:
    """A description of the PUBLISHED weights that would be downloaded, or None where their file is here."""
    file = published_file(name)
    size = 4e-6 * (network(name).parameters or 0)
    return None if file.exists() else f"{WEIGHTS_URL}/{file.name} ({size:.0f} MB) to {file}"


def require_timm(parsed: OwnName) -> None:
    """RequestError when the optional timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        raise RequestError(
            f'"{parsed}" needs timm, which is not installed.',
            expected="the package timm, an optional extra of tfkd.",
            hint="pip install 'tfkd[timm]'",
        )


def require_known(parsed: OwnName, known: Iterable[str]) -> None:
    """RequestError, naming the nearest, when the library does not know the network."""
    names = tuple(known)
    if parsed.rest in names:
        return
    nearest = difflib.get_close_matches(parsed.rest, names, n=1, cutoff=0.5)
    raise RequestError(
        f'{parsed.library} has no network "{parsed.rest}".',
        expected=f"one of the {len(names)} classifiers it lists.",
        hint=f'did you mean "{parsed.library}:{nearest[0]}"?' if nearest else "",
    )
