"""What the measured numbers say about the printed ones: a verdict per cell and per claim (STATISTICS.md).

No verdict without the data for it: missing runs give `not measured`, fewer than three `too few runs`, a
guessed setting `setting assumed`, another scale or data set `not comparable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from paper_tables.compare import CellComparison, Reading
from paper_tables.gains import Gain, mean_gain
from paper_tables.measured import NOTHING, Epoch, Measured, pools
from paper_tables.spec import Claim, Contrast, Published, Setting, Table
from paper_tables.statistics import (
    Interval,
    beyond,
    holm,
    mean,
    prediction_half_width,
    seeds_needed,
    smallest_margin,
    t_interval,
    tost,
    two_sided,
)

LEAST_RUNS = 3
LEVEL = 0.05

CellWord = Literal[
    "agrees",
    "differs",
    "setting assumed",
    "too few runs",
    "not comparable",
    "not measured",
    "not published",
]
ClaimWord = Literal["holds", "contradicted", "not shown", "too few runs", "not comparable", "not measured"]

NOTES: Mapping[str, str] = {
    "one teacher": "One teacher per architecture (seed 0) teaches all student seeds, as in the paper: "
    "every interval is conditional on these teachers, and says nothing about other ones.",
    "shared baseline": "A printed baseline is one number shared by its column: where it is off, every "
    "printed gain of the column is off by as much, so their verdicts are not independent.",
    "many cells": "Cell verdicts are not corrected for their number: of 20 cells that agree in truth, one "
    "is expected to read `differs`. Holm's correction runs over the claims.",
    "best epoch": "The best epoch is chosen on the test set, as the paper seems to have done; the last "
    "epoch is free of that choice, so each verdict is repeated on it.",
    "fixed cells": "A claim speaks of its own cells: the interval holds the networks and data sets fixed.",
}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A word, the difference it judges (measured minus published), and how much chance allows."""

    word: CellWord
    difference: float | None = None
    allowed: float | None = None


@dataclass(frozen=True, kw_only=True)
class CellVerdict:
    """Level and gain of one cell, each on its own; at one epoch."""

    epoch: Epoch
    level: Judgement
    gain: Judgement
    smallest_gain: float | None = None  # that these seeds could have shown, in points
    seeds_for_printed_gain: int | None = None


def judge_cell(cell: CellComparison, epoch: Epoch = "best") -> CellVerdict:
    """The verdicts on one cell."""
    reading, published = cell.reading(epoch), cell.cell.published
    gain = reading.gain if reading else None
    return CellVerdict(
        epoch=epoch,
        level=_judge(
            published.mean,
            reading.difference if reading else None,
            _allowed(reading, cell.n, published.runs),
            own=(cell.measured,),
            assumed=bool(cell.assumed),
        ),
        gain=_judge(
            None if cell.cell.is_baseline else published.gain,
            reading.gain_difference if reading else None,
            _allowed(reading, cell.n, published.runs, cell.baseline.n, cell.baseline_published.runs),
            own=(cell.measured, cell.baseline),
            assumed=bool(cell.assumed or cell.baseline_assumed),
        ),
        smallest_gain=gain.smallest if gain else None,
        seeds_for_printed_gain=gain.seeds_for(published.gain) if gain else None,
    )


def _allowed(reading: Reading | None, *runs: int) -> float | None:
    return prediction_half_width(reading.pool.level, *runs) if reading and all(runs) else None


def _judge(
    published: float | None,
    difference: float | None,
    allowed: float | None,
    *,
    own: Sequence[Measured],
    assumed: bool,
) -> Judgement:
    if published is None:
        return Judgement(word="not published")

    def word() -> CellWord:
        if obstacle := _obstacle(own):
            return obstacle
        if assumed:
            return "setting assumed"
        return "agrees" if abs(difference or 0) <= (allowed or 0) else "differs"

    return Judgement(word=word(), difference=difference, allowed=allowed)


