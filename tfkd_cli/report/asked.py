"""What a report is about: each table and figure that was asked for, once for each way of asking."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from paper_tables.spec import Figure, Table
from tfkd_cli.reproduction import asking
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import slug

LONGEST_SLUG = 80
KINDS = ("paper", "control", "demo", "grid")


@dataclass(frozen=True, kw_only=True)
class Item:
    """One table or figure, as one request wants it."""

    slug: str  # unique in a report: names its files and its place on the page
    what: Table | Figure
    campaign: Campaign
    manner: tuple[str, ...]  # what sets the request apart from the paper's: "quick", "recipe.lr=0.05"

    @property
    def title(self) -> str:
        """`CVPR 2020, Table 1: …`, with what sets it apart."""
        printed = isinstance(self.what, Figure) or self.what.kind == "paper"
        source = f"{self.what.source}: " if printed and self.what.source else ""
        return source + self.what.title + (f" [{', '.join(self.manner)}]" if self.manner else "")

    @property
    def of_the_paper(self) -> bool:
        """Whether it is the paper's, or a control for the paper: where nobody's values are assumptions."""
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
        if axes is None:
            words = ["tfkd", "reproduce", self.what.name]
        else:
            words = ["tfkd", "run", "--student", ",".join(axes.students), "--method", ",".join(axes.methods)]
            words += ["--dataset", axes.dataset]
            words += ["--teacher", ",".join(axes.teachers)] if axes.teachers else []
            words += [word for epoch in axes.teacher_epochs for word in ("--teacher-epoch", str(epoch))]
        words += ["--scale", request.scale] if request.scale != "paper" else []
        words += ["--form", request.form] if request.form != "released" else []
        words += ["--fast"] if request.fast else []
        words += ["--teacher-seeds", "paired"] if request.teacher_seeds == "paired" else []
        changes = request.overrides.to_json().items()
        words += [word for name, value in changes for word in ("--set", f"{name}={_text(value)}")]
        return shlex.join([*words, "--seeds", _seeds(request.seeds)])


def _seeds(seeds: Sequence[int]) -> str:
    """As `--seeds` takes them: `0-4`, or a list."""
    if len(seeds) > 1 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]}-{seeds[-1]}"
    return ",".join(map(str, seeds)) if len(seeds) > 1 else f"{seeds[0]}-{seeds[0]}"


def items(campaigns: Iterable[Campaign]) -> list[Item]:
    """The tables and figures of these campaigns; those that differ in their seeds only are one."""
    found: dict[str, tuple[Table | Figure, Campaign]] = {}
    for campaign in campaigns:
        whats: tuple[Table | Figure, ...] = (*campaign.request.tables, *campaign.request.figures)
        for what in whats:
            mark = _mark(campaign.request, what)
            known = found[mark][1].with_seeds(campaign.request.seeds) if mark in found else campaign
            found[mark] = (what, known.only(what.name))
    slugs = _slugs(found)
    made = [
        Item(slug=slugs[mark], what=what, campaign=campaign, manner=manner(campaign.request))
        for mark, (what, campaign) in found.items()
    ]
    return sorted(made, key=_place)


def _place(item: Item) -> tuple[int, bool, int]:
    """As printed: the paper's own scale first; then our controls, the demo, grids as they were asked for."""
    kind = item.what.kind if isinstance(item.what, Table) else "paper"
    order = [*paper().tables, *paper().figures]
    place = order.index(item.what.name) if item.what.name in order else 0
    return KINDS.index(kind), bool(item.manner), place


def manner(request: Request) -> tuple[str, ...]:
    """What sets a request apart from the paper's recipe, in words."""
    words: list[str] = [request.scale] if request.scale != "paper" else []
    words += ["fast"] if request.fast and request.scale == "paper" else []
    words += ["a teacher per seed"] if request.teacher_seeds == "paired" else []
    words += ["printed form"] if request.form == "printed" else []
    words += [f"{name}={_text(value)}" for name, value in request.overrides.to_json().items()]
    words += ["a teacher from a file"] if request.foreign_teacher else []
    words += [each.name for each in request.data.values() if "@" in each.name]
    return tuple(words)


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _mark(request: Request, what: Table | Figure) -> str:
    """One text for one way of asking for `what`, whatever else was asked for with it."""
    used = {setting.dataset for setting in what.settings()}
    data = {name: each for name, each in request.data.items() if name in used}
    alone = replace(request, tables=(), figures=(), data=data)
    return f"{what.name} {asking.identity(alone)}"


def _slugs(found: dict[str, tuple[Table | Figure, Campaign]]) -> dict[str, str]:
    plain = {mark: _slug(what, campaign.request) for mark, (what, campaign) in found.items()}
    taken: Sequence[str] = list(plain.values())
    return {
        mark: name if taken.count(name) == 1 else f"{name}-{hashlib.sha256(mark.encode()).hexdigest()[:6]}"
        for mark, name in plain.items()
    }


def _slug(what: Table | Figure, request: Request) -> str:
    parts = [what.name, *manner(request)]
    if request.axes is not None:
        axes = request.axes
        parts[1:1] = [axes.dataset.partition(":")[0], *axes.students, *axes.methods, *axes.teachers]
    return slug("-".join(parts).replace("@", "-"))[:LONGEST_SLUG].rstrip("-.")
