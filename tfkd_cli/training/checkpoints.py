"""Weights and training state on disk: what is in the files, and how files of others are read.

Everything is written by `torch.save` and read with `weights_only=True`, so no file can run code. A file of
another code base may hold any objects beside its weights: placeholders stand for them, and nothing of them is
imported. Atomic writing and digests are the store's.

`student.pt` is what a user takes away. Loading it takes nothing of tfkd but the network:

    saved = torch.load("student.pt", weights_only=True)
    shape = {name: saved[name] for name in ("classes", "channels", "size")}
    network = tfkd_cli.models.build(saved["network"], **shape)
    network.load_state_dict(saved["weights"]); network.eval()
    mean, std = (torch.tensor(saved[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    logits_NK = network((images_uint8_NCHW / 255 - mean) / std)
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names, which protocol 2 writes
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import IO, Any, ClassVar, Self, cast

import torch  # noqa: TID253 - reached only from the trainer and the worker
from torch import Tensor, nn  # noqa: TID253

from tfkd_cli.errors import RunError
from tfkd_cli.regular_files import WEIGHTS_LIMIT, open_regular

Weights = dict[str, Tensor]

WRAPPERS = ("weights", "state_dict", "model_state_dict", "model", "net", "network", "module")
"""Where other code bases (and student.pt) put the weights; of several that fit, the first of these counts."""

INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, FSDP and activation checkpoints put into names, wherever they wrap a module."""

DEPTH = 4
"""Dictionaries inside each other in which weights are looked for."""

LEGACY_PICKLES = 4
"""Before torch 1.6 a file held a magic number, a version, the system, the object, and then its storages."""


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


def read_state(path: Path) -> dict[str, Any]:
    """The training state in a file of ours; RunError when it cannot be read."""
    _refuse_enormous(path)
    state = _read(path, {})
    if not isinstance(state, dict):
        raise _refusal(path, "it holds no training state")
    return state


def read_weights(path: Path) -> Weights:
    """All tensors in `path`, named by the keys that lead to them (`state_dict.fc.bias`); RunError for none.

    Of what is beside them nothing is imported or run. A file in the format safetensors needs the package of
    that name (`pip install 'tfkd[safetensors]'`).
    """
    _refuse_enormous(path)
    if path.suffix == ".json":
        raise _refusal(path, "it is an index of the files that hold them; all must be in one file")
    if _is_safetensors(path):
        return _read_safetensors(path)
    saved = _read(path, _named_objects(path))
    weights = _tensors(saved)
    if not weights:
        inside = saved.values() if isinstance(saved, dict) else ()
        objects = (each for each in (saved, *inside) if isinstance(each, _Placeholder))
        what = next((f"a {type(each).__module__}.{type(each).__name__}"[:80] for each in objects), None)
        what = f"{what}, and no file may run code" if what else "no state dict (names → tensors)"
        raise _refusal(path, f"it holds {what}")
    return weights


def fill(network: nn.Module, weights: Weights, *, path: Path, name: str) -> str:
    """Load `weights` into `network`; what was done to their names to make them fit, in words, or "".

    DataParallel puts `module.` before all names, torch.compile `_orig_mod.`, Lightning the attribute's name.
    RunError naming the first difference when they do not fit.
    """
    own = network.state_dict()
    # Old files lack BatchNorm's counter of batches; nothing here reads it.
    counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
    left_out = [each for each in INSIDE if any(each in key for key in weights.keys() - own.keys())]
    pattern = "|".join(map(re.escape, left_out))
    weights = {re.sub(pattern, "", key): value for key, value in weights.items()}
    prefix, passed_over = _prefix(weights, own.keys() - counters.keys(), path=path)
    named = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    fitting = {**counters, **named}
    missing, surplus = sorted(own.keys() - fitting.keys()), sorted(fitting.keys() - own.keys())
    shapes = [key for key in own if key in fitting and own[key].shape != fitting[key].shape]
    if missing or surplus or shapes:
        raise RunError(
            f"{path} does not fit {name}: {_difference(missing, surplus, shapes, own=own, weights=fitting)}.",
            expected=f"the {len(own)} tensors of {name}.",
            hint="check the network's name and the number of classes.",
        )
    _check_values(fitting, own, path=path)
    network.load_state_dict(fitting)
    return _said(prefix, passed_over, left_out, others=len(weights) - len(named))


