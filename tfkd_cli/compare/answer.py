"""What a comparison came to: a line per method, the differences with their intervals, and one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from paper_tables import printed
from paper_tables.measured import Measured
from paper_tables.spec import Claim, Contrast, Setting
from paper_tables.statistics import Interval, deviation
from paper_tables.verdicts import LEVEL, ClaimWord, judge_claims
from tfkd_cli.compare.comparison import Comparison, States
from tfkd_cli.compare.trials import Trial, chosen, score
from tfkd_cli.methods import called
from tfkd_cli.reproduction.measure import measure
from tfkd_cli.reproduction.settings import Request
from tfkd_cli.spec import RunSpec

if TYPE_CHECKING:
    import pandas as pd

WORTH = 0.3  # points: the gain one would want to see, as in the paper's tables
CHANCE_ERRORS = 2.0  # standard errors above 1/K up to which a method is at chance
QUALITIES = {
    "accuracy": "best_accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "loss": "test_loss",
    "ece": "ece",
}
"""What a line shows → the column of the runs frame."""
QUESTION = ("tf-reg", "lsr")
"""Is Tf-KD more than label smoothing? It is judged alone, the gains over the baseline together."""
WORDS: Mapping[ClaimWord, str] = {
    "holds": "{method} is better",
    "contradicted": "{method} is worse",
    "not shown": "no measurable difference",
    "too few runs": "too few seeds to tell",
}
"""Verdict of `paper_tables.verdicts` on "the method is better" → the same in a comparison's words."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method: means over seeds on the test part, at the epoch the validation part chose.

    Accuracies and ECE in percent, `loss` (NLL) in nats; `seconds` per run, its teacher's apart. `edges`:
    chosen values that are the `smallest` or `largest` of those tried. `at_chance`: the balanced accuracy is
    at most two standard errors above 1/K.
    """

    method: str
    chosen: Mapping[str, float]
    edges: Mapping[str, str]
    n: int
    mean: Mapping[str, float]
    std: Mapping[str, float | None]
    at_chance: bool
    seconds: float
    teacher_seconds: float
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One method's accuracy over another's, in points, with the 95 % interval.

    `p_holm` is corrected for the number of differences, except for the first, which is the question.
    `at_chance`: those of the two methods that have learnt nothing.
    """

    method: str
    against: str
    points: float
    interval: Interval | None
    n: int
    seeds_for_worth: int | None
    p: float | None
    p_holm: float | None
    word: ClaimWord
    at_chance: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether all seeds have the same difference, which says nothing about other seeds."""
        return self.interval is not None and self.interval.low == self.interval.high

    @property
    def verdict(self) -> str:
        """In words."""
        if self.at_chance:
            verb = "is" if len(self.at_chance) == 1 else "are"
            return f"nothing can be said, {' and '.join(self.at_chance)} {verb} at chance"
        if self.equal and self.word == "not shown":
            return "the same with every seed, so nothing can be said"
        if self.word == "not shown" and self.p is not None and self.p <= LEVEL:
            return f"{WORDS[self.word]} after Holm's correction"
        return WORDS.get(self.word, self.word).format(method=self.method)

    @property
    def sentence(self) -> str:
        """The difference, how sure it is, and what it would take to be surer."""
        interval = ""
        if self.interval and not self.equal:
            interval = f", 95 % {signed(self.interval.low)} … {signed(self.interval.high)}"
        start = f"{self.method} − {self.against} = {signed(self.points)} points{interval}, n = {self.n}"
        return "; ".join(filter(None, [f"{start}: {self.verdict}", self._advice()]))

    def _advice(self) -> str:
        if self.at_chance:
            return "train longer (--epochs), or start from a pretrained student"
        if self.word == "too few runs":
            return "give at least --seeds 3"
        if self.equal:
            return "train longer (--epochs) or test on more images"
        if self.word != "not shown":
            return ""
        if self.seeds_for_worth is None:
            return f"more than 1,000 seeds would be needed to show {WORTH} points"
        return f"about {self.seeds_for_worth:,} seeds would show {WORTH} points"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The whole comparison. There are no lines before all trials are done."""

    name: str
    title: str
    lines: tuple[Line, ...]
    differences: tuple[Difference, ...]
    trials: tuple[Mapping[str, Any], ...]
    test_images: int
    done: int  # of the runs, teachers not counted
    wanted: int
    notes: tuple[str, ...]  # what a reader must know
    left_out: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        if self.differences:
            return f"{self.differences[0].sentence}."
        return f"No answer yet: {self.done} of {self.wanted} runs are done; the same command goes on."

    def to_json(self) -> dict[str, Any]:
        """The documented shape of `compare --json`."""
        differences = []
        for each in self.differences:
            shown = asdict(each)
            shown["low"], shown["high"] = shown.pop("interval") or (None, None)
            differences.append({**shown, "verdict": each.verdict, "sentence": each.sentence})
        return {
            "name": self.name,
            "answer": self.sentence,
            "methods": [asdict(each) for each in self.lines],
            "differences": differences,
            "trials": [dict(each) for each in self.trials],
            "chosen_on": "validation",
            "test_images": self.test_images,
            "runs": {"done": self.done, "wanted": self.wanted},
            "notes": list(self.notes),
            "left_out": list(self.left_out),
        }


