"""Weights and training state on disk: what is in the files, and how files of others are read.

Everything is written by `torch.save` and read with `weights_only=True`, so no file can run code.
Atomic writing and digests are the store's.

`student.pt` is what a user takes away. Loading it takes nothing of tfkd but the network:

    saved = torch.load("student.pt", weights_only=True)
    shape = {name: saved[name] for name in ("classes", "channels", "size")}
    network = tfkd_cli.models.build(saved["network"], **shape)
    network.load_state_dict(saved["weights"]); network.eval()
    mean, std = (torch.tensor(saved[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    logits_NK = network((images_uint8_NCHW / 255 - mean) / std)
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import torch  # noqa: TID253 - reached only from the trainer and the worker
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.errors import RunError

Weights = dict[str, Tensor]

LARGEST_GB = 8.0
"""A file of weights above this is refused: the largest network here (ResNeXt101) has 0.35 GB."""

WRAPPERS = ("weights", "state_dict", "model_state_dict", "model", "net")
"""Keys under which other code bases (and student.pt) put the state dict."""


def weights_of(network: nn.Module) -> Weights:
    """A copy of the network's state dict, on the CPU, contiguous."""
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in network.state_dict().items()
    }


def to_bytes(saved: Mapping[str, Any]) -> bytes:
    """What `torch.save` writes for `saved`."""
    buffer = io.BytesIO()
    torch.save(dict(saved), buffer)
    return buffer.getvalue()


def write_state(stream: IO[bytes], state: Mapping[str, Any]) -> None:
    """Write a training state to an open binary file."""
    torch.save(dict(state), stream)


def read_state(path: Path) -> dict[str, Any]:
    """The training state in a file of ours; RunError when it cannot be read."""
    state = _read(path)
    if not isinstance(state, dict):
        raise _refusal(path, "it holds no training state")
    return state


def read_weights(path: Path) -> Weights:
    """The state dict in `path`, bare or under one of `WRAPPERS`, with or without `module.`; else RunError."""
    saved = _read(path)
    for _ in range(3):
        if not isinstance(saved, dict):
            break
        inner = next((saved[key] for key in WRAPPERS if isinstance(saved.get(key), dict)), None)
        if inner is None:
            break
        saved = inner
    if not _is_weights(saved):
        raise _refusal(path, "it holds no state dict (names → tensors)")
    return {_without_module(name): value for name, value in saved.items()}


def fill(network: nn.Module, weights: Weights, *, path: Path, name: str) -> None:
    """Load `weights` into `network`; RunError naming the first difference when they do not fit."""
    own = network.state_dict()
    # Old files lack BatchNorm's counter of batches; nothing here reads it.
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    weights = {**counters, **weights}
    missing, surplus = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    shapes = [key for key in own if key in weights and own[key].shape != weights[key].shape]
    if missing or surplus or shapes:
        raise RunError(
            f"{path} does not fit {name}: {_difference(missing, surplus, shapes, own=own, weights=weights)}.",
            expected=f"the {len(own)} tensors of {name}.",
            hint="check the network's name and the number of classes.",
        )
    network.load_state_dict(weights)


def _difference(
    missing: list[str], surplus: list[str], shapes: list[str], *, own: Weights, weights: Weights
) -> str:
    if shapes:
        key = shapes[0]
        return f'"{key}" has shape {tuple(weights[key].shape)}, not {tuple(own[key].shape)}'
    what = f'lacks "{missing[0]}"' if missing else f'has "{surplus[0][:80]}", which the network lacks'
    return f"it {what} ({len(missing)} missing, {len(surplus)} unknown)"


def _read(path: Path) -> Any:
    if not path.is_file():
        raise _refusal(path, "there is no such file")
    _refuse_enormous(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickles of others
            with torch.serialization.safe_globals(_harmless()):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, _blocked(str(error))) from error
    except Exception as error:  # torch raises a dozen kinds for broken files; each means the same here
        reason = str(error).strip().splitlines() or [""]
        raise _refusal(path, f"{type(error).__name__}: {reason[0][:160]}") from error


def _harmless() -> list[Any]:
    """What training scripts keep beside the weights: options of argparse, scores as NumPy numbers.

    They are rebuilt and ignored. Nothing of them runs code: a namespace takes attributes, a number bytes.
    """
    import argparse

    import numpy as np

    kinds = [type(np.dtype(each)) for each in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    scalar = np.float64(0).__reduce__()[0]
    return [argparse.Namespace, np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar"), *kinds]


def _blocked(text: str) -> str:
    """Which foreign class or function the file asks for, where torch says so."""
    found = re.search(r"GLOBAL ([\w.]+)", text)
    what = f"a {found[1][:80]}" if found else "more than tensors"
    return f"it is damaged, or holds {what}, and no file may run code"


def _refuse_enormous(path: Path) -> None:
    size = path.stat().st_size
    unpacked = size
    if zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(each.file_size for each in archive.infolist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise _refusal(path, f"its directory is broken: {error}") from error
    # torch.save does not compress, so an archive that grows was made to.
    if size > LARGEST_GB * 1e9 or unpacked > 2 * size + 1e6:
        raise _refusal(path, f"it is enormous: {size / 1e9:.1f} GB, {unpacked / 1e9:.1f} GB unpacked")


def _refusal(path: Path, reason: str) -> RunError:
    return RunError(
        f"cannot read the weights in {path}: {reason}.",
        expected="a state dict written by torch.save, complete, that loads with weights_only=True.",
        hint="copy the file again, or save the state dict alone: torch.save(network.state_dict(), PATH).",
    )


def _is_weights(saved: Any) -> bool:
    return (
        isinstance(saved, dict)
        and bool(saved)
        and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in saved.items())
    )


def _without_module(name: str) -> str:
    return name.removeprefix("module.")


def plain(state: Any) -> Any:
    """A deep copy of nested dicts and lists with every tensor copied to the CPU (strides kept)."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return cast(Any, [plain(value) for value in state])
    return state
