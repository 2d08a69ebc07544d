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
from tfkd_cli.models.network import Counts, Network

BUILDER = "tfkd_cli.models.borrowed"  # reached through importlib: it imports torch

FORMS = "own networks: torchvision:NAME[:pretrained], timm:NAME[:pretrained], python:module.path:factory."

# The classifiers of torchvision 0.24 to 0.29: a name is checked and spelled without importing it.
TORCHVISION = tuple(
    """
    alexnet convnext_base convnext_large convnext_small convnext_tiny densenet121 densenet161 densenet169
    densenet201 efficientnet_b0 efficientnet_b1 efficientnet_b2 efficientnet_b3 efficientnet_b4
    efficientnet_b5 efficientnet_b6 efficientnet_b7 efficientnet_v2_l efficientnet_v2_m efficientnet_v2_s
    googlenet inception_v3 maxvit_t mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3 mobilenet_v2
    mobilenet_v3_large mobilenet_v3_small regnet_x_16gf regnet_x_1_6gf regnet_x_32gf regnet_x_3_2gf
    regnet_x_400mf regnet_x_800mf regnet_x_8gf regnet_y_128gf regnet_y_16gf regnet_y_1_6gf regnet_y_32gf
    regnet_y_3_2gf regnet_y_400mf regnet_y_800mf regnet_y_8gf resnet101 resnet152 resnet18 resnet34 resnet50
    resnext101_32x8d resnext101_64x4d resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0
    shufflenet_v2_x1_5 shufflenet_v2_x2_0 squeezenet1_0 squeezenet1_1 swin_b swin_s swin_t swin_v2_b
    swin_v2_s swin_v2_t vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn vit_b_16 vit_b_32
    vit_h_14 vit_l_16 vit_l_32 wide_resnet101_2 wide_resnet50_2
    """.split()  # noqa: SIM905  eighty lines of one name would say no more
)

PUBLISHED = "IMAGENET1K_V1"
"""Which of torchvision's weights the released ImageNet script took: the only ones there were."""

WEIGHTS_URL = "https://download.pytorch.org/models"

# The networks of the paper's ImageNet tables (7, 8, 11): label, digest in the file name of the PUBLISHED
# weights, and counts that are exact at multiples of 32 px.
IMAGENET = {
    "resnet18": ("ResNet18", "f37072fd", Counts(
        weights=11_176_512, features=512, stem=3136,
        maps=(0, 9_408, 147_456, 524_288, 2_097_152, 8_388_608))),
    "resnet50": ("ResNet50", "0676ba61", Counts(
        weights=23_508_032, features=2048, stem=3136,
        maps=(0, 9_408, 245_760, 1_310_720, 7_471_104, 14_417_920))),
    "densenet121": ("DenseNet121", "a639ec97", Counts(
        weights=6_953_856, features=1024, stem=3136,
        maps=(0, 9_408, 364_544, 1_040_384, 3_325_952, 2_129_920))),
    "resnext101_32x8d": ("ResNeXt101-32x8d", "8ba56ff5", Counts(
        weights=86_742_336, features=2048, stem=3136,
        maps=(0, 9_408, 546_816, 2_785_280, 56_590_336, 26_607_616))),
}  # fmt: skip
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
    """The facts of an own network: few, unless the paper used it on ImageNet."""
    parsed = parse(name)
    facts = Network(
        name=str(parsed),
        label=str(parsed),
        module=BUILDER,
        factory="build",
        source=parsed.library,
        pretrained=parsed.pretrained,
    )
    if parsed.library != "torchvision" or parsed.rest not in IMAGENET:
        return facts
    label, _, counts = IMAGENET[parsed.rest]
    return replace(facts, label=label + (" (pretrained)" if parsed.pretrained else ""), counts=counts)


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


def require_timm(parsed: OwnName) -> None:
    """RequestError when the optional timm is not installed."""
    if importlib.util.find_spec("timm") is None:
        raise RequestError(
            f'"{parsed}" needs timm, which is not installed.',
            expected="timm is an optional extra of tfkd.",
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
