"""Which BatchNorm sees a convolution's output, and alone: read from the graph that autograd makes.

No numbers are compared: a branch whose gain is still zero, or a classifier whose bias outweighs all else,
would hide from the outputs what is used twice. What autograd does not see (a detached use) is not seen here.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch  # noqa: TID253 - reached only through the precision of a network
from torch import Tensor, nn  # noqa: TID253

Pairs = list[tuple[nn.Conv2d, nn.BatchNorm2d]]


def in_training(network: nn.Module, images_NCHW: Tensor) -> Pairs:
    """Pairs of a network in training whose norm uses the batch's statistics; nothing of it is changed."""
    probe = copy.deepcopy(network).train()
    found = _pairs(probe, images_NCHW, by_batch=True)
    names = {id(module): name for name, module in probe.named_modules()}
    with_names = [(names[id(conv)], names[id(norm)]) for conv, norm in found]
    own = dict(network.named_modules())
    return [(own[conv], own[norm]) for conv, norm in with_names]


def in_evaluation(network: nn.Module, images_NCHW: Tensor) -> Pairs:
    """Pairs of a network in eval mode whose norm uses its running statistics."""
    return _pairs(network, images_NCHW, by_batch=False)


def _pairs(network: nn.Module, images_NCHW: Tensor, *, by_batch: bool) -> Pairs:
    made: dict[Any, nn.Conv2d] = {}  # node of the graph → the convolution that made it
    normed: list[tuple[nn.BatchNorm2d, Any]] = []
    calls: Counter[nn.Module] = Counter()

    def after(module: nn.Module, _: tuple[Any, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.BatchNorm2d):
            normed.append((module, output.grad_fn))
        elif isinstance(module, nn.Conv2d):
            made[output.grad_fn] = module

    hooks = [each.register_forward_hook(after) for each in _once_named(network)]
    try:
        with torch.inference_mode(mode=False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            output = network(images_NCHW.detach().clone().requires_grad_())
            uses = _uses(output)
            return [
                (made[before], norm)
                for norm, node in normed
                if (before := _before(node, by_batch=by_batch)) in made
                and uses[before] == calls[norm] == calls[made[before]] == 1
            ]
    finally:
        for hook in hooks:
            hook.remove()


def _once_named(network: nn.Module) -> Iterator[nn.Module]:
    """Convolutions and norms that have one name: of several, one could not be replaced without the others."""
    names = Counter(id(each) for _, each in network.named_modules(remove_duplicate=False))
    for each in network.modules():
        if isinstance(each, nn.Conv2d | nn.BatchNorm2d) and names[id(each)] == 1:
            yield each


def _before(node: Any, *, by_batch: bool) -> Any:
    """What gave a BatchNorm's node its input, if it normalised by these statistics; else None."""
    if not type(node).__name__.endswith("BatchNormBackward0"):
        return None
    if getattr(node, "_saved_training", True) != by_batch:
        return None
    return node.next_functions[0][0]


def _uses(output: Any) -> Counter[Any]:
    """How often each node of the graph behind the outputs gives its result to another."""
    todo = [each.grad_fn for each in _tensors(output)]
    uses: Counter[Any] = Counter(todo)
    seen = set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        following = [each for each, _ in node.next_functions]
        uses.update(following)
        todo += following
    return uses


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for each in output.values():
            yield from _tensors(each)
    elif isinstance(output, list | tuple):
        for each in output:
            yield from _tensors(each)
