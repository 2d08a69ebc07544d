"""What a user should know of own images before believing a number: imbalance, images seen before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from tfkd_cli.data.cache import Draft
from tfkd_cli.data.layout import Layout
from tfkd_cli.data.near import near_identical

SHOWN = 20  # pairs of near-identical images that are named
IMBALANCED = 1.5  # largest class over smallest


def inspect(draft: Draft, layout: Layout, parts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Training images of each class, and near-identical images across parts, as JSON types."""
    counts = Counter(layout.labels[position] for position in parts["train"])
    near = {}
    # a part of fewer images is looked up in the larger one: test in train, val in train, test in val
    for known, asked in combinations(sorted(parts, key=("train", "val", "test").index), 2):
        found = near_identical(draft.images(asked), draft.images(known))
        if found:
            near[f"{asked} in {known}"] = {
                "count": len(found),
                "images": [
                    [layout.files[parts[asked][here]], layout.files[parts[known][there]]]
                    for here, there in sorted(found.items())[:SHOWN]
                ],
            }
    return {
        "train_images": {name: counts[label] for label, name in enumerate(layout.classes)},
        "near_identical": near,
    }


def notes_of(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Near-identical images in sentences, where there are some."""
    notes = []
    for where, near in report["near_identical"].items():
        asked, known = where.split(" in ")
        first, other = near["images"][0]
        notes.append(
            f"near-identical to an image of {known}: {near['count']:,} of {asked} "
            f"(the first: {first!r}, {other!r})"
        )
    return tuple(notes)


def of_counts(layout: Layout, parts: Mapping[str, Sequence[int]]) -> str:
    """What was found, and what one image of the test part weighs."""
    names = ", ".join(layout.classes[:6]) + (" …" if len(layout.classes) > 6 else "")
    counts = ", ".join(f"{len(parts[part]):,} {part}" for part in ("train", "val", "test") if part in parts)
    return (
        f"{len(layout.files):,} images of {len(layout.classes)} classes ({names}): {counts}; "
        f"one test image is {100 / len(parts['test']):.2f} points"
    )


def of_labels(layout: Layout, parts: Mapping[str, Sequence[int]], marks: Sequence[bytes]) -> tuple[str, ...]:
    """Sentences on classes of unequal size, and on files that lie in two classes at once."""
    notes = []
    counted = Counter(layout.labels[position] for position in parts["train"])
    counts = {name: counted[label] for label, name in enumerate(layout.classes)}
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[most] >= IMBALANCED * counts[least]:
        notes.append(
            f"classes are imbalanced: {counts[least]:,} training images of {least!r}, "
            f"{counts[most]:,} of {most!r}"
        )
    first: dict[bytes, int] = {}
    both = [
        (other, here)
        for here, mark in enumerate(marks)
        if layout.labels[other := first.setdefault(mark, here)] != layout.labels[here]
    ]
    if both:
        files = [layout.files[position] for position in both[0]]
        notes.append(f"the same image in two classes: {len(both):,} (the first: {files[0]!r}, {files[1]!r})")
    return tuple(notes)
