"""The verdicts on the claims: as a sheet, as sentences, as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from paper_tables.gains import Gain
from paper_tables.printed import signed
from paper_tables.render.cells import could_show_text, gain_text
from paper_tables.render.sheet import Field, Line, Sheet, SheetRow, Style
from paper_tables.verdicts import NOTES, ClaimVerdict, ClaimWord, ContrastResult, DatasetGain

STYLES: dict[ClaimWord, Style] = {"holds": "good", "contradicted": "bad"}
JUDGED: tuple[ClaimWord, ...] = ("holds", "contradicted", "not shown")
RECORDED = (
    *(
        "epoch",
        "interval",
        "confidence",
        "p",
        "p_holm",
        "claims",
        "cells",
        "runs",
        "runs_wanted",
        "printed_gain",
    ),
    *("smallest_gain", "seeds_for_printed_gain", "smallest_margin", "seeds_for_margin"),
)
COLUMNS = ("epoch", "verdict", "mean gain", "p (Holm)", "could show", "cells", "runs")


def claims_sheet(*by_epoch: Sequence[ClaimVerdict]) -> Sheet:
    """One row per claim and epoch: verdicts at the best epoch, then at the last."""
    rows = [row for verdicts in zip(*by_epoch, strict=True) for row in _rows(verdicts)]
    return Sheet(
        name="claims",
        title="The paper's claims",
        heads=("claim",),
        columns=COLUMNS,
        rows=tuple(rows),
        notes=tuple(_explained([verdict for verdicts in by_epoch for verdict in verdicts])),
        head_width=36,
    )


def _rows(verdicts: Sequence[ClaimVerdict]) -> Iterator[SheetRow]:
    for index, verdict in enumerate(verdicts):
        yield SheetRow(
            labels=(verdict.claim.statement if index == 0 else "",), fields=tuple(_fields(verdict))
        )


def _fields(verdict: ClaimVerdict) -> Iterator[Field]:
    texts = (
        (verdict.epoch, None),
        (verdict_text(verdict), None),
        (mean_gain_text(verdict), verdict.gain.mean if verdict.gain else None),
        ("" if verdict.p_holm is None else p_text(verdict.p_holm), verdict.p_holm),
        (could_show_text(verdict.smallest_gain, verdict.seeds_for_printed_gain), verdict.smallest_gain),
        (f"{verdict.cells}/{len(verdict.contrasts)}", verdict.cells),
        (f"{verdict.runs}/{verdict.runs_wanted}", verdict.runs),
    )
    style = STYLES.get(verdict.word, "")
    yield from (Field(lines=(Line(text, style=style, value=value),)) for text, value in texts)


def _explained(verdicts: Sequence[ClaimVerdict]) -> Iterator[str]:
    used = {verdict.word for verdict in verdicts}
    yield (
        "A claim is one number: the mean gain over its cells, in points. `better` holds when its 95 % "
        "interval lies above 0, `equal` when its 90 % interval lies inside ±margin, both after Holm's "
        "correction over all claims. could show: the smallest gain these seeds could have shown (80 % "
        "power), and how many seeds the printed gain would need."
    )
    if "not shown" in used:
        yield "not shown: these runs neither show the claim nor contradict it."
    if used & set(JUDGED):
        ways = dict.fromkeys(way for verdict in verdicts for way in verdict.teaching)
        yield from (NOTES[name] for name in (*ways, "fixed cells", "best epoch"))


def verdict_text(verdict: ClaimVerdict) -> str:
    """The word of a verdict; `partly measured` where some cells are measured and others are missing."""
    partly = verdict.word == "not measured" and verdict.gain is not None
    return "partly measured" if partly else verdict.word


def mean_gain_text(verdict: ClaimVerdict) -> str:
    """`+1.02 [+0.80, +1.24] 95 %`."""
    if verdict.gain is None:
        return ""
    if verdict.interval is None:
        return signed(verdict.gain.mean)
    low, high = verdict.interval
    return f"{signed(verdict.gain.mean)} [{signed(low)}, {signed(high)}] {100 * verdict.confidence:.0f} %"


def p_text(p: float) -> str:
    """`0.03`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def sentence(verdict: ClaimVerdict) -> str:
    """The verdict in words, with what these seeds could have shown and what the printed gain would need."""
    return " ".join(_sentences(verdict))


