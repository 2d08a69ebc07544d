"""What the measured numbers say about the printed ones: a verdict per cell and per claim (STATISTICS.md).

No verdict without the data for it: missing runs give `not measured`, fewer than three `too few runs`, a
guessed setting `setting assumed`, another scale or data set `not comparable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, NamedTuple

from paper_tables.gains import Gain, mean_gain
from paper_tables.measured import (
    NOTHING,
    Assumptions,
    Epoch,
    Measured,
    Teaching,
    teaching,
    unequal_scatter,
)
from paper_tables.spec import Claim, Contrast, Setting
from paper_tables.statistics import (
    Group,
    Interval,
    beyond,
    holm,
    prediction_half_width,
    seeds_needed,
    smallest_margin,
    t_interval,
    tost,
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

PARTIAL = "within a student, only the seeds that all its settings here have are counted"

NOTES: Mapping[str, str] = {
    "one teacher": "One teacher per architecture (seed 0) teaches all student seeds, as in the paper: "
    "every interval is conditional on these teachers, and says nothing about other ones.",
    "teacher per seed": "Each student seed has a teacher of its own, the teacher's run with the same seed: "
    "these intervals cover what differs between teachers.",
    "shared baseline": "A printed baseline is one number shared by its column: where it is off, every "
    "printed gain of the column is off by as much, so their verdicts are not independent.",
    "many cells": "Cell verdicts are not corrected for their number: of 20 cells that agree in truth, one "
    "is expected to differ. Holm's correction runs over the claims.",
    "best epoch": "The best epoch is chosen on the test set, as the paper seems to have done; the last "
    "epoch is free of that choice, so each verdict is repeated on it.",
    "fixed cells": "A claim is about its own cells: its interval is for these networks and data sets.",
}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A word, the difference it judges (measured minus published), and how much chance allows."""

    word: CellWord
    difference: float | None = None
    allowed: float | None = None


class Side(NamedTuple):
    """A setting's runs, those that a difference is calculated from, and those behind the printed value."""

    measured: Measured
    counted: Group
    published_runs: int


def judge(
    published: float | None, measured: float | None, sides: Sequence[Side], *, assumed: bool
) -> Judgement:
    """The verdict on a mean (one side) or on a gain (both sides) held against the printed one."""
    if published is None:
        return Judgement(word="not published")
    difference = None if measured is None else measured - published
    allowed = prediction_half_width(*((list(each.counted.values()), each.published_runs) for each in sides))

    def word() -> CellWord:
        if obstacle := _obstacle([each.measured for each in sides]):
            return obstacle
        fewest = min(len(each.counted) for each in sides)
        if fewest < LEAST_RUNS or not allowed:  # runs that agree exactly do not say how they scatter
            return "too few runs"
        if assumed:
            return "setting assumed"
        return "agrees" if abs(difference or 0) <= allowed else "differs"

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
    """One cell of a claim and its own gain; `contrast.published` is what the paper prints for it."""

    contrast: Contrast
    gain: Gain | None
    n: tuple[int, int]  # runs of the setting, and of the one it is held against
    assumed: bool


@dataclass(frozen=True, kw_only=True)
class DatasetGain:
    """A claim within one data set: described, never judged."""

    dataset: str
    gain: Gain | None
    measured: int  # cells with runs on both sides
    total: int


@dataclass(frozen=True, kw_only=True)
class ClaimVerdict:
    """One claim, judged at one epoch. `gain` is over the cells measured so far, and judged only when all are.

    `interval` has `confidence` 0.95 for "better" and 0.90 for "equal"; `p_holm` is over all `claims` asked
    for, one that cannot be judged counting with p = 1.
    """

    claim: Claim
    epoch: Epoch
    word: ClaimWord
    gain: Gain | None
    p: float | None
    p_holm: float | None
    claims: int
    contrasts: tuple[ContrastResult, ...]
    by_dataset: tuple[DatasetGain, ...]
    runs: int
    runs_wanted: int
    teaching: tuple[Teaching, ...]
    notes: tuple[str, ...]

    @property
    def cells(self) -> int:
        """Cells with runs on both sides."""
        return sum(part.measured for part in self.by_dataset)

    @property
    def confidence(self) -> float:
        """Of the interval the verdict is read from."""
        return 0.90 if self.claim.relation == "equal" else 0.95

    @property
    def interval(self) -> Interval | None:
        """Of the mean gain, in points."""
        if self.gain is None or self.gain.error is None:
            return None
        return t_interval(self.gain.mean, self.gain.error, confidence=self.confidence)

    @property
    def printed_gain(self) -> float | None:
        """The mean of the printed gains; None unless the paper prints all of them."""
        printed = [each.contrast.published for each in self.contrasts]
        known = [each for each in printed if each is not None]
        return fmean(known) if known and len(known) == len(printed) else None

    @property
    def smallest_gain(self) -> float | None:
        """The smallest gain these seeds could have shown (80 % power, 5 % two-sided, before Holm)."""
        return self.gain.smallest if self.gain else None

    @property
    def seeds_for_printed_gain(self) -> int | None:
        """Seeds per setting that would show the printed gain."""
        return self.gain.seeds_for(self.printed_gain) if self.gain else None

    @property
    def smallest_margin(self) -> float | None:
        """For "equal": the smallest margin these seeds could have confirmed were there no difference."""
        if self.claim.relation != "equal" or self.gain is None or self.gain.known_error is None:
            return None
        return smallest_margin(self.gain.known_error)

    @property
    def seeds_for_margin(self) -> int | None:
        """For "equal": seeds per setting that would confirm the margin were there no difference."""
        if self.smallest_margin is None or self.gain is None:
            return None
        return seeds_needed(self.claim.margin, self.gain.components, smallest=smallest_margin)


