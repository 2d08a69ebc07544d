"""Names, facts, and that neither needs torch."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torchvision
from hypothesis import given
from hypothesis import strategies as st

from tfkd_cli import models
from tfkd_cli.errors import RequestError
from tfkd_cli.models import own


def test_facts_come_without_torch() -> None:
    code = (
        "import sys; from tfkd_cli import models as m\n"
        "m.resolve('torchvision:mobilenet_v3_small:pretrained'); m.resolve('python:mine:net')\n"
        "m.multiply_adds('torchvision:resnet18', size=224); m.parameters('ResNet-18')\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("typed", "resolved"),
    [
        ("MobileNet_V2", "mobilenetv2"),
        ("plain_cnn", "plain-cnn"),
        ("ResNeXt-29", "resnext29"),
        ("torchvision:ResNet-18", "torchvision:resnet18"),
        ("TorchVision:mobilenetv2:pretrained", "torchvision:mobilenet_v2:pretrained"),
        ("python:my.Module:make_Net", "python:my.Module:make_Net"),
    ],
)
def test_a_name_has_one_spelling(typed: str, resolved: str) -> None:
    assert models.resolve(typed) == resolved == models.resolve(resolved)


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("resnet-18x", '"resnet18"'),
        ("mobilnet", '"mobilenetv2"'),
        ("torchvision:resnet19", "torchvision:resnet18"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(typed: str, nearest: str) -> None:
    with pytest.raises(RequestError) as refused:
        models.resolve(typed)
    assert nearest in refused.value.hint
    assert refused.value.expected


@pytest.mark.parametrize(
    "typed",
    [
        "hub:resnet18",
        "torchvision:",
        "torchvision:resnet18:trained",
        "torchvision:../x",
        "timm:a/b",
        "timm:",
        "python:module",
        "python:a.b:c:d",
        "python:a/b:c",
        "python:..a:c",
        "python:a:b c",
        ":",
    ],
)
def test_a_name_of_no_known_form_is_refused(typed: str) -> None:
    with pytest.raises(RequestError, match="unknown network"):
        models.resolve(typed)


@given(st.text(max_size=40))
def test_any_text_is_a_known_name_or_refused(text: str) -> None:
    try:
        found = models.network(text)
    except RequestError:
        return
    assert models.network(found.name) == found


def test_an_unknown_name_points_to_own_networks() -> None:
    with pytest.raises(RequestError) as refused:
        models.network("zzz")
    assert "torchvision:NAME" in refused.value.hint


def test_the_list_of_torchvision_is_the_installed_one() -> None:
    assert set(own.TORCHVISION) <= set(torchvision.models.list_models(module=torchvision.models))


def test_names_of_torchvision_that_differ_by_an_underscore_stay_apart() -> None:
    assert [models.resolve(f"torchvision:{each}") for each in own.TORCHVISION] == [
        f"torchvision:{each}" for each in own.TORCHVISION
    ]
    with pytest.raises(RequestError, match="no network"):
        models.resolve("torchvision:regnetx16gf")  # 16 or 1.6 gf?


def test_absent_timm_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError) as refused:
        models.resolve("timm:resnet18")
    assert refused.value.hint == "pip install 'tfkd[timm]'"


def test_what_is_assumed_is_marked() -> None:
    assert [each.name for each in models.NETWORKS.values() if each.assumed] == ["resnext101"]
    assert models.NETWORKS["resnext101"].note


def test_a_pretrained_network_says_so() -> None:
    assert models.network("torchvision:resnet18:pretrained").label == "ResNet18 (pretrained)"
    assert models.network("torchvision:resnet18:pretrained").pretrained
    assert not models.network("torchvision:resnet18").pretrained


def test_one_class_is_refused() -> None:
    with pytest.raises(RequestError, match="1 classes"):
        models.build("resnet8", classes=1, channels=1, size=32)
