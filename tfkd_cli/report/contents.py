"""Everything a report shows, as plain values: read once, before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any, TypeVar

from paper_tables.compare import Comparison
from paper_tables.figure_data import MEAN_GAIN, FigureData, claim_gains, forest_plot, table_gains
from paper_tables.reader import Erratum
from paper_tables.spec import Figure, Table
from tfkd_cli import results
from tfkd_cli.compare.answer import Answer, answer
from tfkd_cli.compare.sheets import DIFFERENCE, difference_rows
from tfkd_cli.costs import CostModel, measured_rates
from tfkd_cli.data import DataSet
from tfkd_cli.data import cache as caches
from tfkd_cli.report.figures import Picture, data_of, gains_name, pictures
from tfkd_cli.report.items import Item
from tfkd_cli.report.runs import RequestedRun, requested_runs, run_uses
from tfkd_cli.reproduction.campaign import Campaign
from tfkd_cli.reproduction.judging import Judged, judge
from tfkd_cli.reproduction.paper import paper
from tfkd_cli.spec import TRAINER_VERSION
from tfkd_cli.store import Store

if TYPE_CHECKING:
    import pandas as pd

Kind = TypeVar("Kind", Table, Figure)


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


def _version() -> str:
    try:
        return metadata.version("tfkd")
    except metadata.PackageNotFoundError:
        return ""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What there is to show. `runs` are by folder, teachers first; tables and figures by slug.

    `frame` and `epochs` are the frames of these runs (see `tfkd_cli.results`), with the report's columns;
    `older` is that of runs by older trainer versions, which nothing is compared with.
    """

    items: Sequence[Item]
    runs: Mapping[str, RequestedRun]
    frame: pd.DataFrame
    epochs: pd.DataFrame
    older: pd.DataFrame
    answers: Mapping[str, Answer]  # of `tfkd compare`
    comparisons: Mapping[str, Comparison]
    figures: Mapping[str, FigureData]
    claims: Sequence[Judged]
    pictures: Sequence[Picture]
    missing: Sequence[Missing]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    store: Store
    errata: Sequence[Erratum] = field(default_factory=lambda: paper().errata())
    made_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    version: str = field(default_factory=_version)

    @property
    def tables(self) -> list[Item]:
        """The tables among the items, comparisons of `tfkd compare` apart."""
        return [item for item in self.items if isinstance(item.what, Table) and not item.compared]

    @property
    def toy(self) -> bool:
        """Whether any of it was trained on a toy data set."""
        return any(run.spec.dataset == "digits" for run in self.runs.values())

    @property
    def hours(self) -> list[dict[str, Any]]:
        """Device, runs that took any time there, hours used and hours wasted; the most used first."""
        used = self.frame[self.frame["spent_seconds"] > 0]
        rows = used.assign(
            hardware=used["hardware"].fillna("unknown"),
            hours=used["spent_seconds"] / 3600,
            wasted_hours=used["wasted_seconds"] / 3600,
        ).groupby("hardware", as_index=False)
        summed = rows.agg(runs=("run", "size"), hours=("hours", "sum"), wasted_hours=("wasted_hours", "sum"))
        ordered = summed.sort_values("hours", ascending=False)
        return [{str(name): value for name, value in row.items()} for row in ordered.to_dict("records")]

    @property
    def statuses(self) -> Counter[str]:
        """How many runs have each status."""
        return Counter(run.status for run in self.runs.values())


def gather(
    items: Sequence[Item],
    campaigns: Sequence[Campaign],
    store: Store,
    *,
    unreadable: Collection[str] = (),
    progress: Callable[[str, float], None],
    draw: Callable[[Mapping[str, FigureData], Sequence[Picture]], None],
) -> Contents:
    """Read and compare all that these items ask for; the claims are judged over all `campaigns`.

    `draw` is called as soon as is known what is to be drawn.
    """
    found = results.read(store, progress=progress)
    everything = results.runs_frame(found.values())
    runs, frame = requested_runs(run_uses(items), found, store)
    progress("comparing with the paper", 0.0)
    comparisons = {slug: each.comparison(table, everything) for slug, table, each in _of_kind(Table, items)}
    answers, claims = _answers(items, found, everything), judge(campaigns, everything)
    drawn = dict(_figures(items, found, everything)) | _forest_plots(items, comparisons, answers, claims)
    draw(drawn, curves := pictures(runs.values()))
    older = everything[everything["trainer"].lt(TRAINER_VERSION).fillna(value=False)]
    facts = {name: each for every in campaigns for name, each in every.facts().items()}
    return Contents(
        items=items,
        runs=runs,
        frame=frame,
        epochs=_epochs(runs.values(), frame),
        answers=answers,
        comparisons=comparisons,
        figures=drawn,
        older=older,
        claims=claims,
        pictures=curves,
        missing=_missing(items, runs.values(), facts),
        left_out=tuple(dict.fromkeys((*unreadable, *_damaged(runs.values(), store)))),
        notes=tuple(_notes(runs, found, campaigns, {*older["run"]})),
        store=store,
    )


