"""How many faults the drills tried and what they cost, added up over pytest-xdist's workers too.

The hooks are tests/conftest.py's: the process that hands tests out to workers collects none, and so reads no
conftest.py further down.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest


@dataclass
class Ledger:
    """What was tried, what was lost for good, and how much work had to be done again."""

    tried: int = 0
    lost: int = 0
    seconds: list[float] = field(default_factory=list)

    def fault(self, *, lost_seconds: float, times: int = 1) -> None:
        """A fault that cost so much work."""
        self.tried += times
        self.seconds += [max(0.0, lost_seconds)] * times

    def line(self) -> str:
        """The line that the README quotes."""
        median, most = statistics.median(self.seconds or [0.0]) / 60, max(self.seconds, default=0.0) / 60
        return (
            f"faults tried: {self.tried}, lost: {self.lost}, "
            f"work lost per fault: median {median:.2f} min, at most {most:.2f} min"
        )


LEDGER = Ledger()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With pytest-xdist, each worker hands its count over."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["ledger"] = asdict(LEDGER)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """And it is added to the others'."""
    told = getattr(node, "workeroutput", {}).get("ledger", {})
    LEDGER.tried += told.get("tried", 0)
    LEDGER.lost += told.get("lost", 0)
    LEDGER.seconds += told.get("seconds", [])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line at the end of `make drills`."""
    if LEDGER.tried:
        terminalreporter.write_line(LEDGER.line())
