"""What came out of our runs, by setting and seed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from paper_tables.spec import Setting
from paper_tables.statistics import Group, equal_scatter

Epoch = Literal["best", "last"]
"""Which epoch's test accuracy: the best on the test set (as the paper, it seems) or the last."""

EPOCHS: tuple[Epoch, ...] = ("best", "last")

Teaching = Literal["one teacher", "teacher per seed"]
"""Whether one run taught all seeds of a setting, or a run of its own each."""

Assumptions = Callable[[Setting], tuple[str, ...]]
"""Which values of a setting nobody published, in words."""

REJECTED = 0.05  # equal scatter is, at this p and below


@dataclass(frozen=True, kw_only=True)
class SeedValue:
    """One finished run: test accuracies in percent, and where they come from."""

    seed: int
    best: float
    last: float
    run: str  # the name of its folder
    teacher: str = ""  # the run, or the file, that taught it
    precision: str = "fp32"
    code: str = ""  # the commit, and the digest of what differed from it

    def at(self, epoch: Epoch) -> float:
        """The accuracy at the best or the last epoch."""
        return self.best if epoch == "best" else self.last


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The finished runs of one setting, of `wanted` that were asked for.

    `unlike_paper` says what sets these runs apart from the paper's ("10 epochs", "not the full data
    set"): they are shown, and never judged against a published number.
    """

    values: tuple[SeedValue, ...] = ()
    wanted: int = 0
    warnings: tuple[str, ...] = ()
    unlike_paper: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len({value.seed for value in self.values}) != len(self.values):
            raise ValueError(f"one seed twice: {[value.run for value in self.values]}")

    @property
    def n(self) -> int:
        """How many runs are finished."""
        return len(self.values)

    @property
    def runs(self) -> tuple[str, ...]:
        """The folders of the finished runs, by seed: what tells one setting's runs from another's."""
        return tuple(value.run for value in sorted(self.values, key=lambda value: value.seed))

    def group(self, epoch: Epoch) -> Group:
        """Accuracy by seed."""
        return {value.seed: value.at(epoch) for value in self.values}

    def mixtures(self) -> tuple[str, ...]:
        """One sentence for each thing that should be one and is several."""
        found = (_mixture(self.values, name) for name in ("precision", "code"))
        return tuple(sentence for sentence in found if sentence)


NOTHING = Measured()


def unequal_scatter(
    settings: Iterable[Setting], measured: Mapping[Setting, Measured], epoch: Epoch
) -> tuple[str, ...]:
    """One sentence for each data set on which the settings do not scatter alike.

    Two names for the same runs (`kd`, `re-kd`) count once.
    """
    distinct = {each.runs: (setting.dataset, each) for setting in settings if (each := measured.get(setting))}
    by_dataset: dict[str, list[list[float]]] = defaultdict(list)
    for dataset, each in distinct.values():
        by_dataset[dataset].append(list(each.group(epoch).values()))
    return tuple(
        f"The runs of these settings do not scatter alike on {dataset}, {epoch} epoch (Brown–Forsythe, p "
        f"{p:.1g}): read each ± for its own setting. No interval assumes that they do."
        for dataset, groups in by_dataset.items()
        if (p := equal_scatter(groups)) is not None and p <= REJECTED
    )


def teaching(measured: Iterable[Measured]) -> tuple[Teaching, ...]:
    """How the seeds of these settings were taught, each way once."""
    taught = [
        {value.teacher for value in each.values} for each in measured if each.n > 1 and each.values[0].teacher
    ]
    return tuple(dict.fromkeys("one teacher" if len(each) == 1 else "teacher per seed" for each in taught))


def _mixture(values: Sequence[SeedValue], name: Literal["precision", "code"]) -> str:
    by_value: dict[str, list[str]] = defaultdict(list)
    for value in values:
        by_value[getattr(value, name) or "unknown"].append(str(value.seed))
    if len(by_value) < 2:
        return ""
    kinds = {"precision": "mixed precision", "code": "mixed code versions"}
    parts = (f"{key} (seed {', '.join(seeds)})" for key, seeds in by_value.items())
    return f"{kinds[name]}: {'; '.join(parts)}"
