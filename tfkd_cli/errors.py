"""The errors a user may see.

TfkdError
├── RequestError   the request was wrong               exit code 2
│   └── InvalidValueError   a value that means nothing; also a ValueError
└── RunError       a run or the machine failed         exit code 1

Every error has three parts: what happened (with the value), what was expected, what to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and newline, marks that change the direction of text, and lone surrogates."""


SENTENCES = ("Expected", "Known", "Found", "The keys")
"""What is expected begins with one of these where it says so itself."""


def plain(text: str) -> str:
    """`text` with what a terminal would obey or hide shown as an escape: `\\x1b`, `\\u202e`."""
    return UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


class TfkdError(Exception):
    """What happened, what was expected, what to do; printed without a traceback."""

    exit_code = 1

    def __init__(self, what: str, *, expected: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.hint = hint

    def __str__(self) -> str:
        return "\n".join(parts(self))


class RequestError(TfkdError):
    """The request was wrong: nothing was started."""

    exit_code = 2


class InvalidValueError(RequestError, ValueError):
    """A value that means nothing, refused where it is set: for callers in Python a ValueError."""


class RunError(TfkdError):
    """A run, or the machine under it, failed; what was done so far is kept."""

    exit_code = 1


@dataclass(frozen=True)
class Check:
    """One thing that `tfkd doctor` has looked at, and what to do when it is not `ok`."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    todo: str = ""


def parts(error: Exception) -> list[str]:
    """What happened, what was expected and what to do, a line each; of `paper_tables`' errors, too."""
    lines = [str(getattr(error, "what", error))]
    if expected := getattr(error, "expected", ""):
        lines.append(f"  {'' if expected.startswith(SENTENCES) else 'Expected: '}{expected}")
    if hint := getattr(error, "hint", ""):
        lines.append(f"  Hint: {hint}")
    return lines


def fold(name: str) -> str:
    """`MobileNet_V2` → `mobilenetv2`: how names are compared (case, `-` and `_` do not count)."""
    return name.lower().replace("-", "").replace("_", "").strip()


def canonical(
    name: str, known: Iterable[str], *, kind: str, hint: str = "", elsewhere: Iterable[str] = ()
) -> str:
    """The known name that `name` means; RequestError with the nearest one otherwise.

    `elsewhere`: names of the form LIBRARY:NAME, which are suggested to whoever leaves the library out.
    """
    names = list(known)
    if name in names:
        return name
    by_fold = {fold(each): each for each in names}
    if fold(name) in by_fold:
        return by_fold[fold(name)]
    suggested = {fold(each.partition(":")[2]): each for each in elsewhere} | by_fold
    nearest = difflib.get_close_matches(fold(name), suggested, n=1, cutoff=0.5)
    suggestion = f'did you mean "{suggested[nearest[0]]}"?' if nearest else hint
    raise RequestError(
        f'unknown {kind} "{name}".',
        expected="Known: " + ", ".join(sorted(by_fold.values())),
        hint=suggestion,
    )
