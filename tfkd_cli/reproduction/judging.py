"""The paper's claims over a store: at the paper's own scale, and for orientation at other scales."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from paper_tables.measured import EPOCHS, Measured
from paper_tables.spec import Claim, Setting, Table
from paper_tables.verdicts import ClaimVerdict, judge_claims
from tfkd_cli.errors import RequestError
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.measure import assumed, measure
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.requests import SEEDS
from tfkd_cli.reproduction.settings import Request

if TYPE_CHECKING:
    import pandas as pd

Seeds = dict[bool, set[int]]
"""The seeds that were asked for: of the audit's tables (True), and of all others (False)."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The verdicts on all claims, on the best and on the last epoch.

    `departures` says what sets these runs apart from the paper's; it is empty for the paper's own scale.
    """

    departures: tuple[str, ...]
    best: Sequence[ClaimVerdict]
    last: Sequence[ClaimVerdict]
    measured: Mapping[Setting, Measured]

    @property
    def runs(self) -> int:
        """How many finished runs count."""
        return sum(verdict.runs for verdict in self.best)


def departures(request: Request) -> tuple[str, ...]:
    """What sets a request apart from the paper's recipe, in words: `quick`, `recipe.lr=0.05`."""
    words: list[str] = [request.scale] if request.scale != "paper" else []
    words += ["fast"] if request.fast and request.scale == "paper" else []
    words += ["a teacher per seed"] if request.teacher_seeds == "paired" else []
    words += ["printed form"] if request.form == "printed" else []
    words += [f"{name}={as_text(value)}" for name, value in request.overrides.to_json().items()]
    words += ["a teacher from a file"] if request.foreign_teacher else []
    words += [each.name for each in request.data.values() if "@" in each.name]
    return tuple(words)


def as_text(value: object) -> str:
    """A value as `--set` takes it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def judge(campaigns: Sequence[Campaign], runs: pd.DataFrame) -> list[Judged]:
    """The paper's own scale first, always; then every other one in which something was measured.

    `runs`: the frame of all runs of the store (see `tfkd_cli.results`).
    """
    requests: dict[tuple[str, ...], Request] = {(): Request(seeds=())}
    seeds: dict[tuple[str, ...], Seeds] = {}
    for campaign in campaigns:
        request = campaign.request
        judged = [table for table in request.tables if _of_the_paper(table)]
        if request.axes is None and judged:
            words = departures(replace(request, data={}))
            known = requests.get(words, request)
            requests[words] = replace(known, data={**known.data, **request.data})
            for table in judged:
                seeds.setdefault(words, {}).setdefault(table.kind == "audit", set()).update(request.seeds)
    found = [
        _judge(words, replace(request, tables=(), figures=()), seeds.get(words, {}), runs)
        for words, request in requests.items()
    ]
    return [each for each in found if not each.departures or each.runs]


def _judge(words: tuple[str, ...], request: Request, seeds: Seeds, runs: pd.DataFrame) -> Judged:
    claims = tuple(paper().claims.values())
    measured: dict[Setting, Measured] = {}
    for table in _tables(claims):
        own = tuple(sorted(seeds.get(table.kind == "audit", ()))) or tuple(range(table.seeds or SEEDS))
        with contextlib.suppress(RequestError):  # so few epochs that a teacher's epoch is none of them
            measured.update(measure(replace(request, tables=(table,), seeds=own), table, runs).by_setting)
    families = [
        [each for each in claims if each.family == name] for name in dict.fromkeys(c.family for c in claims)
    ]
    best, last = (
        tuple(
            verdict
            for family in families
            for verdict in judge_claims(
                family, measured, assumed=lambda each: assumed(request, each), epoch=epoch
            )
        )
        for epoch in EPOCHS
    )
    return Judged(departures=words, best=best, last=last, measured=measured)


def _tables(claims: Sequence[Claim]) -> list[Table]:
    """The tables of the paper, and our controls, that hold a setting of these claims."""
    wanted = {
        setting for claim in claims for each in claim.contrasts for setting in (each.setting, each.against)
    }
    tables = (table for table in paper().tables.values() if _of_the_paper(table))
    return [table for table in tables if wanted & set(table.settings())]


def _of_the_paper(table: Table) -> bool:
    return table.kind in ("paper", "control", "audit")
