"""Full disks, limits, read-only places: a clear error, a valid store, and the same command afterwards."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.drills.conftest import Drill, Ended
    from tests.drills.ledger import Ledger

    MakeDrill = Callable[..., Drill]
    Recovers = Callable[[Drill], None]

FAILED, REFUSED = 1, 2
MB = 1 << 20
mounts = pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 2 MB large."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=2m", "tfkd-drill", str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def refused(ended: Ended, *, code: int, says: str) -> None:
    """It failed in words."""
    assert (ended.code, ended.clear) == (code, True), ended.err
    assert says in ended.err, ended.err
    assert "Hint:" in ended.err, ended.err


@mounts
def test_a_read_only_results_folder_is_refused_up_front_and_can_be_read(
    drill: MakeDrill, small_disk: Path
) -> None:
    mount("-o", "remount,ro", str(small_disk))
    disturbed = drill()
    disturbed.root = small_disk / "results"
    refused(disturbed(), code=REFUSED, says="cannot write the results folder")
    disturbed.root = small_disk
    refused(disturbed(), code=REFUSED, says="cannot write the results folder")
    for command in (("status",), ("clean",)):
        assert disturbed(*command).code == 0


@mounts
@pytest.mark.drill
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kilobytes", [64, 200, 400, 700, 1000, 1500, 2000, 3000, 4000, 5000])
def test_a_full_disk_is_named_and_the_same_command_goes_on_when_there_is_room(
    drill: MakeDrill, recovers: Recovers, ledger: Ledger, small_disk: Path, kilobytes: int
) -> None:
    mount("-o", f"remount,size={kilobytes}k", str(small_disk))
    disturbed = drill()
    disturbed.root = small_disk / "results"
    refused(disturbed(), code=FAILED, says="No space left on device")
    disturbed.check()
    ledger.fault(lost_seconds=1.0)
    mount("-o", "remount,size=200m", str(small_disk))
    recovers(disturbed)


@pytest.mark.drill
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kilobytes", [2, 16, 64, 128, 256, 400, 600])
def test_a_limit_on_file_size_is_named_and_the_same_command_goes_on_without_it(
    drill: MakeDrill, recovers: Recovers, ledger: Ledger, undisturbed: Callable[..., Any], kilobytes: int
) -> None:
    undisturbed()  # the images are decoded: the cache is not what is limited here
    size = kilobytes << 10
    disturbed = drill()
    ended = disturbed(limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))
    refused(ended, code=FAILED, says="ulimit -f")
    disturbed.check()
    ledger.fault(lost_seconds=1.0)
    recovers(disturbed)


@pytest.mark.drill
@pytest.mark.timeout(0)
@pytest.mark.parametrize("megabytes", [100, 200, 400, 800, 1600, 2400, 3000, 3600, 4200])
def test_a_limit_on_memory_is_told_and_the_same_command_goes_on_without_it(
    drill: MakeDrill, recovers: Recovers, ledger: Ledger, undisturbed: Callable[..., Any], megabytes: int
) -> None:
    undisturbed()
    size = megabytes * MB
    disturbed = drill()
    ended = disturbed(limit=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)))
    assert ended.code in (0, FAILED), ended.err
    assert ended.clear, ended.err
    assert ended.code == 0 or "memory" in ended.err, ended.err
    disturbed.check()
    ledger.fault(lost_seconds=1.0)
    recovers(disturbed)


def test_where_torch_does_not_load_one_error_says_so(drill: MakeDrill, tmp_path: Path, play: Any) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('failed to map segment from shared object')")
    disturbed = drill()
    ended = disturbed(env={"PYTHONPATH": os.pathsep.join((str(tmp_path), str(play.FAULTS)))})
    refused(ended, code=FAILED, says="torch cannot be loaded: ImportError: failed to map segment")
    assert ended.err.count("failed to map segment") == 1


@pytest.mark.drill
def test_a_file_system_without_hard_links_is_told_and_the_command_goes_on_elsewhere(
    drill: MakeDrill, recovers: Recovers
) -> None:
    linkless = drill()
    refused(linkless(env={"DRILL_NO_LINKS": "1"}), code=FAILED, says="no hard links")
    linkless.check()
    recovers(linkless)
