"""The paper's claims: at the paper's own scale, and for orientation as they look at other scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from paper_tables.measured import EPOCHS, Measured
from paper_tables.spec import Claim, Setting, Table
from paper_tables.verdicts import ClaimVerdict, judge_claims
from tfkd_cli.report.asked import manner
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.measure import assumed, measure
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.store import RunState

SEEDS = (0, 1, 2)  # what is wanted where nothing was asked for yet


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The verdicts on all claims in one manner; `manner` is empty for the paper's own."""

    manner: tuple[str, ...]
    best: Sequence[ClaimVerdict]
    last: Sequence[ClaimVerdict]
    measured: Mapping[Setting, Measured]

    @property
    def runs(self) -> int:
        """How many finished runs count."""
        return sum(verdict.runs for verdict in self.best)


def judged(campaigns: Sequence[Campaign], states: Mapping[str, RunState]) -> list[Judged]:
    """The paper's own scale first, always; then every other one in which something was measured."""
    requests: dict[tuple[str, ...], Request] = {(): Request(seeds=())}
    for campaign in campaigns:
        request = campaign.request
        if request.axes is None and any(_of_the_paper(table) for table in request.tables):
            words = manner(replace(request, data={}))
            known = requests.get(words, replace(request, seeds=()))
            seeds = tuple(sorted({*known.seeds, *request.seeds}))
            requests[words] = replace(known, seeds=seeds, data={**known.data, **request.data})
    found = [
        _judge(words, replace(request, tables=(), figures=(), seeds=request.seeds or SEEDS), states)
        for words, request in requests.items()
    ]
    return [each for each in found if not each.manner or each.runs]


def _judge(words: tuple[str, ...], request: Request, states: Mapping[str, RunState]) -> Judged:
    claims = tuple(paper().claims.values())
    measured: dict[Setting, Measured] = {}
    for table in _tables(claims):
        measured.update(measure(replace(request, tables=(table,)), table, states).by_setting)
    best, last = (
        judge_claims(claims, measured, assumed=lambda each: assumed(request, each), epoch=epoch)
        for epoch in EPOCHS
    )
    return Judged(manner=words, best=best, last=last, measured=measured)


def _tables(claims: Sequence[Claim]) -> list[Table]:
    """The tables of the paper, and our controls, that hold a setting of these claims."""
    wanted = {
        setting for claim in claims for each in claim.contrasts for setting in (each.setting, each.against)
    }
    tables = (table for table in paper().tables.values() if _of_the_paper(table))
    return [table for table in tables if wanted & set(table.settings())]


def _of_the_paper(table: Table) -> bool:
    return table.kind in ("paper", "control")
