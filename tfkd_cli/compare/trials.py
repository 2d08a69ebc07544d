"""Validation trials: which values a method tries before it is compared, and which of them it keeps.

Every method gets the same number. The baseline tries learning rates; the rate it keeps serves all methods,
so that a difference between two losses is not one between two rates. The first trial of a method is always
its default. A trial is an ordinary run: finished ones are shared, unfinished ones go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from paper_tables.spec import Setting, Values
from tfkd_cli.errors import RequestError
from tfkd_cli.methods import Loss
from tfkd_cli.methods import method as find_method
from tfkd_cli.spec import RunSpec
from tfkd_cli.store import RunState

# Tried in this order, the default first; a loss says itself which values of its fields are tried.
RATE_FACTORS = (1.0, 0.3, 3.0, 0.1, 10.0, 0.5, 2.0, 0.2)
MOST_TRIALS = len(RATE_FACTORS)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One set of values a method tries, as a setting of its own."""

    setting: Setting
    spec: RunSpec

    @property
    def values(self) -> dict[str, float]:
        """What was tried, by field."""
        return {name: float(value) for name, value in (*self.setting.recipe, *self.setting.loss)}


def check_count(count: int) -> None:
    """RequestError unless every method can have this many trials."""
    if not 1 <= count <= MOST_TRIALS:
        raise RequestError(
            f"--trials is {count}.", expected=f"1 to {MOST_TRIALS} trials per method.", hint="--trials 3"
        )


def rate_settings(baseline: Setting, count: int, *, lr: float) -> list[Setting]:
    """The baseline at `count` learning rates, the default first."""
    rates = (float(f"{lr * each:.6g}") for each in RATE_FACTORS[:count])
    return [replace(baseline, recipe=(("lr", rate),)) for rate in rates]


def loss_settings(setting: Setting, count: int, *, default: Loss) -> list[Setting]:
    """The setting with `count` values of its loss, the default's first."""
    listed: list[Values] = [tuple(sorted(values.items())) for values in default.trials]
    first = tuple((name, getattr(default, name)) for name in tried_fields(type(default)))
    tried = [first, *(values for values in listed if values != first)]
    if len(tried) < count:
        raise RequestError(
            f"--trials is {count}, and {default.name} names {len(tried)} with its default.",
            expected="the same number of trials for every method.",
            hint=f"--trials {len(tried)}, or more values in {type(default).__qualname__}.trials.",
        )
    return [replace(setting, loss=values) for values in tried[:count]]


def tried_fields(loss: type[Loss]) -> list[str]:
    """The fields of a loss whose values are tried."""
    return sorted({name for values in loss.trials for name in values})


def tried(method: str) -> str:
    """What a method's trials vary, in words."""
    if method == "baseline":
        return "learning rate"
    loss = find_method(method).loss
    signs = {f.name: f.metadata.get("sign") or f.name for f in fields(loss)}
    return ", ".join(signs[name] for name in tried_fields(loss)) or "defaults"


def chosen(trials: Sequence[Trial], states: Mapping[str, RunState]) -> Trial | None:
    """The trial with the highest validation accuracy (then the lowest validation loss, then the first).

    None while one of them is not done.
    """
    scored = []
    for place, trial in enumerate(trials):
        found = score(trial, states)
        if found is None:
            return None
        scored.append((-found[0], found[1], place))
    return trials[min(scored)[2]]


def score(trial: Trial, states: Mapping[str, RunState]) -> tuple[float, float] | None:
    """Validation accuracy (percent) and loss of a finished trial."""
    state = states.get(trial.spec.key)
    if state is None or state.status != "done" or state.result is None:
        return None
    best = state.result["best"]
    return float(best["val_accuracy"]), float(best["val_loss"])