def _said(prefix: str, passed_over: Collection[str], left_out: Collection[str], *, others: int) -> str:
    taken = [f'its tensors are those under "{prefix}"'] * bool(prefix)
    taken += [f'those under "{each}", which fit too, are not used' for each in passed_over]
    taken += [f'"{each}" was left out of their names' for each in left_out]
    return ", ".join(taken + [f"{others} other tensors were ignored"] * bool(taken and others))


def _check_values(weights: Weights, own: Weights, *, path: Path) -> None:
    """RunError for tensors that are not dense and of finite numbers, as those of the network are."""
    for key, each in weights.items():
        if each.layout != torch.strided or each.is_quantized or each.is_meta:
            what, hint = "is sparse, quantised or empty", "save each.to_dense() or each.dequantize()."
        elif own[key].is_floating_point() and not each.is_floating_point():
            what, hint = f"has values of type {each.dtype}", "save them as floating-point numbers."
        elif not each.float().isfinite().all():
            what, hint = "holds values that are no finite numbers", "take a checkpoint from before they were."
        else:
            continue
        expected = "weights as dense tensors of finite floating-point numbers."
        raise RunError(f'{path}: "{key[:80]}" {what}.', expected=expected, hint=hint)


def _prefix(weights: Weights, needed: AbstractSet[str], *, path: Path) -> tuple[str, list[str]]:
    """What stands before the network's own names in the file, and other prefixes under which weights fit.

    Where none fits, the one with most of the names. RunError for several of which WRAPPERS prefers none.
    """
    found = Counter(key.removesuffix(end) for key in weights for end in _ends(key) if end in needed)
    fitting = sorted(each for each, count in found.items() if count == len(needed))
    if len(fitting) < 2:
        return (fitting or [each for each, _ in found.most_common(1)] or [""])[0], []
    ranks = [
        WRAPPERS.index(first) if (first := each.partition(".")[0]) in WRAPPERS else 99 for each in fitting
    ]
    if ranks.count(min(ranks)) > 1:
        raise RunError(
            f"{path} holds {len(fitting)} sets of weights that fit: "
            f"{', '.join(each.removesuffix('.') for each in fitting[:4])}.",
            expected="one network in the file.",
            hint="save the state dict of one alone: torch.save(network.state_dict(), PATH).",
        )
    taken = fitting.pop(ranks.index(min(ranks)))
    return taken, fitting


def _ends(name: str) -> Iterator[str]:
    """`a.b.c`, `b.c` and `c`."""
    while name:
        yield name
        name = name.partition(".")[2]


def _difference(
    missing: list[str], surplus: list[str], shapes: list[str], *, own: Weights, weights: Weights
) -> str:
    if shapes:
        key = shapes[0]
        return f'"{key}" has shape {tuple(weights[key].shape)}, not {tuple(own[key].shape)}'
    what = f'lacks "{missing[0]}"' if missing else f'has "{surplus[0][:80]}", which the network lacks'
    return f"it {what} ({len(missing)} missing, {len(surplus)} unknown)"


def _tensors(saved: Any, above: str = "", depth: int = DEPTH) -> Weights:
    """All tensors in nested dictionaries, named by the keys that lead to them."""
    found: Weights = {}
    for key, value in saved.items() if isinstance(saved, dict) else ():
        if isinstance(key, str) and isinstance(value, Tensor):
            found[above + key] = value
        elif isinstance(key, str) and depth:
            found |= _tensors(value, f"{above}{key}.", depth - 1)
    return found


def _read(path: Path, placeholders: Mapping[str, type[_Placeholder]]) -> Any:
    allowed: list[Any] = [
        (_Mapping if kind.is_mapping else kind, name) for name, kind in placeholders.items()
    ]
    try:
        with warnings.catch_warnings(), open_regular(path) as stream:
            warnings.simplefilter("ignore")  # about the pickles of others
            with torch.serialization.safe_globals(allowed):
                return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, "it is damaged, or holds more than tensors, and no file may run code") from error
    except Exception as error:  # torch raises a dozen kinds for broken files; each means the same here
        raise _refusal(path, _first_line(error)) from error


def _is_safetensors(path: Path) -> bool:
    """Whether it begins with the length of a JSON object and that object."""
    with open_regular(path) as stream:
        length, brace = int.from_bytes(stream.read(8), "little"), stream.read(1)
        return brace == b"{" and length < os.fstat(stream.fileno()).st_size