def _sentences(verdict: ClaimVerdict) -> Iterator[str]:
    cells = f"{verdict.cells} of {len(verdict.contrasts)} cells, {verdict.runs} of {verdict.runs_wanted} runs"
    if verdict.gain is None:
        yield f"{verdict_text(verdict).capitalize()}: {cells}."
        return
    holm = (
        ""
        if verdict.p_holm is None
        else f"; p {p_text(verdict.p_holm)} after Holm over {verdict.claims} claims"
    )
    yield f"{verdict_text(verdict).capitalize()}: mean gain {mean_gain_text(verdict)} over {cells}{holm}."
    if verdict.smallest_gain is not None:
        yield f"These seeds could have shown a gain of {verdict.smallest_gain:.2f} (80 % power)."
    if verdict.printed_gain is not None:
        yield f"The paper prints {verdict.printed_gain:+.2f}{_needs(verdict.seeds_for_printed_gain)}."
    else:
        yield "The paper prints no such gain."
    if verdict.smallest_margin is not None:
        yield (
            f"They could have confirmed equality within ±{verdict.smallest_margin:.2f}; "
            f"±{verdict.claim.margin:g} is declared{_needs(verdict.seeds_for_margin)}."
        )
    if guessed := sum(each.assumed for each in verdict.contrasts):
        yield f"{guessed} of {len(verdict.contrasts)} cells rest on settings nobody published."


def _needs(seeds: int | None) -> str:
    return "" if seeds is None else f", which needs {seeds} seeds"


def claims_record(*by_epoch: Sequence[ClaimVerdict]) -> list[dict[str, Any]]:
    """One record per claim and epoch, JSON types only; None where nothing is known."""
    return [_record(verdict) for verdicts in by_epoch for verdict in verdicts]


def _record(verdict: ClaimVerdict) -> dict[str, Any]:
    claim = verdict.claim
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "relation": claim.relation,
        "margin": claim.margin if claim.relation == "equal" else None,
        "source": claim.source,
        "verdict": verdict.word,
        "sentence": sentence(verdict),
        "cells_wanted": len(verdict.contrasts),
        **_gain_record(verdict.gain),
        **{name: getattr(verdict, name) for name in RECORDED},
        "by_dataset": [_on_dataset(each) for each in verdict.by_dataset],
        "contrasts": [_contrast(each) for each in verdict.contrasts],
        "notes": [*([claim.note] if claim.note else []), *verdict.notes],
    }


def _gain_record(gain: Gain | None) -> dict[str, Any]:
    error = gain.error if gain else None
    return {
        "gain": gain.mean if gain else None,
        "se": error.se if error else None,
        "df": error.df if error else None,
        "paired": gain.paired if gain else None,
        "pairs": gain.pairs if gain else None,
    }


def _on_dataset(each: DatasetGain) -> dict[str, Any]:
    return {
        "dataset": each.dataset,
        **_gain_record(each.gain),
        "interval": each.gain.interval if each.gain else None,
        "text": gain_text(each.gain) if each.gain else "",
        "cells": each.measured,
        "cells_wanted": each.total,
    }


def _contrast(result: ContrastResult) -> dict[str, Any]:
    contrast = result.contrast
    return {
        "label": contrast.label,
        "setting": contrast.setting.to_json(),
        "against": contrast.against.to_json(),
        "published": contrast.published,
        **_gain_record(result.gain),
        "n": result.n,
        "assumed": result.assumed,
    }
