"""Weights and training states as files: ours, those of others, and broken ones."""

from __future__ import annotations

import datetime
import enum
import functools
import io
import os
import pickle
import random
import sys
import zipfile
from argparse import Namespace
from collections import Counter, defaultdict
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tfkd_cli.errors import RunError
from tfkd_cli.regular_files import WEIGHTS_LIMIT
from tfkd_cli.training import checkpoints


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def saved(tmp_path: Path, value: Any, **how: Any) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(value, path, **how)
    return path


def filled(path: Path) -> str:
    """What is said when a network gets its weights from a file; checks that it got those of `network()`."""
    other = network()
    for each in other.parameters():
        nn.init.constant_(each, 7.0)
    said = checkpoints.fill(other, checkpoints.read_weights(path), path=path, name="resnet18")
    for each, expected in zip(other.parameters(), network().parameters(), strict=True):
        assert torch.equal(each, expected)
    return said


def test_weights_are_a_copy_on_the_cpu() -> None:
    net = network()
    weights = checkpoints.weights_of(net)
    nn.init.zeros_(net[0].weight)  # type: ignore[index]
    assert weights["0.weight"].abs().sum() > 0


def test_a_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    state = {"step": 3, "lr": 0.1, "sums": torch.ones(2, dtype=torch.float64), "lines": [{"epoch": 1}]}
    path = tmp_path / "state.pt"
    with path.open("wb") as stream:
        stream.write(checkpoints.to_bytes(state))
    read = checkpoints.read_state(path)
    assert torch.equal(read.pop("sums"), state.pop("sums"))  # type: ignore[arg-type]
    assert read == state


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net", "model_state_dict", "weights"])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_of_other_code_bases_are_read(tmp_path: Path, wrapper: str | None, zipped: bool) -> None:
    net = network()
    weights = net.state_dict()
    value = weights if wrapper is None else {wrapper: weights, "epoch": 7, "acc": 71.2}
    path = saved(tmp_path, value, _use_new_zipfile_serialization=zipped)
    assert filled(path) == (f'its tensors are those under "{wrapper}."' if wrapper else "")


@pytest.mark.parametrize("prefix", ["module.", "model.", "net.", "student.backbone."])
def test_a_prefix_that_all_names_share_is_left_out_and_said(tmp_path: Path, prefix: str) -> None:
    path = saved(tmp_path, {prefix + name: value for name, value in network().state_dict().items()})
    assert filled(path) == f'its tensors are those under "{prefix}"'


@pytest.mark.parametrize("inside", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."])
@pytest.mark.parametrize("place", ["{inside}{name}", "module.{inside}{name}", "module.0.{inside}{name}"])
def test_what_wrappers_of_modules_put_into_names_is_left_out_and_said(
    tmp_path: Path, inside: str, place: str
) -> None:
    weights = network().state_dict().items()
    named = {place.format(inside=inside, name=name): value for name, value in weights}
    said = filled(saved(tmp_path, {"state_dict": named}))
    assert said.startswith('its tensors are those under "state_dict.')
    assert said.endswith(f'"{inside}" was left out of their names')


def test_tensors_beside_the_network_such_as_a_losss_are_ignored_and_counted(tmp_path: Path) -> None:
    weights = {f"model.{name}": value for name, value in network().state_dict().items()}
    weights |= {"criterion.weight": torch.ones(2), "train_acc.correct": torch.ones(())}
    said = checkpoints.fill(network(), weights, path=tmp_path, name="resnet18")
    assert said == 'its tensors are those under "model.", 2 other tensors were ignored'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weight: weight.to_sparse(), "is sparse, quantised or empty"),
        (lambda weight: weight.to("meta"), "is sparse, quantised or empty"),
        (lambda weight: (100 * weight).to(torch.int8), "has values of type torch.int8"),
        (lambda weight: weight / 0, "holds values that are no finite numbers"),
        (lambda weight: weight * torch.nan, "holds values that are no finite numbers"),
    ],
)
def test_weights_that_are_not_dense_or_no_numbers_are_refused(tmp_path: Path, change: Any, said: str) -> None:
    name, first = next((k, v) for k, v in network().state_dict().items() if k.endswith("weight"))
    with pytest.raises(RunError, match=said):
        checkpoints.fill(network(), {**network().state_dict(), name: change(first)}, path=tmp_path, name="x")