def _read_safetensors(path: Path) -> Weights:
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise RunError(
            f"{path} needs the package safetensors, which is not installed.",
            expected="the package safetensors, an optional extra of tfkd.",
            hint="pip install 'tfkd[safetensors]', or save the state dict with torch.save.",
        ) from error
    try:
        return load_file(path)
    except Exception as error:  # its own error, one of the system, or one of torch
        raise _refusal(path, _first_line(error)) from error


class _Placeholder(list[Any]):
    """Takes what is done to an object while it is unpickled, and does nothing."""

    is_mapping: ClassVar[bool] = False  # whether some object of this class was filled with keys and values

    def __new__(cls, *args: object, **more: object) -> Self:
        """Any arguments will do."""
        return super().__new__(cls)

    def __init__(self, *args: object, **more: object) -> None:
        super().__init__()

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be the key of a dictionary

    def __setitem__(self, key: object, value: object) -> None:
        type(self).is_mapping = True

    def __setstate__(self, state: object) -> None:
        """Nothing is kept."""


class _Mapping:
    """Makes a dict where a file has one of a class of its own; `weights_only` fills no other mapping."""

    def __new__(cls, *args: object, **more: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        """Any arguments will do."""
        return OrderedDict()


class _Survey(pickle.Unpickler):
    """Goes through a pickle with placeholders for everything that it names: nothing is imported or called."""

    def __init__(self, stream: IO[bytes], named: dict[str, type[_Placeholder]]) -> None:
        super().__init__(stream)
        self._named = named

    def find_class(self, module: str, name: str) -> type[_Placeholder]:
        """A placeholder's class for each name."""
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        kind = type(name, (_Placeholder,), {"__module__": module})
        return self._named.setdefault(f"{module}.{name}", kind)

    def persistent_load(self, pid: object) -> None:
        """A tensor's storage: not needed here."""


def _named_objects(path: Path) -> dict[str, type[_Placeholder]]:
    """Full name → placeholder, of each class and function that the pickle in a file names.

    Those that `weights_only` knows stay what they are: torch prefers its own list.
    """
    named: dict[str, type[_Placeholder]] = {}
    with contextlib.suppress(Exception):  # a broken file: `torch.load` says what is wrong with it
        for stream in _pickles(path):
            _Survey(stream, named).load()
    return named


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    """The pickle of a zip archive, or those at the start of an older file, to be read one after the other."""
    with open_regular(path) as stream:
        if zipfile.is_zipfile(stream):
            with zipfile.ZipFile(stream) as archive:
                name = next(each for each in archive.namelist() if each.endswith("data.pkl"))
                yield io.BytesIO(archive.read(name))
        else:
            stream.seek(0)
            for _ in range(LEGACY_PICKLES):
                yield stream


def _refuse_enormous(path: Path) -> None:
    """RunError for what is no file, is larger than any network, or unpacks to something larger."""
    try:
        with open_regular(path, limit=WEIGHTS_LIMIT) as stream:
            size = unpacked = os.fstat(stream.fileno()).st_size
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as archive:
                    unpacked = sum(each.file_size for each in archive.infolist())
    except FileNotFoundError as error:
        raise _refusal(path, "there is no such file") from error
    except OSError as error:
        raise _refusal(path, error.strerror or str(error)) from error
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise _refusal(path, f"its directory is broken: {error}") from error
    if unpacked > 2 * size + 1e6:  # torch.save does not compress, so an archive that grows was made to
        raise _refusal(path, f"it is enormous: {size / 1e9:.1f} GB, {unpacked / 1e9:.1f} GB unpacked")


def _first_line(error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"{type(error).__name__}: {reason[:160]}".removesuffix(".").removesuffix(": ")


def _refusal(path: Path, reason: str) -> RunError:
    return RunError(
        f"cannot read the weights in {path}: {reason}.",
        expected="a state dict written by torch.save, complete, that loads with weights_only=True.",
        hint="copy the file again, or save the state dict alone: torch.save(network.state_dict(), PATH).",
    )


def plain(state: Any) -> Any:
    """A deep copy of nested dicts and lists with every tensor copied to the CPU (strides kept)."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, Mapping):
        return {key: plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return cast(Any, [plain(value) for value in state])
    return state