def _obstacle(
    measured: Sequence[Measured],
) -> Literal["not measured", "not comparable", "too few runs"] | None:
    """What keeps these runs from a verdict."""
    if not all(each.n for each in measured):
        return "not measured"
    if any(each.unlike_paper for each in measured):
        return "not comparable"
    return "too few runs" if any(each.n < LEAST_RUNS for each in measured) else None


@dataclass(frozen=True, kw_only=True)
class ContrastResult:
    """One cell of a claim: its own gain, and what the paper prints for it."""

    contrast: Contrast
    gain: Gain | None
    printed: float | None
    n: tuple[int, int]  # runs of the setting, and of the one it is held against
    assumed: bool


@dataclass(frozen=True, kw_only=True)
class Part:
    """A claim within one data set: described, never judged."""

    dataset: str
    gain: Gain | None
    measured: int  # cells with runs on both sides
    total: int


@dataclass(frozen=True, kw_only=True)
class ClaimVerdict:
    """One claim, judged at one epoch. `gain` is over the cells measured so far, and judged only when all are.

    `interval` has `confidence` 0.95 for "better" and 0.90 for "equal"; `p_holm` is over all claims asked
    for, one that cannot be judged counting with p = 1.
    """

    claim: Claim
    epoch: Epoch
    word: ClaimWord
    gain: Gain | None
    interval: Interval | None
    confidence: float
    p: float | None
    p_holm: float | None
    claims: int
    contrasts: tuple[ContrastResult, ...]
    parts: tuple[Part, ...]
    runs: int
    runs_wanted: int
    printed_gain: float | None
    smallest_gain: float | None
    seeds_for_printed_gain: int | None
    smallest_margin: float | None  # "equal" only
    seeds_for_margin: int | None
    notes: tuple[str, ...]

    @property
    def cells(self) -> int:
        """Cells with runs on both sides."""
        return sum(part.measured for part in self.parts)


def published_values(tables: Iterable[Table]) -> dict[Setting, Published]:
    """What the paper prints for each setting; the first table counts where it prints two values."""
    found: dict[Setting, Published] = {}
    for table in tables:
        for cell in table.cells():
            found.setdefault(cell.setting, cell.published)
    return found


def judge_claims(
    claims: Sequence[Claim],
    measured: Mapping[Setting, Measured],
    *,
    published: Mapping[Setting, Published] | None = None,
    assumed: Callable[[Setting], tuple[str, ...]] = lambda setting: (),
    epoch: Epoch = "best",
) -> tuple[ClaimVerdict, ...]:
    """A verdict for each claim, with Holm's correction over all of them."""
    open_verdicts = [_measure(claim, measured, published or {}, assumed, epoch) for claim in claims]
    adjusted = holm([1.0 if verdict.p is None else verdict.p for verdict in open_verdicts])
    return tuple(
        _decide(replace(verdict, claims=len(claims)), p_holm)
        for verdict, p_holm in zip(open_verdicts, adjusted, strict=True)
    )


def _measure(
    claim: Claim,
    measured: Mapping[Setting, Measured],
    published: Mapping[Setting, Published],
    assumed: Callable[[Setting], tuple[str, ...]],
    epoch: Epoch,
) -> ClaimVerdict:
    """A claim with its numbers, before Holm: `word` says what stands in the way, or "not shown"."""
    settings = _settings(claim)
    pooled = pools(settings, measured, epoch)

    def gain_of(contrasts: Sequence[Contrast]) -> Gain | None:
        pairs = [(each.setting, each.against) for each in contrasts if _is_measured(each, measured)]
        return mean_gain(pairs, measured, pooled, epoch)

    gain = gain_of(claim.contrasts)
    own = [measured.get(setting, NOTHING) for setting in settings]
    word = _obstacle(own)
    contrasts = tuple(
        ContrastResult(
            contrast=each,
            gain=gain_of([each]),
            printed=_printed(each, published),
            n=(measured.get(each.setting, NOTHING).n, measured.get(each.against, NOTHING).n),
            assumed=bool(assumed(each.setting) or assumed(each.against)),
        )
        for each in claim.contrasts
    )
    printed = [each.printed for each in contrasts if each.printed is not None]
    printed_gain = mean(printed) if printed and len(printed) == len(contrasts) else None
    equal = claim.relation == "equal"
    confidence = 0.90 if equal else 0.95
    error = gain.error if gain else None
    return ClaimVerdict(
        claim=claim,
        epoch=epoch,
        word=word or "not shown",
        gain=gain,
        interval=t_interval(gain.mean, error, confidence=confidence) if gain and error else None,
        confidence=confidence,
        p=_p(claim, gain) if word is None else None,
        p_holm=None,
        claims=1,
        contrasts=contrasts,
        parts=tuple(_parts(claim, measured, gain_of)),
        runs=sum(each.n for each in own),
        runs_wanted=sum(max(each.n, each.wanted) for each in own),
        printed_gain=printed_gain,
        smallest_gain=gain.smallest if gain else None,
        seeds_for_printed_gain=gain.seeds_for(printed_gain) if gain else None,
        smallest_margin=smallest_margin(error) if equal and error else None,
        seeds_for_margin=_seeds_for_margin(claim, gain) if equal and gain else None,
        notes=_notes(contrasts, own),
    )


