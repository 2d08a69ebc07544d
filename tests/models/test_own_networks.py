"""Networks of torchvision, timm and the user's own."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from tfkd_cli import models
from tfkd_cli.errors import RequestError, RunError
from tfkd_cli.models import borrowed


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to write a module `mine.py` into; it is the current one, and forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [each for each in sys.path if each])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path / "mine.py"


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of pretrained weights, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "googlenet"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_torchvision_network_is_built_with_the_classes_asked_for(name: str, channels: int) -> None:
    network = models.build(f"torchvision:{name}", classes=2, channels=channels, size=64)
    assert network.training
    assert network(torch.zeros(2, channels, 64, 64)).shape == (2, 2)


def test_one_channel_is_seen_as_three_equal_ones() -> None:
    networks = []
    for channels in (3, 1):
        torch.manual_seed(0)
        networks.append(
            models.build("torchvision:squeezenet1_1", classes=3, channels=channels, size=32).eval()
        )
    grey = torch.randn(2, 1, 32, 32)
    assert torch.allclose(networks[0](grey.expand(-1, 3, -1, -1)), networks[1](grey), atol=1e-5)


def test_a_pretrained_network_keeps_its_weights_and_gets_a_new_classifier(torch_home: Path) -> None:
    torch.manual_seed(0)
    state = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch_home.mkdir(parents=True)
    torch.save(state, torch_home / "squeezenet1_1-b8a52dc0.pth")
    name = "torchvision:squeezenet1_1:pretrained"
    assert borrowed.weights_to_fetch(name) is None
    network = models.build(name, classes=5, channels=3, size=64)
    built = network.state_dict()
    same = [key for key in state if state[key].shape == built[key].shape]
    assert all(torch.equal(state[key], built[key]) for key in same)
    assert {key for key in state if key not in same} == {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v3_small", "densenet121", "vit_b_32", "convnext_tiny", "googlenet", "swin_t"],
)
def test_the_classifier_of_any_pretrained_network_is_found(
    name: str, torch_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On the meta device nothing is loaded; only the shapes matter here.
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda self, *_, **__: None)
    monkeypatch.setattr("torchvision.models._api.WeightsEnum.get_state_dict", lambda *_, **__: {})
    with torch.device("meta"):
        network = models.build(f"torchvision:{name}:pretrained", classes=7, channels=3, size=224)
        assert network(torch.zeros(2, 3, 224, 224)).shape == (2, 7)


def test_pretrained_weights_that_cannot_be_fetched_are_a_clear_error(torch_home: Path) -> None:
    name = "torchvision:squeezenet1_1:pretrained"
    assert "squeezenet1_1-b8a52dc0.pth (5 MB)" in (borrowed.weights_to_fetch(name) or "")
    with pytest.raises(RunError, match="no network") as failed:
        models.build(name, classes=2, channels=3, size=64)
    assert "get_model('squeezenet1_1', weights='DEFAULT')" in failed.value.hint


def test_torchvisions_published_weights_are_read_whatever_their_names(torch_home: Path) -> None:
    torch.manual_seed(0)
    state = torchvision.models.densenet121(weights=None).state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value for key, value in state.items()
    }
    old = {key: value for key, value in old.items() if not key.endswith("num_batches_tracked")}
    torch_home.mkdir(parents=True)
    torch.save(old, torch_home / "densenet121-a639ec97.pth")
    name = "torchvision:densenet121"
    network = borrowed.published_network(name).state_dict()
    assert all(torch.equal(network[key], value) for key, value in state.items())  # none has counted a batch


def test_published_weights_that_cannot_be_fetched_are_a_clear_error(torch_home: Path) -> None:
    for name in models.PUBLISHED_NETWORKS:
        file = models.published_file(name)
        address = torchvision.models.get_model_weights(name.partition(":")[2])[models.PUBLISHED].url
        assert (file.parent, file.name) == (torch_home, address.rpartition("/")[2])
        assert f"{file.name} (" in (models.published_to_fetch(name) or "")
        assert (models.published_to_fetch(name) or "").endswith(f" to {file}")
    with pytest.raises(RunError, match="no network") as failed:
        borrowed.fetch_published("torchvision:resnet18")
    assert "resnet18-f37072fd.pth" in failed.value.expected


def test_a_network_that_needs_larger_images_says_so() -> None:
    with pytest.raises(RequestError, match="cannot take images of shape") as refused:
        models.build("torchvision:alexnet", classes=2, channels=3, size=28)
    assert "larger images" in refused.value.hint


def test_a_factory_of_the_current_folder_is_a_network(write_module: Path) -> None:
    write_module.write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))\n"
    )
    network = models.build("python:mine:net", classes=4, channels=1, size=28)
    assert network(torch.zeros(3, 1, 28, 28)).shape == (3, 4)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ValueError('broken at import')", "broken at import"),
        ("x = 1", "has no attribute 'net'"),
        ("def net(classes): ...", "unexpected keyword argument 'num_classes'"),
        ("def net(num_classes): return num_classes", "gave int"),
        ("from torch import nn\ndef net(num_classes): return nn.Flatten()", r"a tensor of shape \(2, 784\)"),
        ("from torch import nn\ndef net(num_classes): return nn.Linear(3, 4)", "cannot take images of shape"),
        (
            "from torch import nn\nclass Two(nn.Flatten):\n    def forward(self, x): return x, x\n"
            "def net(num_classes): return Two()",
            "gives tuple",
        ),
    ],
)
def test_a_factory_that_does_not_fit_is_refused_with_the_reason(
    write_module: Path, code: str, said: str
) -> None:
    write_module.write_text(code + "\n")
    with pytest.raises(RequestError, match=said) as refused:
        models.build("python:mine:net", classes=4, channels=1, size=28)
    assert refused.value.expected


def test_a_missing_module_is_refused() -> None:
    with pytest.raises(RequestError, match="No module named 'nowhere_to_be_found'"):
        models.build("python:nowhere_to_be_found:net", classes=4, channels=1, size=28)


def test_trying_a_network_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    torchvision.models.squeezenet1_1(weights=None, num_classes=3)
    expected = torch.rand(3)
    torch.manual_seed(0)
    models.build("torchvision:squeezenet1_1", classes=3, channels=3, size=32)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is an optional extra")
def test_a_timm_network_is_built_with_the_classes_asked_for() -> None:
    network = models.build("timm:resnet10t", classes=2, channels=1, size=32)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 2)
    with pytest.raises(RequestError, match="timm has no network") as refused:
        models.build("timm:resnet18x", classes=2, channels=3, size=32)
    assert "timm:resnet18" in refused.value.hint
