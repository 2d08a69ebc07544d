"""What backends are given in tests: the runs of a plan, as a command would make it."""

from __future__ import annotations

from collections.abc import Sequence

from tfkd_cli.plan import Estimate, Plan, PlannedRun, make_plan
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store


def plan_of(specs: Sequence[RunSpec], store: Store, *, seconds: float = 60.0) -> Plan:
    """The plan for these runs over a store; each costs as many seconds."""
    return make_plan(
        {"t": specs},
        states=store.scan(),
        cost=lambda spec: Estimate(seconds, "estimate"),
    )


def planned(specs: Sequence[RunSpec], store: Store, *, seconds: float = 60.0) -> list[PlannedRun]:
    """The runs of that plan that are to be done."""
    return list(plan_of(specs, store, seconds=seconds).todo)
