"""Everything a report shows, as plain values: read once, before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata

from paper_tables.compare import Comparison
from paper_tables.figure_data import FigureData
from paper_tables.reader import Erratum
from paper_tables.spec import Figure, Table
from tfkd_cli.costs import CostModel, measured_rates
from tfkd_cli.data import DataSet
from tfkd_cli.errors import RunError
from tfkd_cli.report import curves, figures, spending
from tfkd_cli.report.asked import Item, items
from tfkd_cli.report.epochs import Kept
from tfkd_cli.report.judged import Judged, judged
from tfkd_cli.report.runs import Run, wishes
from tfkd_cli.report.sound import parse_ahead, read_runs, sound_states
from tfkd_cli.report.spending import Estimated, Spent
from tfkd_cli.report.workers import Workers
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.store import RunState, Store, reading


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a table or figure still lacks, and what that costs (an estimate)."""

    item: Item
    counts: Mapping[str, int]  # its runs, teachers included, by status
    seconds: float

    @property
    def wanted(self) -> int:
        """All its runs."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """The finished ones."""
        return self.counts.get("done", 0)

    @property
    def open(self) -> bool:
        """Whether anything is missing."""
        return self.done < self.wanted


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What there is to show. `runs` are by folder, teachers first; tables and figures by slug."""

    items: Sequence[Item]
    runs: Mapping[str, Run]
    comparisons: Mapping[str, Comparison]
    figures: Mapping[str, FigureData]
    claims: Sequence[Judged] = ()
    pictures: Sequence[curves.Picture] = ()
    errata: Sequence[Erratum] = ()
    missing: Sequence[Missing] = ()
    spent: Mapping[str, Spent] = field(default_factory=dict)
    estimates: Sequence[Estimated] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    store: Store | None = None
    made_at: str = ""
    version: str = ""

    @cached_property
    def hours(self) -> dict[str, float]:
        """Hours by run, of those that took any."""
        return {name: each.seconds / 3600 for name, each in self.spent.items() if each.seconds}

    @property
    def tables(self) -> list[Item]:
        """The tables among the items."""
        return [item for item in self.items if isinstance(item.what, Table)]

    @property
    def toy(self) -> bool:
        """Whether any of it was trained on a toy data set."""
        return any(run.spec.dataset == "digits" for run in self.runs.values())


def gather(
    campaigns: Sequence[Campaign],
    *,
    store: Store | None,
    kept: Kept,
    unreadable: Sequence[str] = (),
    progress: Callable[[str, float], None],
    workers: Workers | None = None,
    on_read: Callable[[Sequence[Run], Mapping[str, FigureData]], None] = lambda runs, drawn: None,
) -> Contents:
    """Read and compare all that these campaigns ask for; `on_read` gets first what pictures are made of."""
    asked = items(campaigns)
    store = store or (campaigns[0].store if campaigns else None)
    if store is None:
        return _compared((), {}, {}, {})
    states = store.scan()
    wanted = wishes(asked)
    parse_ahead(wanted, store, states=states, kept=kept, workers=workers or Workers(), progress=progress)
    runs = read_runs(wanted, store, states=states, kept=kept, progress=progress)
    sound = sound_states(states, runs)
    drawn = {each.slug: figures.data_of(each, runs, sound) for each in asked if isinstance(each.what, Figure)}
    on_read(list(runs.values()), drawn)
    progress("comparing with the paper", 0.0)
    facts = {name: each for campaign in campaigns for name, each in campaign.facts().items()}
    return replace(
        _compared(asked, runs, sound, drawn),
        claims=judged(campaigns, sound),
        missing=_missing(asked, runs.values(), facts),
        spent={name: spending.spent(run, store) for name, run in runs.items()},
        estimates=spending.estimates(runs.values(), facts),
        left_out=(*unreadable, *_broken_requests(store), *_damaged(runs.values())),
        notes=tuple(_notes(runs, states)),
        store=store,
    )


def _compared(
    asked: Sequence[Item],
    runs: Mapping[str, Run],
    sound: Mapping[str, RunState],
    drawn: Mapping[str, FigureData],
) -> Contents:
    """The items with their runs; `sound`: the states that may count."""
    tables = {item.slug: (item, item.what) for item in asked if isinstance(item.what, Table)}
    return Contents(
        items=asked,
        runs=runs,
        comparisons={slug: item.campaign.comparison(table, sound) for slug, (item, table) in tables.items()},
        figures=drawn,
        pictures=curves.pictures(runs.values()),
        errata=paper().errata(),
        made_at=_now(),
        version=_version(),
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version() -> str:
    try:
        return metadata.version("tfkd")
    except metadata.PackageNotFoundError:
        return ""


def _missing(asked: Sequence[Item], runs: Iterable[Run], facts: Mapping[str, DataSet]) -> list[Missing]:
    runs = list(runs)
    results = [(run.spec, run.result) for run in runs if run.done]
    models = {
        device: CostModel(device, facts=facts, measured=measured_rates(results, device=device, facts=facts))
        for device in {item.campaign.device for item in asked}
    }
    found = []
    for item in asked:
        own = [run for run in runs if item.slug in run.wish.items]
        model = models[item.campaign.device]
        seconds = sum(model(run.spec).seconds * (1 - _share(run)) for run in own if not run.done)
        found.append(Missing(item=item, counts=Counter(run.status for run in own), seconds=seconds))
    return found


def _share(run: Run) -> float:
    return min(0.99, (run.state.epoch or 0) / run.spec.recipe.epochs) if run.status != "damaged" else 0.0


def _broken_requests(store: Store) -> Iterable[str]:
    """Requests that are no JSON: what they asked for is not known, and must not be missed in silence."""
    for path in sorted((store.root / "requests").glob("*.json")):
        try:
            reading.read_object(path)
        except RunError as error:
            yield error.what


def _damaged(runs: Iterable[Run]) -> Iterable[str]:
    yield from (f"{run.name}: {run.state.damage}" for run in runs if run.status == "damaged")


def _notes(runs: Mapping[str, Run], states: Mapping[str, RunState]) -> Iterable[str]:
    yield from (run.note for run in runs.values() if run.note)
    others = [state.name for state in states.values() if state.name not in runs]
    if others:
        named = ", ".join(sorted(others)[:3]) + (", …" if len(others) > 3 else "")
        yield f"{len(others)} runs in the store belong to nothing this report was asked for: {named}"
