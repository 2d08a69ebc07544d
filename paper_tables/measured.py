"""What came out of our runs, by setting and seed, and its spread pooled over settings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from paper_tables.spec import Setting
from paper_tables.statistics import Group, Spread, paired_spread, pooled_spread

Epoch = Literal["best", "last"]
"""Which epoch's test accuracy: the best on the test set (as the paper, it seems) or the last."""

EPOCHS: tuple[Epoch, ...] = ("best", "last")


@dataclass(frozen=True, kw_only=True)
class SeedValue:
    """One finished run: test accuracies in percent, and where they come from."""

    seed: int
    best: float
    last: float
    run: str  # the name of its folder
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

    def group(self, epoch: Epoch) -> Group:
        """Accuracy by seed."""
        return {value.seed: value.at(epoch) for value in self.values}

    def mixtures(self) -> tuple[str, ...]:
        """One sentence for each thing that should be one and is several."""
        found = (_mixture(self.values, name) for name in ("precision", "code"))
        return tuple(sentence for sentence in found if sentence)


NOTHING = Measured()


@dataclass(frozen=True, kw_only=True)
class Pool:
    """The spread of the runs of one data set: around their settings, and around setting + seed."""

    dataset: str
    epoch: Epoch
    level: Spread
    paired: Spread


def pools(settings: Iterable[Setting], measured: Mapping[Setting, Measured], epoch: Epoch) -> dict[str, Pool]:
    """One pool per data set, over the distinct runs of these settings."""
    blocks: dict[str, dict[Hashable, list[Group]]] = defaultdict(lambda: defaultdict(list))
    for setting in distinct(settings, measured).values():
        blocks[setting.dataset][setting.student].append(measured[setting].group(epoch))
    return {dataset: _pool(dataset, students, epoch) for dataset, students in blocks.items()}


def distinct(settings: Iterable[Setting], measured: Mapping[Setting, Measured]) -> dict[Hashable, Setting]:
    """The measured settings by identity: two names for the same runs (`kd`, `re-kd`) count once."""
    found: dict[Hashable, Setting] = {}
    for setting in settings:
        if measured.get(setting, NOTHING).n:
            found.setdefault(identity(setting, measured), setting)
    return found


def identity(setting: Setting, measured: Mapping[Setting, Measured]) -> Hashable:
    """What tells the runs of one setting from those of another: their names."""
    return tuple(value.run for value in sorted(measured[setting].values, key=lambda value: value.seed))


def _pool(dataset: str, students: Mapping[Hashable, Sequence[Group]], epoch: Epoch) -> Pool:
    every = [group for groups in students.values() for group in groups]
    return Pool(dataset=dataset, epoch=epoch, level=pooled_spread(every), paired=paired_spread(students))


def _mixture(values: Sequence[SeedValue], name: Literal["precision", "code"]) -> str:
    by_value: dict[str, list[str]] = defaultdict(list)
    for value in values:
        by_value[getattr(value, name) or "unknown"].append(str(value.seed))
    if len(by_value) < 2:
        return ""
    kinds = {"precision": "mixed precision", "code": "mixed code versions"}
    parts = (f"{key} (seed {', '.join(seeds)})" for key, seeds in by_value.items())
    return f"{kinds[name]}: {'; '.join(parts)}"
