"""Names of data sets, and what a user hears when one cannot be had."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.error
from pathlib import Path

import pytest

from tfkd_cli import data
from tfkd_cli.errors import RequestError
from tfkd_cli.execution import Execution


@pytest.mark.parametrize("name", ["CIFAR_100", "cifar-100", "Cifar100"])
def test_case_and_dashes_do_not_count(name: str) -> None:
    assert data.dataset(name).name == "cifar100"


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(RequestError, match=r'unknown data set "cifar1000"(.|\n)*did you mean "cifar100"'):
        data.dataset("cifar1000")


@pytest.mark.parametrize("name", sorted(data.DATASETS))
def test_each_channel_has_its_normalisation(name: str) -> None:
    facts = data.DATASETS[name]
    assert len(facts.mean) == len(facts.std) == facts.channels


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion-mnist", "tiny-imagenet"])
def test_a_set_that_is_not_here_is_named_with_three_ways_out(name: str, execution: Execution) -> None:
    with pytest.raises(RequestError) as caught:
        data.prepare(name, execution=execution)
    assert f"`tfkd data {name}`" in caught.value.hint
    assert "--from PATH" in caught.value.hint
    assert "--dataset digits" in caught.value.hint
    assert caught.value.exit_code == 2


def test_resolving_says_what_would_be_downloaded(execution: Execution) -> None:
    resolved = data.resolve("cifar100", execution=execution)
    assert (resolved.ready, resolved.available) == (False, False)
    assert resolved.download is not None
    assert "MB" in resolved.download


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError(socket.gaierror(-2, "Name or service not known")),
        TimeoutError("timed out"),
        RuntimeError("File not found or corrupted."),  # torchvision's word for a wrong md5
    ],
)
@pytest.mark.parametrize("name", ["cifar100", "fashion-mnist", "tiny-imagenet"])
def test_a_failed_download_is_a_message_in_three_parts(
    name: str, failure: Exception, execution: Execution, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    with pytest.raises(RequestError, match="could not be downloaded") as caught:
        data.prepare(name, execution=execution, allow_download=True)
    assert caught.value.expected
    assert "--from PATH" in caught.value.hint


@pytest.mark.parametrize(("name", "classes"), [("imagenet", 1000), ("imagenet-quick", 100)])
def test_imagenet_is_described_without_its_files_which_nothing_downloads(
    name: str, classes: int, execution: Execution
) -> None:
    assert data.resolve(name, execution=execution).facts.classes == classes
    with pytest.raises(RequestError, match="is not on this machine") as caught:
        data.prepare(name, execution=execution)
    assert caught.value.hint.startswith(f"`tfkd data {name} --from PATH` takes the official files")
    assert "train/WNID/*.JPEG" in caught.value.expected


def test_a_data_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    execution = Execution(cache=str(tmp_path / "cache"), data_dir=str(tmp_path / "nowhere"))
    with pytest.raises(RequestError, match="not a folder"):
        data.resolve("cifar10", execution=execution)


def test_official_files_that_are_not_there_are_refused(tmp_path: Path, execution: Execution) -> None:
    with pytest.raises(RequestError, match="does not exist"):
        data.prepare("cifar10", execution=execution, source=tmp_path / "nowhere.tar.gz")
    with pytest.raises(RequestError, match="holds nothing of CIFAR-10"):
        data.prepare("cifar10", execution=execution, source=tmp_path)


@pytest.mark.parametrize(
    "name", ["folder@../../etc", "folder@a/b", "tiny-imagenet@\0", "folder@" + "a" * 999]
)
def test_a_name_that_leads_out_of_the_cache_is_refused(name: str, execution: Execution) -> None:
    with pytest.raises(RequestError):
        data.resolve(name, execution=execution)
    with pytest.raises(RequestError):
        data.load(name, execution=execution)


def test_facts_and_loading_need_neither_torch_nor_the_readers_of_other_formats(execution: Execution) -> None:
    data.prepare("digits", execution=execution)
    code = (
        "import sys; from tfkd_cli import data; assert 'numpy' not in sys.modules\n"
        "from tfkd_cli.execution import Execution\n"
        f"arrays = data.load('digits', execution=Execution(cache={execution.cache!r}))\n"
        "heavy = {'torch', 'torchvision', 'sklearn', 'pandas', 'scipy', 'PIL'} & set(sys.modules)\n"
        "assert arrays.train_images_NCHW.shape[1:] == (1, 32, 32) and not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
