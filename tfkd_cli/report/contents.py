"""Everything a report shows, as plain values: read once, before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

from paper_tables.compare import Comparison
from paper_tables.figure_data import GAIN, MEAN_GAIN, FigureData, claim_gains, table_gains
from paper_tables.reader import Erratum
from paper_tables.spec import Table
from tfkd_cli import results
from tfkd_cli.compare.answer import Answer, answer
from tfkd_cli.compare.sheets import DIFFERENCE, difference_rows
from tfkd_cli.costs import CostModel, measured_rates
from tfkd_cli.data import DataSet
from tfkd_cli.data import cache as caches
from tfkd_cli.plan import PlannedRun
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
    answers, comparisons, drawn = _shown(items, found, everything)
    claims = judge(campaigns, everything)
    drawn |= _forest_plots({item.slug: item.title for item in items}, comparisons, answers, claims)
    draw(drawn, curves := pictures(runs.values()))
    older = everything[everything["trainer"].lt(TRAINER_VERSION).fillna(value=False)]
    facts = {name: each for every in campaigns for name, each in every.facts().items()}
    damaged = (f"{run.name}: {run.state.damage}" for run in runs.values() if run.status == "damaged")
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
        left_out=tuple(dict.fromkeys((*unreadable, *store.unreadable_requests(), *damaged))),
        notes=tuple(_notes(runs, found, campaigns, {*older["run"]})),
        store=store,
    )


def _shown(
    items: Sequence[Item], found: Mapping[str, results.Run], everything: pd.DataFrame
) -> tuple[dict[str, Answer], dict[str, Comparison], dict[str, FigureData]]:
    """The answers of comparisons, the tables and the figures, by their slugs."""
    states = {run.state.key: run.state for run in found.values()}
    answers: dict[str, Answer] = {}
    tables: dict[str, Comparison] = {}
    figures: dict[str, FigureData] = {}
    for item in items:
        if item.compared:
            answers[item.slug] = answer(item.campaign.request, states, everything)
        elif isinstance(item.what, Table):
            tables[item.slug] = item.campaign.comparison(item.what, everything)
        else:
            figures[item.slug] = data_of(item.what, item.campaign.request, found, everything)
    return answers, tables, figures


def _forest_plots(
    titles: Mapping[str, str],
    comparisons: Mapping[str, Comparison],
    answers: Mapping[str, Answer],
    claims: Sequence[Judged],
) -> Iterator[tuple[str, FigureData]]:
    """The gains of tables, of the claims at the paper's scale, and the differences of comparisons."""
    plots = [(slug, f"Gains: {titles[slug]}", table_gains(each), GAIN) for slug, each in comparisons.items()]
    plots += [
        (slug, f"Differences: {titles[slug]}", difference_rows(each), DIFFERENCE)
        for slug, each in answers.items()
    ]
    plots.append(("claims", "The paper's claims", claim_gains(claims[0].best), MEAN_GAIN))
    for slug, title, rows, x_label in plots:
        name, gains = gains_name(slug), tuple(rows)
        if gains:
            yield name, FigureData(name=name, title=title, x_label=x_label, y_label="", gains=gains)


def _epochs(runs: Iterable[RequestedRun], frame: pd.DataFrame) -> pd.DataFrame:
    """The epochs of the finished runs, which have the names that the report gives them."""
    epochs = results.epochs_frame(runs)
    for name in ("method", "form"):
        names = frame.set_index("run")[name].astype("category")
        epochs[name] = names.reindex(epochs["run"]).array
    return epochs


def _missing(
    items: Sequence[Item], runs: Collection[RequestedRun], facts: Mapping[str, DataSet]
) -> list[Missing]:
    done = [(run.spec, run.result) for run in runs if run.done]
    models = {
        device: CostModel(device, facts=facts, rates=measured_rates(done, device=device, facts=facts))
        for device in {item.campaign.device for item in items}
    }
    found = []
    for item in items:
        own = [run for run in runs if item.slug in run.items]
        model = models[item.campaign.device]
        planned = [PlannedRun(run.spec, run.state, model(run.spec)) for run in own if not run.done]
        seconds = sum(each.left * each.cost.seconds for each in planned)
        found.append(Missing(item=item, counts=Counter(run.status for run in own), seconds=seconds))
    return found


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
    yield from (run.note for run in runs.values() if run.note)
    missing = (run.spec.loss.missing for run in runs.values())
    yield from dict.fromkeys(
        f"{each.what} Its runs are shown from their records." for each in missing if each
    )
    for run in runs.values():
        if skipped := run.result.get("skipped"):
            yield f"{run.name} has skipped {len(skipped):,} corrupt files (the first: {skipped[0]})"
    others = sorted(found.keys() - runs.keys() - older)
    if others:
        named = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        yield f"{len(others)} runs in the results folder belong to nothing that is shown here: {named}"
