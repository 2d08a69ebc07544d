"""A number as the paper prints it: `71.05±0.16 (+2.67)`, `64.12 (+0.68)`, `75.87`, `+2.67`."""

from __future__ import annotations

import re

from paper_tables.spec import PaperTablesError, Published

RUNS_BEHIND_A_SPREAD = 3  # paper Tables 1, 2 and 4: mean ± std over 3 runs
_NUMBER = r"\d{1,4}(?:\.\d{1,3})?"
_ACCURACY = re.compile(rf"({_NUMBER})(?:±({_NUMBER}))?(?: \(([+-]{_NUMBER})\))?")
_GAIN = re.compile(rf"[+-]{_NUMBER}")
EXAMPLE = 'Expected a number as printed: "71.05±0.16 (+2.67)", "64.12 (+0.68)", "75.87" or "+2.67".'


def parse(text: str, *, where: str, teacher_accuracy: float | None = None) -> Published:
    """What the text says, in percent and points; PaperTablesError on anything but the four printed forms."""
    if _GAIN.fullmatch(text):
        return Published(gain=float(text), teacher_accuracy=teacher_accuracy)
    match = _ACCURACY.fullmatch(text)
    if match is None:
        raise PaperTablesError(f'{where}: "{text:.60}" is not a printed number.', expected=EXAMPLE)
    std, gain = (None if each is None else float(each) for each in match.group(2, 3))
    mean = float(match[1])
    if not 1 <= mean <= 100:  # chance on 100 classes is 1
        raise PaperTablesError(f"{where}: the mean is {mean:g}.", expected="Expected percent, from 1 to 100.")
    return Published(
        mean=mean,
        std=std,
        gain=gain,
        runs=1 if std is None else RUNS_BEHIND_A_SPREAD,
        teacher_accuracy=teacher_accuracy,
    )


def show(published: Published) -> str:
    """The text that `parse` reads, digits as the paper prints them."""
    if published.mean is None:
        return "" if published.gain is None else f"{published.gain:+.2f}"
    std = "" if published.std is None else f"±{published.std:.2f}"
    gain = "" if published.gain is None else f" ({published.gain:+.2f})"
    return f"{published.mean:.2f}{std}{gain}"


def signed(points: float) -> str:
    """`+0.12`; never `-0.00`."""
    return f"{round(points, 2) + 0.0:+.2f}"