def _figures(
    items: Iterable[Item], found: Mapping[str, results.Run], everything: pd.DataFrame
) -> Iterator[tuple[str, FigureData]]:
    """The paper's figures by their slugs."""
    for slug, figure, campaign in _of_kind(Figure, items):
        yield slug, data_of(figure, campaign.request, found, everything)


def _forest_plots(
    items: Iterable[Item],
    comparisons: Mapping[str, Comparison],
    answers: Mapping[str, Answer],
    claims: Sequence[Judged],
) -> dict[str, FigureData]:
    """The gains of tables, of the claims at the paper's scale, and the differences of comparisons."""
    titles = {item.slug: item.title for item in items}
    plots = [
        forest_plot(gains_name(slug), f"Gains: {titles[slug]}", table_gains(each))
        for slug, each in comparisons.items()
    ]
    plots += [
        forest_plot(
            gains_name(slug), f"Differences: {titles[slug]}", difference_rows(each), x_label=DIFFERENCE
        )
        for slug, each in answers.items()
    ]
    rows = claim_gains(claims[0].best)
    plots.append(forest_plot(gains_name("claims"), "The paper's claims", rows, x_label=MEAN_GAIN))
    return {each.name: each for each in plots if each}


def _answers(
    items: Iterable[Item], found: Mapping[str, results.Run], everything: pd.DataFrame
) -> dict[str, Answer]:
    """What each comparison came to, by its slug."""
    states = {run.state.key: run.state for run in found.values()}
    return {each.slug: answer(each.campaign.request, states, everything) for each in items if each.compared}


def _of_kind(kind: type[Kind], items: Iterable[Item]) -> list[tuple[str, Kind, Campaign]]:
    """The items that are tables, or figures: slug, what it is, the campaign that requests it."""
    return [
        (item.slug, item.what, item.campaign)
        for item in items
        if isinstance(item.what, kind) and not item.compared
    ]


def _damaged(runs: Iterable[RequestedRun], store: Store) -> Iterator[str]:
    """Requests and runs that are left out because their records are damaged."""
    yield from store.unreadable_requests()
    yield from (f"{run.name}: {run.found.state.damage}" for run in runs if run.status == "damaged")


def _epochs(runs: Iterable[RequestedRun], frame: pd.DataFrame) -> pd.DataFrame:
    """The epochs of the finished runs, which have the names that the report gives them."""
    epochs = results.epochs_frame(run.found for run in runs)
    for name in ("method", "form"):
        names = frame.set_index("run")[name].astype("category")
        epochs[name] = names.reindex(epochs["run"]).array
    return epochs


def _missing(
    items: Sequence[Item], runs: Collection[RequestedRun], facts: Mapping[str, DataSet]
) -> list[Missing]:
    done = [(run.spec, run.result) for run in runs if run.found.done]
    models = {
        device: CostModel(device, facts=facts, rates=measured_rates(done, device=device, facts=facts))
        for device in {item.campaign.device for item in items}
    }
    found = []
    for item in items:
        own = [run for run in runs if item.slug in run.items]
        model = models[item.campaign.device]
        seconds = sum(model(run.spec).seconds * (1 - _share(run)) for run in own if not run.found.done)
        found.append(Missing(item=item, counts=Counter(run.status for run in own), seconds=seconds))
    return found


def _share(run: RequestedRun) -> float:
    """How much of an unfinished run is done."""
    return min(0.99, (run.found.state.epoch or 0) / run.spec.recipe.epochs)


def _notes(
    runs: Mapping[str, RequestedRun],
    found: Mapping[str, results.Run],
    campaigns: Sequence[Campaign],
    older: set[str],
) -> Iterator[str]:
    for name, path in dict.fromkeys(
        (run.spec.dataset, campaign.execution.cache_path) for run in runs.values() for campaign in campaigns
    ):
        meta = caches.read_meta(path, name) or {}
        yield from (f"{name}: {note}" for note in meta.get("notes") or ())
    yield from (run.found.note for run in runs.values() if run.found.note)
    for run in runs.values():
        if skipped := run.result.get("skipped"):
            yield f"{run.name} has skipped {len(skipped):,} corrupt files (the first: {skipped[0]})"
    others = sorted(found.keys() - runs.keys() - older)
    if others:
        named = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        yield f"{len(others)} runs in the results folder belong to nothing that is shown here: {named}"
