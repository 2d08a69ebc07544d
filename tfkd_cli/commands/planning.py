"""Where the runs of a command execute, and the campaign that plans them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tfkd_cli import console
from tfkd_cli.backends.slots import Slots, slots
from tfkd_cli.execution import Execution
from tfkd_cli.options import LaunchOptions
from tfkd_cli.plan import Plan
from tfkd_cli.reproduction import readiness as ready
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import Store

if TYPE_CHECKING:
    from tfkd_cli.backends.slurm.profile import Profile


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the runs of a command execute, found out once: the slots of this machine, or a cluster."""

    where: LaunchOptions
    slots: Slots | None = None
    profile: Profile | None = None  # of the cluster

    @property
    def threads(self) -> int:
        """The threads of a run here; 1 on a cluster."""
        return self.slots.threads if self.slots else 1

    def processes_of(self, spec: RunSpec) -> int:
        """How many processes train one run, each on a GPU of its own where there are GPUs."""
        return self.profile.processes_of(spec) if self.profile else self.where.gpus or 1

    def runs_at_once(self, plan: Plan) -> int:
        """How many runs of a plan will go at once: as many as there are slots, or `--jobs` on a cluster."""
        if self.slots:
            return len(self.slots.environments)
        return self.where.jobs or max(1, len(plan.todo))


def profile_of(where: LaunchOptions) -> Profile | None:
    """The profile of `--cluster`, None for this machine; RequestError when there is none of this name."""
    if where.cluster == "local":
        return None
    from tfkd_cli.backends.slurm import profile

    return replace(profile.find(where.cluster), processes=where.gpus)


def place_of(
    where: LaunchOptions, profile: Profile | None, specs: Iterable[RunSpec], execution: Execution
) -> Place:
    """The place for these runs. Pass all of a request, done or not: the threads of a run follow from them."""
    if profile is not None:
        return Place(where=where, profile=profile)
    return Place(where=where, slots=slots(list(specs), execution=execution, jobs=where.jobs))


def cost_device(where: LaunchOptions) -> str:
    """The kind of device that costs are estimated for: a cluster's GPUs, or what is here."""
    if where.cluster != "local" and where.device == "auto":
        return "cuda"
    return ready.device_kind(where.device)


def campaign_of(
    request: Request,
    store: Store,
    execution: Execution,
    place: Place,
    *,
    calibrate: bool = False,
    repeating: str = "",
) -> Campaign:
    """The campaign of a command; `calibrate` times first what the request needs."""
    from tfkd_cli.reproduction import calibration

    device = cost_device(place.where)
    if calibrate:
        calibration.calibrate(request, execution=execution, device=device, say=console.say)
    return Campaign(
        request,
        store,
        execution,
        device=device,
        threads=place.threads,
        processes_of=place.processes_of,
        calibrated=calibration.rates(execution, device=device),
        repeating=repeating,
    )


def plan_json(campaign: Campaign, plan: Plan, place: Place) -> dict[str, Any]:
    """The documented shape of a plan with `--json`; `device` is what its `gpu_hours` are of."""
    at_once = place.runs_at_once(plan)
    return {
        "seeds": list(campaign.request.seeds),
        "device": campaign.device,
        "runs_at_once": at_once,
        "wall_hours": round(plan.wall_seconds(at_once) / 3600, 4),
        **plan.to_json(),
    }
