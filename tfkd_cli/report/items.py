"""What a report is about: each table and figure that was asked for, once for each way of asking."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from paper_tables.spec import Figure, Table
from tfkd_cli.compare import comparison
from tfkd_cli.grid import UNNAMED, Compared
from tfkd_cli.reproduction import requests
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.judging import as_text, departures
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
        """What to type for the rest of it."""
        request, axes = self.campaign.request, self.campaign.request.axes
        if request.compared is not None:
            words = _compare_words(request.compared, from_file=request.foreign_teacher is not None)
        elif axes is None:
            words = ["tfkd", "reproduce", self.what.name]
        else:
            words = ["tfkd", "run", "--student", ",".join(axes.students), "--method", ",".join(axes.methods)]
            words += ["--dataset", axes.dataset]
            words += ["--name", axes.name] if axes.name != UNNAMED else []
            words += ["--teacher", ",".join(axes.teachers)] if axes.teachers else []
            words += [word for epoch in axes.teacher_epochs for word in ("--teacher-epoch", str(epoch))]
        words += ["--scale", request.scale] if request.scale != "paper" else []
        words += ["--form", request.form] if request.form != "released" else []
        words += ["--fast"] if request.fast else []
        words += ["--teacher-seeds", "paired"] if request.teacher_seeds == "paired" else []
        changes = request.overrides.to_json().items()
        words += [word for name, value in changes for word in ("--set", f"{name}={as_text(value)}")]
        return shlex.join([*words, "--seeds", _seeds(request.seeds)])


def _compare_words(compared: Compared, *, from_file: bool) -> list[str]:
    words = ["tfkd", "compare", "--dataset", compared.dataset, "--student", compared.student]
    words += ["--teacher", compared.teacher] if compared.teacher else []
    more = [name for name in compared.methods if name not in (*comparison.UNTAUGHT, "kd")]
    words += ["--method", ",".join(more)] if more else []
    words += ["--teacher-checkpoint", "FILE"] if from_file else []
    return [*words, "--trials", str(compared.trials), "--lr", f"{compared.lr:g}"]


def _seeds(seeds: Sequence[int]) -> str:
    """As `--seeds` takes them: `0-4`, or a list."""
    if len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds)) if len(seeds) > 1 else f"{seeds[0]}-{seeds[0]}"


def items(campaigns: Iterable[Campaign]) -> list[Item]:
    """The tables and figures of these campaigns; those that differ in their seeds only are one."""
    found: dict[str, tuple[Table | Figure, Campaign]] = {}
    for campaign in campaigns:
        for what in campaign.request.items:
            name = slug_of(what, campaign.request)
            known = found[name][1].with_seeds(campaign.request.seeds) if name in found else campaign
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
        parts[1:1] = [axes.dataset.partition(":")[0], *axes.students, *axes.methods, *axes.teachers]
    settings = [asdict(setting) for setting in what.settings()] if request.axes is None else []
    whole = canonical_json([requests.identity(alone), settings])
    words = slug("-".join(parts).replace("@", "-"))[:LONGEST_SLUG].rstrip("-.")
    return f"{words}-{hashlib.sha256(whole).hexdigest()[:6]}"
