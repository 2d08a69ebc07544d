"""The paper's claims over a store, and the numbers behind its figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from paper_tables.measured import EPOCHS, Measured
from paper_tables.spec import Claim, Setting
from paper_tables.verdicts import ClaimVerdict, judge_claims
from tfkd_cli.execution import Execution
from tfkd_cli.reproduction import asking
from tfkd_cli.reproduction.measure import assumed, measure
from tfkd_cli.reproduction.overview import campaigns
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.store import RunState, Store


def verdicts(store: Store, execution: Execution) -> tuple[tuple[ClaimVerdict, ...], ...]:
    """A verdict for each claim of the paper: on the best epoch (as the paper), then on the last.

    Claims are about the paper's own scale: runs of `--scale quick`, `--fast` or changed recipes do not count.
    """
    made, _ = campaigns(store, execution)
    seeds = sorted({seed for each in made if _at_paper_scale(each.request) for seed in each.request.seeds})
    return judge(paper_request(tuple(seeds) or (0, 1, 2), execution), store.scan())


def paper_request(seeds: tuple[int, ...], execution: Execution) -> Request:
    """The whole paper and our controls, at paper scale in the released form."""
    return asking.for_names(["all"], asking.Manner(seeds=seeds), execution=execution)


def judge(request: Request, states: Mapping[str, RunState]) -> tuple[tuple[ClaimVerdict, ...], ...]:
    """The verdicts on all claims, on the best and on the last epoch."""
    claims = tuple(paper().claims.values())
    measured = claim_measurements(request, claims, states)
    return tuple(
        judge_claims(claims, measured, assumed=lambda setting: assumed(request, setting), epoch=epoch)
        for epoch in EPOCHS
    )


def claim_measurements(
    request: Request, claims: Iterable[Claim], states: Mapping[str, RunState]
) -> dict[Setting, Measured]:
    """What was measured for the settings of the claims."""
    wanted = {each for claim in claims for c in claim.contrasts for each in (c.setting, c.against)}
    found: dict[Setting, Measured] = {}
    for table in request.tables:
        if wanted & set(table.settings()):
            by_setting = measure(request, table, states).by_setting
            found.update({setting: each for setting, each in by_setting.items() if setting in wanted})
    return found


def _at_paper_scale(request: Request) -> bool:
    changed = request.fast or request.overrides.to_json() or request.teacher_seeds != "one"
    return request.scale == "paper" and request.form == "released" and not changed