@pytest.mark.parametrize("beside", ["model_ema", "ema.module", "best"])
def test_of_two_networks_that_fit_the_usual_one_is_taken_and_the_other_named(
    tmp_path: Path, beside: str
) -> None:
    weights = network().state_dict()
    value = {beside: {k: v + 1 for k, v in weights.items() if v.is_floating_point()}, "model": weights}
    assert filled(saved(tmp_path, value)).startswith(
        f'its tensors are those under "model.", those under "{beside}.", which fit too, are not used'
    )


def test_of_two_networks_that_fit_and_have_other_names_none_is_chosen(tmp_path: Path) -> None:
    weights = network().state_dict()
    with pytest.raises(RunError, match=r"2 sets of weights that fit: student, teacher\."):
        filled(saved(tmp_path, {"teacher": weights, "student": weights}))


def test_a_networks_own_prefix_is_no_prefix(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.add_module("net", network())
    assert checkpoints.fill(net, dict(net.state_dict()), path=tmp_path, name="own") == ""


def test_the_only_state_dict_under_a_name_of_its_own_is_found_beside_an_optimizer(tmp_path: Path) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    value = {"teacher": network().state_dict(), "opt": optimizer.state_dict()}
    assert filled(saved(tmp_path, value)) == 'its tensors are those under "teacher."'


@pytest.mark.parametrize("beside", [{}, {"criterion.weight": torch.ones(2)}])
def test_safetensors_are_read(tmp_path: Path, beside: dict[str, torch.Tensor]) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "model.pt"  # whatever it is called
    weights = {f"model.{name}": value for name, value in network().state_dict().items()}
    safetensors.save_file({**weights, **beside}, path)
    checkpoints.fill(network(), checkpoints.read_weights(path), path=path, name="resnet18")


def test_an_index_of_several_files_is_no_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text('{"weight_map": {}}')
    with pytest.raises(RunError, match="it is an index of the files"):
        checkpoints.read_weights(path)


@pytest.mark.parametrize("data", [b"", b"hello", b"\xff" * 30, (2).to_bytes(8, "little") + b"{x"])
def test_damaged_safetensors_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(RunError, match="cannot read the weights"):
        checkpoints.read_weights(path)


def test_without_the_package_safetensors_the_way_to_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    path = tmp_path / "model.safetensors"
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(RunError, match="needs the package safetensors") as caught:
        checkpoints.read_weights(path)
    assert "tfkd[safetensors]" in caught.value.hint


def test_old_files_without_batch_norms_counter_still_fit(tmp_path: Path) -> None:
    weights = {k: v for k, v in network().state_dict().items() if not k.endswith("num_batches_tracked")}
    checkpoints.fill(network(), weights, path=tmp_path, name="resnet18")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("0.bias"), 'it lacks "0.bias"'),
        (lambda weights: weights.update(extra=torch.ones(1)), 'it has "extra", which the network lacks'),
        (lambda weights: weights.update({"3.bias": torch.ones(9)}), '"3.bias" has shape (9,), not (2,)'),
    ],
)
def test_weights_that_do_not_fit_name_the_first_difference(tmp_path: Path, change: Any, said: str) -> None:
    weights = dict(network().state_dict())
    change(weights)
    with pytest.raises(RunError) as caught:
        checkpoints.fill(network(), weights, path=tmp_path / "x.pt", name="resnet18")
    assert said in str(caught.value)
    assert "number of classes" in caught.value.hint


@pytest.mark.parametrize(
    "value", [[1, 2], {}, {"state_dict": {}}, {"epoch": 3}, torch.ones(3), {1: torch.ones(1)}]
)
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(RunError, match="it holds no state dict"):
        checkpoints.read_weights(saved(tmp_path, value))


class Options(dict[str, Any]):
    """A dict with a class of its own, as yacs, EasyDict and Lightning have."""


class Stages(list[int]):
    """A list with a class of its own."""


class Phase(enum.Enum):
    """An enumeration of another code base."""

    TRAINING = 1


