"""What a user should know of own images before believing a number: imbalance, leaks, blank images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from tfkd_cli.data.cache import Draft
from tfkd_cli.data.layout import Layout
from tfkd_cli.data.near import near_identical
from tfkd_cli.errors import RequestError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray

SHOWN = 20  # pairs of near-identical images, or nearly constant ones, that are named
FLAT_RANGE, FLAT_STD = 16, 2.0  # grey levels of 255: an image below one of them, in each channel, is blank
BLOCK = 256  # images looked at together
IMBALANCED = 1.5  # largest class over smallest


def inspect(draft: Draft, layout: Layout, parts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Training images of each class, near-identical images across parts, blank ones; as JSON types.

    RequestError when every image is blank: nothing can be learnt from them.
    """
    counts = Counter(layout.labels[position] for position in parts["train"])
    near = {}
    # a part of fewer images is looked up in the larger one: test in train, val in train, test in val
    for known, asked in combinations(sorted(parts, key=("train", "val", "test").index), 2):
        images, others = draft.images(asked), draft.images(known)
        found = near_identical(images[..., ::-1], others) | near_identical(images, others)  # mirrored, too
        if found:
            near[f"{asked} in {known}"] = {
                "count": len(found),
                "of": len(parts[asked]),
                "images": [
                    [layout.files[parts[asked][here]], layout.files[parts[known][there]]]
                    for here, there in sorted(found.items())[:SHOWN]
                ],
            }
    return {
        "train_images": {name: counts[label] for label, name in enumerate(layout.classes)},
        "near_identical": near,
        "blank": _blank(draft, layout, parts),
    }


def _blank(draft: Draft, layout: Layout, parts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The nearly constant images of each class that has some."""
    blank = [
        positions[here] for part, positions in parts.items() for here in nearly_constant(draft.images(part))
    ]
    if len(blank) == len(layout.files):
        raise RequestError(
            f"all {len(blank):,} images of {str(layout.root)!r} are nearly of one colour once decoded.",
            expected="images with something to see in them.",
            hint=f"look at {layout.files[0]!r}. Colours of more than 8 bits, values 0 and 1 where white is "
            "255, and white drawings on a transparent ground must be converted first.",
        )
    of_class = Counter(layout.labels)
    found: dict[str, Any] = {}
    for position in sorted(blank):
        label = layout.labels[position]
        of = {"count": 0, "of": of_class[label], "images": []}
        known = found.setdefault(layout.classes[label], of)
        known["count"] += 1
        known["images"] = [*known["images"], layout.files[position]][:SHOWN]
    return found


def nearly_constant(images_NCHW: NDArray[uint8]) -> list[int]:
    """Positions of images in which no channel varies: nothing is to be seen in them."""
    import numpy as np

    found: list[int] = []
    for start in range(0, len(images_NCHW), BLOCK):
        block_NCHW = images_NCHW[start : start + BLOCK]
        pixels_NCP = block_NCHW.reshape(*block_NCHW.shape[:2], -1)
        flat_N = (np.ptp(pixels_NCP, axis=2).max(axis=1) < FLAT_RANGE) | (
            pixels_NCP.std(axis=2, dtype=np.float32).max(axis=1) < FLAT_STD
        )
        found += (np.flatnonzero(flat_N) + start).tolist()
    return found


def notes_of(report: Mapping[str, Any]) -> tuple[str, ...]:
    """Near-identical and blank images in sentences, where there are some."""
    notes = []
    for where, near in report["near_identical"].items():
        asked, known = where.split(" in ")
        first, other = near["images"][0]
        notes.append(
            f"WARNING: {near['count']:,} of {near['of']:,} {asked} images are near-identical to images of "
            f"{known}, or to their mirror images (the first: {first!r}, {other!r})"
        )
    for name, blank in sorted(report["blank"].items()):
        examples = ", ".join(map(repr, blank["images"][:3]))
        notes.append(
            f"WARNING: {blank['count']:,} of {blank['of']:,} images of {name!r} are nearly of one colour "
            f"once decoded ({examples}): look at them"
        )
    return tuple(notes)


def of_counts(layout: Layout, parts: Mapping[str, Sequence[int]]) -> str:
    """What was found, and what one image of the test part weighs."""
    shown = [name if name.isprintable() else repr(name) for name in layout.classes[:6]]
    names = ", ".join(shown) + (" …" if len(layout.classes) > 6 else "")
    counts = ", ".join(f"{len(parts[part]):,} {part}" for part in ("train", "val", "test") if part in parts)
    return (
        f"{len(layout.files):,} images of {len(layout.classes)} classes ({names}): {counts}; "
        f"one test image is {100 / len(parts['test']):.2f} points"
    )


def of_labels(layout: Layout, parts: Mapping[str, Sequence[int]], hashes: Sequence[bytes]) -> tuple[str, ...]:
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
        for here, content_hash in enumerate(hashes)
        if layout.labels[other := first.setdefault(content_hash, here)] != layout.labels[here]
    ]
    if both:
        files = [layout.files[position] for position in both[0]]
        first = f"the first: {files[0]!r}, {files[1]!r}"
        notes.append(f"WARNING: the same image in two classes: {len(both):,} ({first})")
    return tuple(notes)
