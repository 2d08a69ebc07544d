"""Progress of anything that takes over two seconds: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tfkd_cli import console
from tfkd_cli.backends import Event
from tfkd_cli.plan import Plan, PlannedRun
from tfkd_cli.spec import RunSpec

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

BESIDE_NAMES = 2 + 8 + 29 + 3  # cells of a line: indentation, epochs, what is left, gaps
NARROWEST_BAR = 6
TRUSTED_SHARE, TRUSTED_SECONDS = 0.2, 60.0  # of the planned work: as much as if it had gone as planned
QUIET_SECONDS = 30.0  # without a terminal: at least one line this often while runs go on


def steps() -> Callable[[str, float], None]:
    """A callback `(what, share done)` that tells of each step once, and of its progress every few seconds."""
    said: dict[str, float] = {}

    def tell(what: str, share: float) -> None:
        now = time.monotonic()
        if what not in said or now - said[what] > 5:
            said[what] = now
            done = f": {100 * share:.0f} %" if share else " …"
            console.say(what[:1].upper() + what[1:] + done)

    return tell


@contextlib.contextmanager
def following(plan: Plan, *, data: Mapping[str, str], slots: int) -> Iterator[Callable[[Event], None]]:
    """While what is missing of a plan is done, `slots` runs at once: gives the callback for their events.

    `data`: data set → what to call it.
    """
    follower = Follower(plan, names=short_names(plan.unfinished, data), slots=slots)
    if not sys.stderr.isatty():
        yield follower.tell
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    talk = console.terminal(sys.stderr)
    room = talk.width - BESIDE_NAMES - max(map(len, follower.names.values()), default=0)
    columns = (
        TextColumn("{task.description}", markup=False),
        *([BarColumn(bar_width=min(24, room))] if room >= NARROWEST_BAR else []),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        *([TimeElapsedColumn()] if room >= 24 + 8 else []),
    )
    with Progress(*columns, console=talk, transient=True) as bars:
        follower.bars = bars
        follower.whole = bars.add_task("runs", total=len(plan.todo), note=follower.left())
        yield follower.tell


def short_names(runs: Iterable[RunSpec], data: Mapping[str, str]) -> dict[str, str]:
    """Folder → `photos · lsr · s1`: what tells these runs apart, values of recipe and loss only if needed.

    `data`: data set → what to call it.
    """
    specs = [*runs]
    several = len({spec.student for spec in specs}) > 1
    titled: dict[str, list[RunSpec]] = {}
    for spec in specs:
        titled.setdefault(spec.title(data, with_student=several), []).append(spec)
    found = {}
    for words, alike in titled.items():
        values = [{**vars(spec.recipe), **vars(spec.loss)} for spec in alike]
        names = dict.fromkeys(name for each in values for name in each)
        told = [name for name in names if len({repr(each.get(name)) for each in values}) > 1]
        for spec, each in zip(alike, values, strict=True):
            found[spec.folder] = " · ".join([words, *(f"{name}={_short(each.get(name))}" for name in told)])
    return found


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass
class Follower:
    """What is known of the runs under way, told as lines or bars."""

    plan: Plan
    names: Mapping[str, str] = field(default_factory=dict)  # folder → what to call the run
    slots: int = 1  # the most runs that there can be under way
    bars: RichProgress | None = None
    whole: TaskID | None = None
    tasks: dict[str, TaskID] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)  # folders
    shares: dict[str, float] = field(default_factory=dict)  # folder → of its epochs, those done
    begun: dict[str, float] = field(default_factory=dict)  # folder → when it was started
    at_once: int = 1  # the most runs seen under way
    started: float = field(default_factory=time.monotonic)
    last_line: float = field(default_factory=time.monotonic)

    def tell(self, event: Event) -> None:
        """Take one event."""
        if event.kind == "started":
            self.begun[event.folder] = time.monotonic()
            self.at_once = max(self.at_once, len(self.begun.keys() - self.ended))
        if event.kind == "progress" and event.epochs:
            self.shares[event.folder] = event.epoch / event.epochs
        if event.kind in ("finished", "failed", "blocked"):
            self._ended(event)
        elif self.bars is not None:
            self._moved(event)
        elif event.kind == "started":
            self._line(f"  … {self._name(event)}: started, {self.left()}")
        elif event.kind == "progress" and time.monotonic() - self.last_line > QUIET_SECONDS:
            self._line(f"  … {self._name(event)}: epoch {event.epoch} of {event.epochs}, {self.left()}")

    def left(self) -> str:
        """Time left: at the pace of the plan at first, then more and more at that of the runs.

        A run that starts uses up the start that is planned for it, and no more until its first epoch is done.
        """
        total = sum(run.seconds_left for run in self.plan.todo)
        spent = sum(self._spent(run) for run in self.plan.todo)
        if not self.begun:
            return f"about {console.duration(self.plan.wall_seconds(self.slots))} left (estimate)"
        elapsed = (time.monotonic() - min(self.begun.values())) * self.at_once
        trusted = max(1.0, min(TRUSTED_SHARE * total, TRUSTED_SECONDS * self.at_once))
        pace = (elapsed + trusted) / (spent + trusted)
        estimate = "" if self.shares or self.ended else " (estimate)"
        return f"about {console.duration(pace * (total - spent) / self.at_once)} left{estimate}"

    def _spent(self, run: PlannedRun) -> float:
        """Of what a run was to cost, what it has used up."""
        folder = run.spec.folder
        if folder in self.ended:
            return run.seconds_left
        before, start = 1 - run.left, run.cost.start_seconds  # trained before this command
        share = max(0.0, self.shares.get(folder, 0.0) - before) / run.left
        begun = self.begun.get(folder)
        waited = 0.0 if begun is None else start if share else min(start, time.monotonic() - begun)
        return waited + share * (run.seconds_left - start)

    def _ended(self, event: Event) -> None:
        self.ended.add(event.folder)
        count, every = len(self.ended), len(self.plan.todo)
        accuracy = (
            f"{event.accuracy:.2f} %" if event.accuracy is not None else console.first_line(event.message)
        )
        mark = {"finished": "done", "failed": "FAILED", "blocked": "blocked"}[event.kind]
        # Live, the time left stands below.
        left = f"  ({self.left()})" if count < every and self.bars is None else ""
        self._line(f"[{count}/{every}] {mark:7} {self._name(event)}  {accuracy}{left}")
        if self.bars is not None and self.whole is not None:
            if event.folder in self.tasks:
                self.bars.remove_task(self.tasks.pop(event.folder))
            self.bars.update(self.whole, completed=count, note=self.left())

    def _moved(self, event: Event) -> None:
        assert self.bars is not None
        if event.folder not in self.tasks:
            self.tasks[event.folder] = self.bars.add_task(
                f"  {self._name(event)}", total=event.epochs or None, note=""
            )
        note = f"{event.accuracy:.2f} %" if event.accuracy is not None else ""
        self.bars.update(self.tasks[event.folder], completed=event.epoch or 0, total=event.epochs, note=note)

    def _name(self, event: Event) -> str:
        return self.names.get(event.folder, event.folder)

    def _line(self, text: str) -> None:
        self.last_line = time.monotonic()
        console.say(text)  # above the bars, which take over stderr while they are shown