def _options() -> Options:
    made = Options(lr=0.1, stages=Stages([1, 2]))
    made.frozen = True  # type: ignore[attr-defined]  # yacs keeps such a flag: the state of a dict
    return made


BESIDE: dict[str, Any] = {
    "a namespace": Namespace(lr=0.1),
    "scores": {"best": np.float64(91.2), "epoch": np.int64(3)},
    "paths": [Path("runs/1"), PureWindowsPath("c:/x")],
    "a defaultdict": defaultdict(list, {"loss": [0.1, 0.2]}),
    "a counter": Counter("aab"),
    "arrays": {"mean": np.ones(3), "names": np.array(["a", "b"]), "objects": np.array([None, {}])},
    "NumPy's old random state": np.random.get_state(),
    "NumPy's generator": np.random.default_rng(0),
    "Python's random state": random.getstate(),
    "torch's random state": torch.get_rng_state(),
    "options with a class": _options(),
    "an enumeration": Phase.TRAINING,
    "a set": {1, 2},
    "a date": datetime.datetime(2020, 1, 1),
    "a schedule": functools.partial(pow, 2),
    "keys of a class": {np.float64(0.5): 1, Phase.TRAINING: 2},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("first", [True, False])
def test_whatever_is_beside_the_weights_does_no_harm(
    tmp_path: Path, what: str, zipped: bool, first: bool
) -> None:
    net = network()
    parts = {"model": net.state_dict(), "beside": BESIDE[what]}
    value = parts if first else dict(reversed(parts.items()))
    assert filled(saved(tmp_path, value, _use_new_zipfile_serialization=zipped))


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_beside_the_weights_is_imported_or_run(tmp_path: Path, zipped: bool) -> None:
    target = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return eval, (f"open({str(target)!r}, 'w')",)

    value = {"model": network().state_dict(), "beside": Evil()}
    checkpoints.read_weights(saved(tmp_path, value, _use_new_zipfile_serialization=zipped))
    assert not target.exists()


def test_a_whole_network_in_a_file_is_refused_by_the_name_of_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds a torch\.nn\.modules\.container\.Sequential, and no file may"):
        checkpoints.read_weights(saved(tmp_path, network()))


def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (target,)

    path = tmp_path / "evil.pt"
    for write in (lambda: torch.save({"w": Evil()}, path), lambda: path.write_bytes(pickle.dumps(Evil()))):
        write()
        with pytest.raises(RunError, match="cannot read the weights"):
            checkpoints.read_weights(path)
    assert not target.exists()


def test_a_file_that_unpacks_to_something_enormous_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))
    with pytest.raises(RunError, match="it is enormous"):
        checkpoints.read_weights(path)


def test_a_sparse_file_of_many_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    with path.open("wb") as stream:
        stream.truncate(WEIGHTS_LIMIT + 1)
    with pytest.raises(RunError, match="it is enormous: 8,589,934,593 bytes"):
        checkpoints.read_weights(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no such file"),
        (Path.mkdir, "it is a folder, a pipe, a socket or a device"),
        (os.mkfifo, "it is a folder, a pipe, a socket or a device"),
        (lambda path: path.symlink_to(path), "links lead in a circle"),
    ],
)
def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path, make: Any, said: str) -> None:
    path = tmp_path / "weights.pt"
    make(path)
    with pytest.raises(RunError, match=said):
        checkpoints.read_weights(path)


WHOLE = io.BytesIO()
torch.save(network().state_dict(), WHOLE)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(WHOLE.getvalue()) - 1), junk=st.binary(max_size=20))
def test_a_cut_or_overwritten_file_is_read_right_or_refused(tmp_path: Path, cut: int, junk: bytes) -> None:
    path = tmp_path / "broken.pt"
    for data in (WHOLE.getvalue()[:cut], WHOLE.getvalue()[:cut] + junk + WHOLE.getvalue()[cut + len(junk) :]):
        path.write_bytes(data)
        try:
            weights = checkpoints.read_weights(path)
            checkpoints.fill(network(), weights, path=path, name="resnet18")
        except RunError:
            pass


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.pt"
    path.write_bytes(data)
    for read in (checkpoints.read_weights, checkpoints.read_state):
        with pytest.raises(RunError, match="cannot read the weights"):
            read(path)
