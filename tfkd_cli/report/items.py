"""What a report is about: each table and figure that was asked for, once for each way of asking."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from paper_tables.spec import Figure, Table
from tfkd_cli.methods import called
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.judging import departures
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import canonical_json, slug

LONGEST_SLUG = 80
KINDS = ("paper", "control", "audit", "demo", "grid")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One table or figure of one request."""

    slug: str  # names its files and its place on the page; the same in every report
    what: Table | Figure
    campaign: Campaign
    departures: tuple[str, ...]  # what sets the request apart from the paper's: "quick", "recipe.lr=0.05"

    @property
    def title(self) -> str:
        """`CVPR 2020, Table 1: …`, with what sets it apart."""
        printed = isinstance(self.what, Figure) or self.what.kind == "paper"
        source = f"{self.what.source}: " if printed and self.what.source else ""
        return source + self.what.title + (f" [{', '.join(self.departures)}]" if self.departures else "")

    @property
    def compared(self) -> bool:
        """Whether it is a comparison of `tfkd compare`."""
        return self.campaign.request.compared is not None

    @property
    def of_the_paper(self) -> bool:
        """Whether it is the paper's or a control for it, where unpublished values are marked as assumed."""
        return isinstance(self.what, Figure) or self.what.kind in ("paper", "control")

    @property
    def scale(self) -> str:
        """`paper`, `quick`, `demo`, or `custom` where the command line changed recipe or loss."""
        request = self.campaign.request
        if isinstance(self.what, Table) and self.what.kind == "demo":
            return "demo"
        return "custom" if request.overrides.to_json() else request.scale

    @property
    def command(self) -> str:
        """What was typed for it; the same again trains the rest."""
        return " && ".join(self.campaign.commands)


def items(campaigns: Iterable[Campaign]) -> list[Item]:
    """The tables and figures of these campaigns; those that differ in their seeds only are one."""
    found: dict[str, tuple[Table | Figure, Campaign]] = {}
    for campaign in campaigns:
        for what in campaign.request.items:
            name = slug_of(what, campaign.request)
            known = found[name][1].joined(campaign) if name in found else campaign
            found[name] = (what, known.only(what.name))
    made = [
        Item(slug=name, what=what, campaign=campaign, departures=departures(campaign.request))
        for name, (what, campaign) in found.items()
    ]
    return sorted(made, key=_place)


def _place(item: Item) -> tuple[int, bool, int]:
    """As printed: the paper's own scale first; then our controls, the demo, grids as they were asked for."""
    kind = item.what.kind if isinstance(item.what, Table) else "paper"
    order = [*paper().tables, *paper().figures]
    place = order.index(item.what.name) if item.what.name in order else 0
    return KINDS.index(kind), bool(item.departures), place


def slug_of(what: Table | Figure, request: Request) -> str:
    """A name for one way of asking for `what`, whatever else is asked for: `table1`, `table1-quick`.

    It ends in a digest of the request where the words do not say everything.
    """
    used = {setting.dataset for setting in what.settings()}
    data = {name: each for name, each in request.data.items() if name in used}
    alone = replace(request, tables=(), figures=(), data=data)
    parts = [what.name, *departures(alone)]
    if request.compared is not None:
        return what.name
    said_in_full = request.axes is None and request.foreign_teacher is None
    if said_in_full and len("-".join(parts)) <= LONGEST_SLUG:
        return slug("-".join(parts).replace("@", "-"))
    if request.axes is not None:
        axes = request.axes
        parts[1:1] = [
            axes.dataset.partition(":")[0],
            *axes.students,
            *map(called, axes.methods),
            *axes.teachers,
        ]
    settings = [asdict(setting) for setting in what.settings()] if request.axes is None else []
    whole = canonical_json([requests.identity(alone), settings])
    words = slug("-".join(parts).replace("@", "-"))[:LONGEST_SLUG].rstrip("-.")
    return f"{words}-{hashlib.sha256(whole).hexdigest()[:6]}"
