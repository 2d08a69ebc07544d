"""What a comparison came to: a line per method, the differences with their intervals, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from paper_tables.gains import Gain, mean_gain
from paper_tables.measured import Measured
from paper_tables.spec import Setting
from paper_tables.statistics import deviation, holm
from tfkd_cli.compare.comparison import Comparing, States
from tfkd_cli.compare.trials import score
from tfkd_cli.reproduction.measure import measure
from tfkd_cli.spec import RunSpec

if TYPE_CHECKING:
    import pandas as pd

WORTH = 0.3  # points: the gain one would want to see, as in the paper's tables
CHANCE_MARGIN = 0.05  # of chance: 52.5 % of two classes is no better than a coin
QUALITIES = {
    "accuracy": "best_accuracy",
    "balanced_accuracy": "balanced_accuracy",
    "loss": "test_loss",
    "ece": "ece",
}
"""What a line shows → the column of the runs frame."""
PAIRS = (
    ("tf-reg", "lsr"),
    ("tf-reg", "baseline"),
    ("tf-self", "baseline"),
    ("lsr", "baseline"),
    ("kd", "baseline"),
)
"""The first is the question: is Tf-KD more than label smoothing?"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method: means over seeds on the test part, at the epoch the validation part chose.

    Accuracies and ECE in percent, `loss` (NLL) in nats; `seconds` per run, its teacher's apart.
    """

    method: str
    chosen: Mapping[str, float]
    n: int
    mean: Mapping[str, float]
    std: Mapping[str, float | None]
    seconds: float
    teacher_seconds: float
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One method's accuracy over another's, in points; `low` and `high`: the 95 % interval."""

    method: str
    against: str
    points: float
    low: float | None
    high: float | None
    n: int
    seeds_for_worth: int | None
    p: float | None
    p_holm: float | None

    @property
    def verdict(self) -> str:
        """In words; `p_holm` is for whoever reads several differences."""
        if self.low is None or self.high is None:
            return "one seed cannot tell"
        if self.low == self.high:
            return "the same with every seed, so nothing can be said"
        if self.low > 0:
            return f"{self.method} is better"
        if self.high < 0:
            return f"{self.method} is worse"
        return "no measurable difference"

    @property
    def sentence(self) -> str:
        """The difference, how sure it is, and what it would take to be surer."""
        start = f"{self.method} − {self.against} = {_signed(self.points)} points"
        if self.low is None or self.high is None:
            return f"{start}, n = {self.n}: {self.verdict}; give at least --seeds 3"
        if self.low == self.high:
            return f"{start}, n = {self.n}: {self.verdict}; train longer (--epochs) or test on more images"
        found = f"{start}, 95 % {_signed(self.low)} … {_signed(self.high)}, n = {self.n}: {self.verdict}"
        if self.low > 0 or self.high < 0:
            return found
        if self.seeds_for_worth is None:
            return f"{found}; more than 1,000 seeds would be needed to show {WORTH}"
        return f"{found}; about {self.seeds_for_worth:,} seeds would show {WORTH}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The whole comparison."""

    lines: tuple[Line, ...]
    differences: tuple[Difference, ...]
    trials: tuple[Mapping[str, Any], ...]
    test_images: int
    notes: tuple[str, ...]  # what a reader must know
    left_out: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        return self.differences[0].sentence if self.differences else "Not all runs are done: no answer yet."

    def to_json(self) -> dict[str, Any]:
        """The documented shape of `compare --json`."""
        differences = [
            {**asdict(each), "verdict": each.verdict, "sentence": each.sentence} for each in self.differences
        ]
        return {
            "answer": self.sentence,
            "methods": [asdict(each) for each in self.lines],
            "differences": differences,
            "trials": [dict(each) for each in self.trials],
            "chosen_on": "validation",
            "test_images": self.test_images,
            "notes": list(self.notes),
            "left_out": list(self.left_out),
        }


def answer(
    comparing: Comparing, states: States, runs: pd.DataFrame, *, test_images: int, classes: int
) -> Answer:
    """What the finished runs say; `runs` is the frame of the store (see `tfkd_cli.results`)."""
    settings = comparing.final_settings(states)
    request = comparing.stages(states)[-1].request
    measurements = measure(request, request.tables[0], runs)
    specs = request.runs_by_setting(request.tables[0])
    lines = [_line(method, setting, specs[setting], runs) for method, setting in settings.items()]
    learnt = tuple(line for line in lines if line is not None)
    return Answer(
        lines=learnt,
        notes=_notes(learnt, classes),
        differences=_differences(settings, measurements.by_setting),
        trials=_trials(comparing, states),
        test_images=test_images,
        left_out=measurements.left_out,
    )


def _line(method: str, setting: Setting, specs: Sequence[RunSpec], runs: pd.DataFrame) -> Line | None:
    done = runs[runs["status"] == "done"]
    own = done[done["run"].isin([spec.folder for spec in specs])]
    if own.empty:
        return None
    teachers = done[done["run"].isin([parent.folder for spec in specs for parent in spec.parents])]
    values = {name: [float(each) for each in own[column]] for name, column in QUALITIES.items()}
    return Line(
        method=method,
        chosen={name: float(value) for name, value in (*setting.recipe, *setting.loss)},
        n=len(own),
        mean={name: fmean(each) for name, each in values.items()},
        std={name: deviation(each) for name, each in values.items()},
        seconds=float(own["seconds"].mean()),
        teacher_seconds=float(teachers["seconds"].sum()),
        runs=tuple(own["run"]),
    )


def _at_chance(line: Line, classes: int) -> bool:
    return line.mean["balanced_accuracy"] <= 100 / classes * (1 + CHANCE_MARGIN)


def _notes(lines: Sequence[Line], classes: int) -> tuple[str, ...]:
    poor = [line.method for line in lines if _at_chance(line, classes)]
    if not poor:
        return ()
    return (
        f"{', '.join(poor)}: balanced accuracy is that of chance ({100 / classes:.1f} %). Nothing has been "
        "learnt yet: train longer (--epochs), or start from a pretrained student.",
    )


def _differences(
    settings: Mapping[str, Setting], measured: Mapping[Setting, Measured]
) -> tuple[Difference, ...]:
    found: list[tuple[str, str, Gain]] = []
    for method, against in PAIRS:
        if method in settings:
            gain = mean_gain([(settings[method], settings[against])], measured, "best")
            if gain is not None:
                found.append((method, against, gain))
    known = [gain.p for *_, gain in found]
    adjusted = iter(holm([p for p in known if p is not None]))
    return tuple(
        Difference(
            method=method,
            against=against,
            points=gain.mean,
            low=gain.interval.low if gain.interval else None,
            high=gain.interval.high if gain.interval else None,
            n=gain.pairs or min(measured[settings[each]].n for each in (method, against)),
            seeds_for_worth=gain.seeds_for(WORTH),
            p=p,
            p_holm=None if p is None else next(adjusted),
        )
        for (method, against, gain), p in zip(found, known, strict=True)
    )


def _trials(comparing: Comparing, states: States) -> tuple[Mapping[str, Any], ...]:
    rows = []
    by_method = {"baseline": comparing.rate_trials(), **comparing.loss_trials(states)}
    for method, trials in by_method.items():
        for trial in trials:
            found = score(trial, states)
            accuracy, loss = found if found else (None, None)
            rows.append(
                {
                    "method": method,
                    "values": trial.values,
                    "val_accuracy": accuracy,
                    "val_loss": loss,
                    "run": trial.spec.folder,
                }
            )
    return tuple(rows)


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")
