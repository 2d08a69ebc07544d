"""`--tensorboard`: each epoch's numbers reach a SummaryWriter, in a folder of the run's name."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tfkd_cli.spec import Recipe, RunSpec
from tfkd_cli.store import Store
from tfkd_cli.training import runner

if TYPE_CHECKING:
    from tests.conftest import TinyData


def test_each_epoch_is_written_as_scalars(
    tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, str, int]] = []

    class Writer:
        """What tensorboard's SummaryWriter takes; tensorboard itself is an optional extra."""

        def __init__(self, folder: str, *, purge_step: int) -> None:
            self.folder = Path(folder)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((self.folder.name, name, step))

        def flush(self) -> None:
            """Nothing is buffered."""

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    recipe = Recipe(epochs=2, batch_size=8, milestones=(), augment="none")
    spec = RunSpec(dataset=tiny_data.name, student="resnet8", recipe=recipe)
    store = Store.open(tmp_path / "results", create=True)
    runner.run(spec, store=store, execution=replace(tiny_data.execution, tensorboard=True))
    assert {folder for folder, _, _ in written} == {spec.folder}
    assert {(name, step) for _, name, step in written} >= {("test_accuracy", 1), ("train_loss", 2)}
