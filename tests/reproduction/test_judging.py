"""Claims over a store: which seeds count, and which claims are corrected together."""

from __future__ import annotations

from pathlib import Path

from tfkd_cli import results
from tfkd_cli.execution import Execution
from tfkd_cli.reproduction import judging, requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.store import Store

EXECUTION = Execution(cache="no-such-cache")


def wanted(root: Path, **seeds: int) -> dict[str, tuple[int, int]]:
    """Claim → the runs it takes and the claims of its family; `seeds`: table → how many were asked for."""
    store = Store.open(root / "results", create=True)
    campaigns = [
        Campaign(
            requests.for_names([name], Request(seeds=tuple(range(count))), execution=EXECUTION),
            store,
            EXECUTION,
        )
        for name, count in seeds.items()
    ]
    judged = judging.judge(campaigns, results.runs_frame(results.read(store).values()))[0]
    return {each.claim.name: (each.runs_wanted, each.claims) for each in judged.best}


def test_the_seeds_of_the_audit_are_no_seeds_of_the_papers_tables(tmp_path: Path) -> None:
    found = wanted(tmp_path, table9=5, audit=20)
    arms = 2 * 2  # an arm and its control, on two data sets
    assert found["audit-tf-reg"] == (arms * 20, 6)
    assert found["tf-reg"] == (2 * 12 * 5, 5)


def test_what_was_not_asked_for_takes_the_seeds_that_its_tables_say(tmp_path: Path) -> None:
    found = wanted(tmp_path)
    assert found["audit-teacher"] == (2 * 2 * 20, 6)
    assert found["tf-reg"] == (2 * 12 * 3, 5)