def _decide(verdict: ClaimVerdict, p_holm: float) -> ClaimVerdict:
    """The verdict with Holm's p and, where nothing stood in the way, its word."""
    gain = verdict.gain
    if verdict.p is None or gain is None or gain.error is None:
        return verdict
    word: ClaimWord = "not shown"
    if verdict.claim.relation == "better":
        if p_holm <= LEVEL:
            word = "holds" if gain.mean > 0 else "contradicted"
    elif p_holm <= LEVEL:
        word = "holds"
    elif verdict.claims * beyond(gain.mean, gain.error, margin=verdict.claim.margin) <= LEVEL:
        word = "contradicted"
    return replace(verdict, word=word, p_holm=p_holm)


def _p(claim: Claim, gain: Gain | None) -> float | None:
    if gain is None or gain.error is None:
        return None
    if claim.relation == "equal":
        return tost(gain.mean, gain.error, margin=claim.margin)
    return two_sided(gain.mean, gain.error)


def _seeds_for_margin(claim: Claim, gain: Gain) -> int | None:
    return seeds_needed(claim.margin, gain.strata, smallest=smallest_margin) if gain.error else None


def _settings(claim: Claim) -> tuple[Setting, ...]:
    return tuple(dict.fromkeys(each for c in claim.contrasts for each in (c.setting, c.against)))


def _is_measured(contrast: Contrast, measured: Mapping[Setting, Measured]) -> bool:
    return all(measured.get(setting, NOTHING).n for setting in (contrast.setting, contrast.against))


def _printed(contrast: Contrast, published: Mapping[Setting, Published]) -> float | None:
    """The printed gain of a contrast: of printed gains where there are any, else of printed accuracies."""
    ours, theirs = published.get(contrast.setting), published.get(contrast.against)
    if ours is None or theirs is None:
        return None
    over = 0.0 if contrast.against == contrast.setting.baseline() else theirs.gain
    if ours.gain is not None and over is not None:
        return ours.gain - over
    return ours.mean - theirs.mean if ours.mean is not None and theirs.mean is not None else None


def _parts(
    claim: Claim,
    measured: Mapping[Setting, Measured],
    gain_of: Callable[[Sequence[Contrast]], Gain | None],
) -> Iterable[Part]:
    for dataset in dict.fromkeys(each.setting.dataset for each in claim.contrasts):
        within = [each for each in claim.contrasts if each.setting.dataset == dataset]
        done = sum(_is_measured(each, measured) for each in within)
        yield Part(dataset=dataset, gain=gain_of(within), measured=done, total=len(within))


def _notes(contrasts: Sequence[ContrastResult], own: Sequence[Measured]) -> tuple[str, ...]:
    guessed = sum(each.assumed for each in contrasts)
    notes = [f"{guessed} of {len(contrasts)} cells rest on settings nobody published"] if guessed else []
    seen = (text for each in own for text in (*each.unlike_paper, *each.warnings, *each.mixtures()))
    return tuple(dict.fromkeys([*notes, *seen]))
