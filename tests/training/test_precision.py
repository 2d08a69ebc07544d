"""How a network is computed: which processors get bf16, fp32 exceptions, folding, memory format."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from tfkd_cli import models
from tfkd_cli.training import precision, provenance

CPU = torch.device("cpu")
DEEP = ("resnext101", "resnet50", "resnext29")  # seconds each; their blocks are ResNet18's and ResNeXt29's


@pytest.fixture(name="bf16_units")
def _bf16_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 is tested on processors without units for it too."""
    monkeypatch.setattr(precision, "_has_bf16_units", lambda device: True)


@pytest.mark.parametrize(
    ("instructions", "used"),
    [
        ("GenuineIntel avx512f avx512_bf16 amx_bf16", "bf16"),
        ("AuthenticAMD avx512f avx512_bf16", "bf16"),
        ("GenuineIntel avx512f avx512_bf16", "fp32"),  # measured: slower than fp32
        ("AuthenticAMD avx2", "fp32"),
    ],
)
def test_a_cpu_computes_in_bf16_only_with_units_that_make_it_faster(
    instructions: str, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "_cpuinfo", lambda: instructions)
    precision._has_bf16_units.cache_clear()
    try:
        assert precision.arithmetic("bf16", CPU) == used
        assert precision.arithmetic("fp32", CPU) == "fp32"
    finally:
        precision._has_bf16_units.cache_clear()


@pytest.mark.parametrize(("capability", "used"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((12, 0), "bf16")])
def test_a_gpu_computes_in_bf16_from_compute_capability_8_on(
    capability: tuple[int, int], used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    precision._has_bf16_units.cache_clear()
    try:
        assert precision.arithmetic("bf16", torch.device("cuda")) == used
    finally:
        precision._has_bf16_units.cache_clear()


@pytest.mark.parametrize(
    ("capability", "allowed", "used"),
    [((7, 5), True, "fp32"), ((8, 0), True, "tf32"), ((9, 0), False, "fp32")],
)
def test_fp32_on_a_gpu_is_tf32_where_it_has_that_unless_it_is_refused(
    capability: tuple[int, int], allowed: bool, used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # these restore what was set
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    before = torch.get_float32_matmul_precision()
    try:
        precision.configure(torch.device("cuda"), tf32=allowed)
        assert precision.arithmetic("fp32", torch.device("cuda")) == used
        assert precision.arithmetic("fp32", CPU) == "fp32"
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark) == (used == "tf32", True)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("bf16_units")
@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_is_on_for_bf16_alone(name: str, dtype: torch.dtype) -> None:
    with precision.autocast(name, CPU):
        assert torch.ones(2, 2).matmul(torch.ones(2, 2)).dtype == dtype


@pytest.mark.usefixtures("bf16_units")
@pytest.mark.parametrize("name", ["shufflenetv2", "torchvision:mobilenet_v2"])
def test_strided_depthwise_convolutions_stay_in_fp32_and_their_names_stand(name: str) -> None:
    torch.manual_seed(0)
    network = models.build(name, classes=3, channels=3, size=32)
    names = list(network.state_dict())
    network = copy.deepcopy(precision.prepare(network, precision="bf16", device=CPU))
    assert list(network.state_dict()) == names
    convs = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    strided = [each.groups > 1 and each.stride == (2, 2) for each in convs]
    dtypes: list[torch.dtype] = []
    for each in convs:
        each.register_forward_hook(lambda _module, _args, output: dtypes.append(output.dtype))
    with precision.autocast("bf16", CPU):
        logits_NK = network(torch.randn(2, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert dtypes.count(torch.float32) == sum(strided) > 0
    logits_NK.float().sum().backward()
    assert all(each.grad is not None for each in network.parameters())


def test_a_network_in_fp32_is_only_put_in_channels_last() -> None:
    network = precision.prepare(nn.Conv2d(4, 4, 3, stride=2, groups=4), precision="fp32", device=CPU)
    assert "forward" not in vars(network)
    assert cast("nn.Conv2d", network).weight.is_contiguous(memory_format=torch.channels_last)


def trained_looking(network: nn.Module) -> nn.Module:
    """The network, its BatchNorms with statistics and weights like after training, so that folding shows."""
    for each in network.modules():
        if isinstance(each, nn.BatchNorm2d) and each.running_mean is not None:
            nn.init.normal_(each.running_mean, std=0.1)
            nn.init.uniform_(each.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(each.weight, 0.5, 1.5)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(each, nn.BatchNorm2d) for each in network.modules())


def compare(network: nn.Module, images_NCHW: Tensor) -> nn.Module:
    """The teacher of a bf16 recipe, after its logits were compared with those of the network itself."""
    with torch.no_grad():
        expected = network(images_NCHW)
        teacher = precision.prepare_teacher(
            network, precision="bf16", device=CPU, example_NCHW=images_NCHW[:2]
        )
        given = teacher(images_NCHW)
    torch.testing.assert_close(given, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert not teacher.training
    assert not any(each.requires_grad for each in teacher.parameters())
    return teacher


@pytest.mark.parametrize("name", [name for name in models.NETWORKS if name not in DEEP])
def test_a_folded_teacher_gives_the_logits_of_the_network(name: str) -> None:
    torch.manual_seed(0)
    network = trained_looking(models.build(name, classes=5, channels=3, size=32))
    before = norms(network)
    folded = compare(network, torch.randn(3, 3, 32, 32))
    # DenseNet normalises before it convolves: about half of its BatchNorms remain.
    assert norms(folded) < before * 0.6 if name == "densenet121" else norms(folded) == 0


class UsedTwice(nn.Module):
    """What the convolution gives reaches a BatchNorm and passes it by."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        maps_NCHW = self.conv(maps_NCHW)
        return cast("Tensor", self.norm(maps_NCHW) + maps_NCHW).mean((2, 3))


class CalledTwice(UsedTwice):
    """Folding for the second call of the convolution would change the first."""

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        return cast("Tensor", self.norm(self.conv(self.norm(self.conv(maps_NCHW))))).mean((2, 3))


class Loop(UsedTwice):
    """Cannot be traced: how often it convolves depends on the values."""

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        while maps_NCHW.abs().max() > 1:
            maps_NCHW = self.norm(self.conv(maps_NCHW)) / 4
        return maps_NCHW.mean((2, 3))


def sequence(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten())


@pytest.mark.parametrize(
    ("make", "remaining"),
    [
        (UsedTwice, 1),
        (CalledTwice, 1),
        (Loop, 1),
        (lambda: sequence(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)), 1),
        (lambda: sequence(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(3)), 1),
        (lambda: sequence(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)), 1),
        (lambda: sequence(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), 0),
    ],
)
def test_what_cannot_be_folded_gives_the_same_logits_unfolded(
    make: Callable[[], nn.Module], remaining: int
) -> None:
    torch.manual_seed(0)
    teacher = compare(trained_looking(make()), torch.randn(4, 3, 4, 4))
    assert norms(teacher) == remaining


def test_a_teacher_in_fp32_is_the_network_itself() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    images = torch.randn(2, 3, 4, 4)
    assert precision.prepare_teacher(network, precision="fp32", device=CPU, example_NCHW=images) is network