def judge_claims(
    claims: Sequence[Claim],
    measured: Mapping[Setting, Measured],
    *,
    assumed: Assumptions = lambda setting: (),
    epoch: Epoch = "best",
) -> tuple[ClaimVerdict, ...]:
    """A verdict for each claim, with Holm's correction over all of them."""
    undecided = [_measure(claim, measured, assumed, epoch) for claim in claims]
    adjusted = holm([1.0 if verdict.p is None else verdict.p for verdict in undecided])
    return tuple(
        _decide(replace(verdict, claims=len(claims)), p_holm)
        for verdict, p_holm in zip(undecided, adjusted, strict=True)
    )


def _measure(
    claim: Claim, measured: Mapping[Setting, Measured], assumed: Assumptions, epoch: Epoch
) -> ClaimVerdict:
    """A claim with its numbers, before Holm: `word` is what stands in the way, or "not shown"."""
    settings = tuple(dict.fromkeys(each for c in claim.contrasts for each in (c.setting, c.against)))
    own = [measured.get(setting, NOTHING) for setting in settings]

    def gain_of(contrasts: Sequence[Contrast]) -> Gain | None:
        pairs = [(each.setting, each.against) for each in contrasts if all(_counts(each, measured))]
        return mean_gain(pairs, measured, epoch)

    obstacle, gain = _obstacle(own), gain_of(claim.contrasts)
    contrasts = tuple(
        ContrastResult(
            contrast=each,
            gain=gain_of([each]),
            n=_counts(each, measured),
            assumed=bool(assumed(each.setting) or assumed(each.against)),
        )
        for each in claim.contrasts
    )
    return ClaimVerdict(
        claim=claim,
        epoch=epoch,
        word=obstacle or "not shown",
        gain=gain,
        p=_p(claim, gain) if obstacle is None else None,
        p_holm=None,
        claims=1,
        contrasts=contrasts,
        by_dataset=tuple(_by_dataset(contrasts, gain_of)),
        runs=sum(each.n for each in own),
        runs_wanted=sum(max(each.n, each.wanted) for each in own),
        teaching=teaching(own),
        notes=_notes(contrasts, own, gain) + unequal_scatter(settings, measured, epoch),
    )


def _decide(verdict: ClaimVerdict, p_holm: float) -> ClaimVerdict:
    """The verdict with Holm's p and, where nothing stood in the way, its word."""
    gain = verdict.gain
    if verdict.p is None or gain is None or gain.known_error is None:
        return verdict
    word: ClaimWord = "not shown"
    if p_holm <= LEVEL:
        word = "holds" if verdict.claim.relation == "equal" or gain.mean > 0 else "contradicted"
    elif verdict.claim.relation == "equal":
        outside = beyond(gain.mean, gain.known_error, margin=verdict.claim.margin)
        word = "contradicted" if verdict.claims * outside <= LEVEL else "not shown"
    return replace(verdict, word=word, p_holm=p_holm)


def _p(claim: Claim, gain: Gain | None) -> float | None:
    if gain is None or gain.known_error is None:
        return None
    return tost(gain.mean, gain.known_error, margin=claim.margin) if claim.relation == "equal" else gain.p


def _counts(contrast: Contrast, measured: Mapping[Setting, Measured]) -> tuple[int, int]:
    return measured.get(contrast.setting, NOTHING).n, measured.get(contrast.against, NOTHING).n


def _by_dataset(
    contrasts: Sequence[ContrastResult], gain_of: Callable[[Sequence[Contrast]], Gain | None]
) -> Iterator[DatasetGain]:
    for dataset in dict.fromkeys(each.contrast.setting.dataset for each in contrasts):
        within = [each for each in contrasts if each.contrast.setting.dataset == dataset]
        gain = gain_of([each.contrast for each in within])
        yield DatasetGain(
            dataset=dataset, gain=gain, measured=sum(all(each.n) for each in within), total=len(within)
        )


def _notes(
    contrasts: Sequence[ContrastResult], own: Sequence[Measured], gain: Gain | None
) -> tuple[str, ...]:
    guessed = sum(each.assumed for each in contrasts)
    notes = [f"{guessed} of {len(contrasts)} cells rest on settings nobody published"] if guessed else []
    notes += [PARTIAL] if gain and gain.partial else []
    seen = (text for each in own for text in (*each.unlike_paper, *each.warnings, *each.mixtures()))
    return tuple(dict.fromkeys([*notes, *seen]))
