"""Lock files."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tfkd_cli.locks import held


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_lock_is_free_after_its_block_though_a_process_forked_in_it_lives_on(tmp_path: Path) -> None:
    def waited() -> None:
        raise AssertionError("the lock is still held")

    with held(tmp_path / "lock", while_waiting=waited) as locked:
        assert locked
        child = os.fork()
        if child == 0:
            time.sleep(300)
            os._exit(0)
    try:
        with held(tmp_path / "lock", while_waiting=waited) as locked:
            assert locked
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
