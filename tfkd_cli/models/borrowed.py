"""Builds networks from torchvision, timm or user code, with the required classes and input channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch  # noqa: TID253  reached only through importlib
import torch.hub  # noqa: TID253
from torch import nn  # noqa: TID253

from tfkd_cli import own_code
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.models.own import PUBLISHED, OwnName, parse, published_file, require_known, require_timm

CLASSIFIER = "a network whose classifier is a fully connected layer or a convolution."
AUXILIARY = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}  # torchvision's


def build(name: str, *, classes: int, channels: int, size: int) -> nn.Module:
    """The network, with `classes` outputs, tested on blank images; RequestError when shapes do not match."""
    parsed = parse(name)
    makers = {"torchvision": _from_torchvision, "timm": _from_timm, "python": _from_python}
    built = makers[parsed.library](parsed, classes=classes, channels=channels)
    _try(built, parsed, classes=classes, shape=(2, channels, size, size))
    return built


def weights_to_fetch(name: str) -> str | None:
    """A description of what building `name` would download; None when nothing, or when only timm knows."""
    parsed = parse(name)
    if parsed.library != "torchvision" or not parsed.pretrained:
        return None
    weights = _torchvision_weights(parsed, "DEFAULT")
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    return None if file.exists() else f"{weights.url} ({weights.meta['_file_size']:.0f} MB) to {file}"


def fetch_published(name: str) -> None:
    """Download torchvision's PUBLISHED weights into torch's cache; RunError where that fails."""
    parsed = parse(name)
    weights = _torchvision_weights(parsed, PUBLISHED)
    try:
        weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # no network, a full disk, or another file than the digest in its name says
        raise RunError(
            f'the weights of "{parsed}" cannot be fetched: {type(error).__name__}: {error}.',
            expected=f"{weights.url} as {published_file(name)}.",
            hint="copy the file there from a machine with a network.",
        ) from error


def published_network(name: str) -> nn.Module:
    """torchvision's network with its PUBLISHED weights, which torchvision reads: some have old names."""
    import torchvision

    parsed = parse(name)
    return _made(lambda: torchvision.models.get_model(parsed.rest, weights=PUBLISHED), parsed)


def _torchvision_weights(parsed: OwnName, version: str) -> Any:
    """An entry of torchvision's own list of weights."""
    import torchvision

    return torchvision.models.get_model_weights(parsed.rest)[version]


def _from_torchvision(parsed: OwnName, *, classes: int, channels: int) -> nn.Module:
    import torchvision

    require_known(parsed, torchvision_names())
    given: dict[str, Any] = {"weights": "DEFAULT"} if parsed.pretrained else {"num_classes": classes}
    if parsed.rest in AUXILIARY and not parsed.pretrained:
        given["init_weights"] = True  # its default, but it warns unless told
    built = _made(lambda: torchvision.models.get_model(parsed.rest, **given), parsed)
    if parsed.rest in AUXILIARY:
        for name in ("aux_logits", *AUXILIARY[parsed.rest]):
            setattr(built, name, None)  # these heads would make the output a tuple while training
    if parsed.pretrained:
        _replace_head(built, parsed, classes=classes)
    if channels != 3:
        _adapt_stem(built, parsed, channels=channels)
    return built


def _from_timm(parsed: OwnName, *, classes: int, channels: int) -> nn.Module:
    require_timm(parsed)
    import timm

    if not timm.is_model(parsed.rest):
        require_known(parsed, timm.list_models())
    wanted = {"pretrained": parsed.pretrained, "num_classes": classes, "in_chans": channels}
    return _made(lambda: timm.create_model(parsed.rest, **wanted), parsed)


def _from_python(parsed: OwnName, *, classes: int, channels: int) -> nn.Module:
    module_name, _, factory_name = parsed.rest.partition(":")
    expected = f"{factory_name}(num_classes={classes}) in {module_name} that gives a torch.nn.Module."
    factory = own_code.load(str(parsed), expected=expected)
    try:
        built = factory(num_classes=classes)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the user's own code may raise anything, or call sys.exit
        raise own_code.failed(str(parsed), error, expected=expected) from error
    if not isinstance(built, nn.Module):
        raise RequestError(f'"{parsed}" gave {_what(built)}.', expected=expected)
    return built


def _replace_head(built: nn.Module, parsed: OwnName, *, classes: int) -> None:
    """Replace the last fully connected layer or convolution with 1000 outputs by one with `classes`."""
    found: tuple[str, nn.Module] | None = None
    for name, module in built.named_modules():
        outputs = {nn.Linear: "out_features", nn.Conv2d: "out_channels"}.get(type(module))
        if outputs and getattr(module, outputs) == 1000:
            found = name, _like(module, classes=classes)
    if found is None:
        raise RequestError(f'"{parsed}" has no classifier that can be replaced.', expected=CLASSIFIER)
    built.set_submodule(*found)


def _like(head: nn.Module, *, classes: int) -> nn.Module:
    bias = head.bias is not None
    if isinstance(head, nn.Conv2d):
        return nn.Conv2d(head.in_channels, classes, head.kernel_size, bias=bias)  # type: ignore[arg-type]
    return nn.Linear(head.in_features, classes, bias=bias)  # type: ignore[arg-type]


def _adapt_stem(built: nn.Module, parsed: OwnName, *, channels: int) -> None:
    """Let the stem take one channel: the sum of its weights over the inputs equals three equal channels."""
    convs = (m for m in built.modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    stem = next(convs, None)
    if stem is None or channels != 1:
        raise RequestError(
            f'"{parsed}" cannot take images with {channels} channels.', expected="one channel, or three."
        )
    stem.weight = nn.Parameter(stem.weight.detach().sum(1, keepdim=True))
    stem.in_channels = 1


def _try(built: nn.Module, parsed: OwnName, *, classes: int, shape: tuple[int, int, int, int]) -> None:
    expected = f"logits of shape ({shape[0]}, {classes}) for images of shape {shape}."
    built.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            out = built(torch.zeros(shape))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # user code may raise anything, SystemExit too
        raise RequestError(
            f'"{parsed}" cannot take images of shape {shape}: {type(error).__name__}: {error}',
            expected=expected,
            hint="many ImageNet networks need larger images: a recipe at 224 pixels, or another network.",
        ) from error
    built.train()
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != (shape[0], classes):
        raise RequestError(
            f'"{parsed}" gives {_what(out)} for images of shape {shape}.',
            expected=expected,
            hint="the factory must use its num_classes and give one tensor of logits, not probabilities.",
        )


def _what(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"a tensor of shape {tuple(shape)}"


def _made(make: Callable[[], Any], parsed: OwnName) -> nn.Module:
    try:
        built: nn.Module = make()
    except Exception as error:  # a failed download, a damaged file, an argument the network does not know
        what = f'"{parsed}" cannot be built: {type(error).__name__}: {error}.'
        if not parsed.pretrained:
            raise RequestError(what) from error
        fetch = {
            "torchvision": "models.get_model({!r}, weights='DEFAULT')",
            "timm": "create_model({!r}, True)",
        }
        call = fetch[parsed.library].format(parsed.rest)
        raise RunError(
            what,
            expected="its pretrained weights in the cache ($TORCH_HOME, $HF_HOME), or a network.",
            hint=f'where there is a network: python -c "import {parsed.library}; {parsed.library}.{call}"',
        ) from error
    return built


def torchvision_names() -> list[str]:
    """The classifiers of the installed torchvision."""
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names
