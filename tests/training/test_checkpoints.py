"""Weights and training states as files: ours, those of others, and broken ones."""

from __future__ import annotations

import io
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tfkd_cli.errors import RunError
from tfkd_cli.training import checkpoints


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def saved(tmp_path: Path, value: Any, **how: Any) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(value, path, **how)
    return path


def test_weights_are_a_copy_on_the_cpu() -> None:
    net = network()
    weights = checkpoints.weights_of(net)
    nn.init.zeros_(net[0].weight)  # type: ignore[index]
    assert weights["0.weight"].abs().sum() > 0


def test_a_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    state = {"step": 3, "lr": 0.1, "sums": torch.ones(2, dtype=torch.float64), "lines": [{"epoch": 1}]}
    path = tmp_path / "state.pt"
    with path.open("wb") as stream:
        checkpoints.write_state(stream, state)
    read = checkpoints.read_state(path)
    assert torch.equal(read.pop("sums"), state.pop("sums"))  # type: ignore[arg-type]
    assert read == state


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net", "model_state_dict", "weights"])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_weights_of_other_code_bases_are_read(
    tmp_path: Path, wrapper: str | None, prefix: str, zipped: bool
) -> None:
    net = network()
    weights: Any = {prefix + name: value for name, value in net.state_dict().items()}
    value = weights if wrapper is None else {wrapper: weights, "epoch": 7, "acc": 71.2}
    path = saved(tmp_path, value, _use_new_zipfile_serialization=zipped)
    read = checkpoints.read_weights(path)
    assert read.keys() == net.state_dict().keys()
    checkpoints.fill(network(), read, path=path, name="resnet18")


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


@pytest.mark.parametrize(
    "beside", [{"args": Namespace(lr=0.1)}, {"best": np.float64(91.2), "epoch": np.int64(3)}]
)
def test_options_and_scores_beside_the_weights_do_no_harm(tmp_path: Path, beside: dict[str, Any]) -> None:
    path = saved(tmp_path, {"model": network().state_dict(), **beside})
    assert checkpoints.read_weights(path).keys() == network().state_dict().keys()


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
        stream.truncate(int((checkpoints.LARGEST_GB + 1) * 1e9))
    with pytest.raises(RunError, match=r"it is enormous: 9\.0 GB"):
        checkpoints.read_weights(path)


@pytest.mark.parametrize("missing", ["", "folder"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    with pytest.raises(RunError, match="there is no such file"):
        checkpoints.read_weights(tmp_path / missing)


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
