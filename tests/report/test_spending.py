"""Time used and wasted."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tfkd_cli import report

pytestmark = pytest.mark.usefixtures("undrawn")

AXES = {"dataset": "digits", "students": ["resnet8"], "methods": ["baseline"]}


@pytest.fixture
def one_run(stores: ModuleType, tmp_path: Path) -> Any:
    """A campaign of one run that has not begun, and its spec."""
    campaign = stores.grid(tmp_path, seeds=(0,), **AXES)
    return campaign, stores.wanted(campaign)[0]


def line(epoch: int, attempt: int) -> dict[str, Any]:
    """An epoch that took an hour."""
    return {"epoch": epoch, "attempt": attempt, "seconds": 3600.0, "test_accuracy": 50.0}


def hours(campaign: Any, out: Path) -> dict[str, Any]:
    """The one line of hours in the report."""
    report.write([campaign], store=campaign.store, out=out)
    [row] = json.loads((out / "report" / "report.json").read_text())["hours"]
    return {"used": row["hours"], "wasted": row["wasted_hours"]}


def test_epochs_that_a_later_attempt_trained_again_are_wasted(
    one_run: Any, stores: ModuleType, tmp_path: Path
) -> None:
    campaign, spec = one_run
    folder = campaign.store.run(spec)
    folder.declare(spec)
    first = folder.start_attempt(owner={})
    for epoch in (1, 2, 3):
        first.append_metrics(line(epoch, 1))
    second = folder.start_attempt(owner={})
    second.begin_metrics([line(1, 1)])
    lines = [line(1, 1), *(line(epoch, 2) for epoch in range(2, spec.recipe.epochs + 1))]
    for each in lines[1:]:
        second.append_metrics(each)
    second.publish(metrics=lines, weights={}, result={**stores.result(spec, metrics(lines)), "attempts": 2})
    assert hours(campaign, tmp_path) == {"used": spec.recipe.epochs + 2, "wasted": 2}


def metrics(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines with what a result is made of."""
    return [{"test_loss": 1.0, "test_top5": 90.0, **each} for each in lines]


def test_a_failed_run_without_a_training_state_has_wasted_its_time(one_run: Any, tmp_path: Path) -> None:
    campaign, spec = one_run
    folder = campaign.store.run(spec)
    folder.declare(spec)
    attempt = folder.start_attempt(owner={})
    attempt.append_metrics(line(1, 1))
    attempt.fail({"message": "broken"})
    assert hours(campaign, tmp_path) == {"used": 1, "wasted": 1}


def test_a_stopped_run_keeps_the_epochs_its_state_has(one_run: Any, tmp_path: Path) -> None:
    campaign, spec = one_run
    folder = campaign.store.run(spec)
    folder.declare(spec)
    attempt = folder.start_attempt(owner={})
    for epoch in (1, 2, 3):
        attempt.append_metrics(line(epoch, 1))
        if epoch == 2:
            attempt.save_state(b"state", step=20, epoch=2)
    attempt.release()
    assert hours(campaign, tmp_path) == {"used": 3, "wasted": 1}