def answer(request: Request, states: States, runs: pd.DataFrame) -> Answer:
    """What the finished runs of a comparison say; `runs`: the frame of all runs (see `tfkd_cli.results`)."""
    comparison = Comparison(request)
    whole = comparison.full_request(states)
    table = whole.tables[0]
    measurements = measure(whole, table, runs)
    specs, trials = whole.runs_by_setting(table), comparison.trials(states)
    settings = comparison.final_settings(states)
    decided = all(chosen(each, states) for each in trials.values())
    made = (
        _line(method, setting, specs[setting], runs, trials[method], _counts(comparison, states))
        for method, setting in settings.items()
        if decided
    )
    lines = tuple(line for line in made if line is not None)
    at_chance = {line.method for line in lines if line.at_chance}
    wanted = [spec for each in specs.values() for spec in each]
    return Answer(
        name=table.name,
        title=table.title,
        lines=lines,
        differences=tuple(_differences(settings, measurements.by_setting, at_chance)) if decided else (),
        trials=tuple(_trials(trials, states)),
        test_images=comparison.compared.test_images,
        done=sum(states[spec.key].status == "done" for spec in wanted if spec.key in states),
        wanted=len(wanted),
        notes=tuple(_notes(lines, comparison.compared.classes)),
        left_out=measurements.left_out,
    )


def _counts(comparison: Comparison, states: States) -> list[float]:
    """Test images of each class: from a confusion matrix, else as if the classes were of one size."""
    for trial in comparison.rate_trials():
        result = states[trial.spec.key].result if trial.spec.key in states else None
        if result and (rows := result["best"].get("confusion")):
            return [sum(map(float, row.split())) for row in rows]
    classes = comparison.compared.classes
    return [comparison.compared.test_images / classes] * classes


def _line(
    method: str,
    setting: Setting,
    specs: Sequence[RunSpec],
    runs: pd.DataFrame,
    trials: Sequence[Trial],
    counts: Sequence[float],
) -> Line | None:
    done = runs[runs["status"] == "done"]
    own = done[done["run"].isin([spec.folder for spec in specs])]
    if own.empty:
        return None
    teachers = done[done["run"].isin([parent.folder for spec in specs for parent in spec.parents])]
    values = {name: [float(each) for each in own[column]] for name, column in QUALITIES.items()}
    picked = {name: float(value) for name, value in (*setting.recipe, *setting.loss)}
    return Line(
        method=called(method),
        chosen=picked,
        edges=dict(_edges(picked, trials)),
        n=len(own),
        mean={name: fmean(each) for name, each in values.items()},
        std={name: deviation(each) for name, each in values.items()},
        at_chance=at_chance(values["balanced_accuracy"], counts),
        seconds=float(own["seconds"].mean()),
        teacher_seconds=float(teachers["seconds"].sum()),
        runs=tuple(own["run"]),
    )


def at_chance(accuracies: Sequence[float], counts: Sequence[float]) -> bool:
    """Whether the mean of balanced accuracies (percent, one per seed) is within two errors of 1/K, or below.

    The error is that of guessing on `counts` test images per class, or that over the seeds if it is larger.
    """
    level = 1 / len(counts)
    guessing = 100 * level * math.sqrt(level * (1 - level) * math.fsum(1 / max(each, 1) for each in counts))
    over_seeds = (deviation(accuracies) or 0.0) / math.sqrt(len(accuracies))
    return fmean(accuracies) <= 100 * level + CHANCE_ERRORS * max(guessing, over_seeds)


def _edges(picked: Mapping[str, float], trials: Sequence[Trial]) -> Iterator[tuple[str, str]]:
    """The values that are the smallest or largest of those tried, where there was a choice."""
    for name, value in picked.items():
        tried = sorted({each.values[name] for each in trials if name in each.values})
        if len(tried) > 1 and value in (tried[0], tried[-1]):
            yield name, "smallest" if value == tried[0] else "largest"


def _notes(lines: Sequence[Line], classes: int) -> Iterator[str]:
    poor = [line.method for line in lines if line.at_chance]
    if poor:
        yield (
            f"{', '.join(poor)}: the balanced accuracy is within two standard errors of chance "
            f"({100 / classes:.1f} %). Nothing has been learnt."
        )
    if any(line.edges for line in lines):
        yield (
            "↑ ↓ The largest (smallest) value tried was chosen: a better one may lie beyond. --lr moves the "
            "learning rates that are tried, --trials adds values."
        )


def _differences(
    settings: Mapping[str, Setting], measured: Mapping[Setting, Measured], at_chance: set[str]
) -> Iterator[Difference]:
    """The pairs of which both methods have runs, judged as claims that the first is better."""
    baseline, *others = settings
    pairs = [QUESTION, *((method, baseline) for method in others)]
    claims = [
        Claim(
            name=method,
            statement=f"{method} is better than {against}",
            relation="better",
            contrasts=(Contrast(setting=settings[method], against=settings[against], label=""),),
        )
        for method, against in pairs
    ]
    verdicts = (*judge_claims(claims[:1], measured), *judge_claims(claims[1:], measured))
    for (method, against), verdict in zip(pairs, verdicts, strict=True):
        gain = verdict.gain
        if gain is not None:
            yield Difference(
                method=called(method),
                against=called(against),
                points=gain.mean,
                interval=verdict.interval,
                n=gain.pairs or min(verdict.contrasts[0].n),
                seeds_for_worth=gain.seeds_for(WORTH),
                p=gain.p,
                p_holm=verdict.p_holm,
                word=verdict.word,
                at_chance=tuple(each for each in map(called, (method, against)) if each in at_chance),
            )


def _trials(by_method: Mapping[str, Sequence[Trial]], states: States) -> Iterator[Mapping[str, Any]]:
    for method, trials in by_method.items():
        best = chosen(trials, states)
        for trial in trials:
            accuracy, loss = score(trial, states) or (None, None)
            yield {
                "method": called(method),
                "values": trial.values,
                "val_accuracy": accuracy,
                "val_loss": loss,
                "chosen": trial == best,
                "run": trial.spec.folder,
            }


def signed(points: float) -> str:
    """`+0.12`, with a true minus sign."""
    return printed.signed(points).replace("-", "−")
